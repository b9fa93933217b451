package replica

import (
	"bytes"
	"slices"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/internal/rule"
	"github.com/dramnode/dramnode/wire"
)

// A query is a read at a backup that waits for the primary's word on which version is committed.
type query struct {
	number uint64
	token  uint64
	key    []byte
	since  int64
	sent   int64
}

// maxQueries limits the reads that wait at one replica of a partition.
const maxQueries = 1024

// read serves a get from the committed version, if that is certain here.
func (p *Partition) read(now int64, r *Request, out *Effects) {
	committed, pending := p.store.Get(r.Key)
	if p.lead != nil {
		p.readLead(now, r, committed, pending, out)
		return
	}
	dirty := pending.Gen != 0 && !rule.Off(rule.DirtyAsksPrimary)
	if dirty || committed.expired(now) && !rule.Off(rule.ExpireAtPrimary) {
		p.ask(now, r, out)
		return
	}
	p.serve(now, r.Token, committed, out)
}

func (p *Partition) readLead(now int64, r *Request, committed Version, pending Pending, out *Effects) {
	if pending.Gen != 0 && rule.Off(rule.ReadCommitted) {
		committed = pending.Version
	}
	if !committed.expired(now) || rule.Off(rule.ExpireByDelete) {
		p.serve(now, r.Token, committed, out)
		return
	}
	if p.lead.writes >= p.node.Config.MaxWrites {
		p.reject(r.Token, 0, wire.StatusBusy, out)
		return
	}
	p.lead.writes++
	w := &write{Request: *r}
	w.Key, w.Origin, w.IfMatch = bytes.Clone(r.Key), Origin{}, false
	p.enqueue(now, w, out)
}

// observed begins a reply about what was met here.
func (p *Partition) observed(token uint64) Reply {
	return Reply{Token: token, Observed: true, Otherwise: wire.StatusNoQuorum, Epoch: p.row.Epoch}
}

// serve answers with what v says at now.
func (p *Partition) serve(now int64, token uint64, v Version, out *Effects) {
	r := p.observed(token)
	current := v.Gen
	if !v.Alive() || v.expired(now) {
		current = dramnode.Absent
	}
	p.fetched(&r, v, current)
	out.Replies = append(out.Replies, r)
}

// fetched fills in the answer to a get that met v.
func (p *Partition) fetched(r *Reply, v Version, current dramnode.Generation) {
	switch {
	case current != dramnode.Absent:
		r.Gen, r.Value, r.Deadline = current, v.Value, v.Deadline
	case p.row.Unaccepted() > 0:
		r.Status = wire.StatusPartitionLost
	default:
		r.Status = wire.StatusNotFound
	}
}

// ask begins a query.
func (p *Partition) ask(now int64, r *Request, out *Effects) {
	if len(p.queries) >= maxQueries {
		p.reject(r.Token, 0, wire.StatusBusy, out)
		return
	}
	p.queried++
	p.queries = append(p.queries, query{number: p.queried, token: r.Token, key: bytes.Clone(r.Key), since: now, sent: now})
	p.sendQuery(&p.queries[len(p.queries)-1], out)
}

func (p *Partition) sendQuery(q *query, out *Effects) {
	out.Sends = append(out.Sends, Message{Kind: Query, From: p.node.ID, To: p.row.Primary, Epoch: p.row.Epoch, Key: q.key, Number: q.number})
}

// onQuery answers which version is committed. This is the primary's own read of the key; the backup confirms it.
func (p *Partition) onQuery(now int64, m *Message, out *Effects) {
	if !p.Active() || !p.leased(now) {
		return
	}
	committed := p.store.Committed(m.Key)
	if committed.expired(now) && !rule.Off(rule.ExpireByDelete) {
		p.expireKey(now, m.Key, out) // the backup asks again
		return
	}
	gen := committed.Gen
	if !committed.Alive() || committed.expired(now) {
		gen = dramnode.Absent
	}
	p.answer(m, Message{Kind: Answer, Number: m.Number, Gen: gen}, out)
}

// onAnswer serves the version that the primary named, or a newer one that it has committed since. If neither is
// here yet the query is sent again in its time.
func (p *Partition) onAnswer(now int64, m *Message, out *Effects) {
	i := slices.IndexFunc(p.queries, func(q query) bool { return q.number == m.Number })
	if i < 0 {
		return
	}
	q := p.queries[i]
	committed, pending := p.store.Get(q.key)
	r := p.observed(q.token)
	switch {
	case m.Gen == dramnode.Absent:
		p.fetched(&r, Version{}, dramnode.Absent)
	case committed.Alive() && committed.Gen >= m.Gen:
		p.fetched(&r, committed, committed.Gen)
	case committed.Gen > m.Gen:
		p.fetched(&r, Version{}, dramnode.Absent)
	case pending.Gen == m.Gen:
		p.fetched(&r, pending.Version, pending.Gen)
	default:
		return
	}
	p.queries = slices.Delete(p.queries, i, i+1)
	out.Replies = append(out.Replies, r)
}

func (p *Partition) tickQueries(now int64, out *Effects) {
	p.queries = slices.DeleteFunc(p.queries, func(q query) bool {
		late := now-q.since >= p.node.Config.Report
		if late {
			p.reject(q.token, 0, wire.StatusUnavailable, out)
		}
		return late
	})
	for i := range p.queries {
		if q := &p.queries[i]; now-q.sent >= p.node.Config.Resend {
			q.sent = now
			p.sendQuery(q, out)
		}
	}
}

// dropQueries ends the reads of an older epoch.
func (p *Partition) dropQueries(out *Effects) {
	for _, q := range p.queries {
		p.reject(q.token, 0, wire.StatusUnavailable, out)
	}
	p.queries = nil
}
