package node

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/replica"
	"github.com/dramnode/dramnode/router"
	"github.com/dramnode/dramnode/storage"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// serveKey runs an operation on a key whose partition has a replica here, as far as the table in use says.
func (rs *replicas) serveKey(d router.Decision, r *request) {
	part := &rs.parts[d.Partition]
	if r.h.Kind == wire.KindGet {
		rs.get(part, r)
		return
	}
	var q replica.Request
	if err := rs.writeRequest(&q, part, d, r); err != nil {
		rs.n.drop(r)
		rs.n.fail(r, err)
		return
	}
	rs.submit(part, r, &q)
}

// get serves from the committed value where no step is needed: it is not overdue, and nothing is pending, or this is the
// primary. The lease is looked at after the value, on a clock that is read after it. Who asks for a stale value gets what is
// committed here.
func (rs *replicas) get(part *replicaPart, r *request) {
	e, err := wire.ParseReadExt(r.h.Ext)
	if err != nil {
		rs.n.fail(r, fmt.Errorf("%w: %w", dramnode.ErrInvalid, err))
		return
	}
	stale := r.h.Flags&wire.FlagStale != 0
	part.mu.RLock()
	if !part.gets && !(stale && part.engine.Holds()) {
		part.mu.RUnlock()
		rs.submit(part, r, &replica.Request{Kind: wire.KindGet, Key: r.h.Key})
		return
	}
	var v storage.Value
	found, staged := part.store.Read(&v, r.room(), r.h.Key, 0) // whether it is overdue says the clock that is read after it
	if !part.dirty {
		// A backup, whose memory is not to be read directly.
		v.Place = 0
	}
	row, now := part.engine.Row(), rs.now()
	certain := stale || part.engine.Confirm(now, row.Epoch)
	dirty := staged && !part.dirty
	part.mu.RUnlock()
	if !stale && found == storage.Found && v.Deadline != 0 && v.Deadline <= now {
		found = storage.Overdue
	}
	var a answer
	switch {
	case !stale && (found == storage.Overdue || dirty):
		rs.n.store.Release(v.Lease)
		rs.submit(part, r, &replica.Request{Kind: wire.KindGet, Key: r.h.Key})
		return
	case !certain:
		rs.n.store.Release(v.Lease)
		a = failed(errNoLease)
	case found == storage.Missing && row.Unaccepted() > 0:
		a = failed(errLost(part.number, row))
	case found != storage.Found:
		rs.n.store.Release(v.Lease)
		a.status = wire.StatusNotFound
	default:
		rs.n.found(&a, r, &e, &v, now)
	}
	a.epoch = uint32(row.Epoch)
	rs.n.reply(r, &a)
}

var errNoLease = fmt.Errorf("%w: this node has no lease", dramnode.ErrNoQuorum)

func errLost(p uint16, row *replica.Row) error {
	return fmt.Errorf("%w: partition %d lost all copies %d times and perhaps writes %d times, and %d of these were accepted",
		dramnode.ErrPartitionLost, p, row.LossCount, row.Doubts, row.LossAccepted)
}

// lendMax is the length up to which a value that came in its message is lent to the engine, to be copied with the locks held.
const lendMax = 4 << 10

// writeRequest makes q, which is empty, the engine's request of r. A short value stays in r, to be lent.
func (rs *replicas) writeRequest(q *replica.Request, part *replicaPart, d router.Decision, r *request) error {
	e, err := wire.ParseWriteExt(r.h.Ext)
	if err != nil {
		return fmt.Errorf("%w: %w", dramnode.ErrInvalid, err)
	}
	if e.Client != 0 && e.Counter == 0 { // all of them would be taken for the same write
		return errNoCounter
	}
	q.Kind, q.Epoch, q.Key = r.h.Kind, replica.Epoch(r.h.Epoch), r.h.Key
	q.Origin.Client, q.Origin.Counter, q.Origin.FirstUnacked = e.Client, e.Counter, e.FirstUnacked
	q.IfMatch, q.IfGen, q.TTL = r.h.Flags&wire.FlagIfMatch != 0, e.IfGeneration, lifeOf(e.TTLMillis)
	if r.h.Flags&wire.FlagFence == 0 {
		q.Epoch = replica.Epoch(d.Row.Epoch) // of a sender without a table
	}
	if r.h.Kind != wire.KindPut {
		return nil
	}
	if rs.n.damaged(r) {
		return fmt.Errorf("%w: the value of %q arrived damaged", dramnode.ErrCorrupt, r.h.Key)
	}
	if r.value.Bytes == nil && len(r.body) <= lendMax {
		q.Value = replica.Value{Bytes: uint32(len(r.body)), CRC: r.h.CRC}
		return nil
	}
	if r.value.Bytes == nil {
		if r.value, err = part.store.Reserve(len(r.h.Key), len(r.body), false); err != nil {
			return err
		}
		copy(r.value.Bytes, r.body)
	}
	q.Value = replica.Value{Blob: replica.Blob(r.value.Token()), Bytes: uint32(len(r.value.Bytes)), CRC: r.h.CRC}
	r.value, r.body = storage.Reservation{}, nil // the engine's now
	return nil
}

var errNoCounter = fmt.Errorf("%w: a write of a client without its number", dramnode.ErrInvalid)

// lifeOf turns a ttl of the wire into the engine's; 0 is for ever in both.
func lifeOf(ttlMillis uint64) int64 {
	const milli = 1_000_000
	if ttlMillis > replica.MaxTTL/milli {
		return replica.MaxTTL
	}
	return int64(ttlMillis) * milli
}

// submit has the engine do q, whose value is r's body unless it has a blob. Its answer comes at once, or later from another step: then r,
// which may be on its caller's stack, is copied.
func (rs *replicas) submit(part *replicaPart, r *request, q *replica.Request) {
	var a answer
	part.mu.Lock()
	part.token++
	q.Token = part.token
	if q.Kind == wire.KindPut && q.Value.Blob == 0 {
		q.Value.Blob = replica.Blob(part.store.Lend(r.body))
	}
	part.engine.Do(rs.now(), q, &part.effects)
	own := part.effects.TakeReply(q.Token)
	if own != nil {
		rs.answerLocked(&a, part, waiter{r: r}, own)
	} else {
		kept := new(request)
		*kept = *r
		kept.body = nil // the engine has copied it
		kept.detach()
		part.waiting[q.Token] = waiter{r: kept}
	}
	all := rs.effectsLocked(part, nil, nil) // other answers are rare here
	part.mu.Unlock()
	if own != nil {
		rs.n.reply(r, &a)
	}
	rs.give(all)
}

// endedLocked takes the request that waits for a reply of the engine, with its answer.
func (rs *replicas) endedLocked(part *replicaPart, reply *replica.Reply) (e ended, ok bool) {
	w, ok := part.waiting[reply.Token]
	if !ok {
		return e, false // retired
	}
	delete(part.waiting, reply.Token)
	e.waiter = w
	rs.answerLocked(&e.a, part, w, reply)
	return e, true
}

// answerLocked makes a, which is empty, the answer of a reply. What was observed counts only if the lease and the epoch hold on a clock
// that is read now.
func (rs *replicas) answerLocked(a *answer, part *replicaPart, w waiter, reply *replica.Reply) {
	status := reply.Status
	if reply.Observed && !part.engine.Confirm(rs.now(), reply.Epoch) {
		status = reply.Otherwise
	}
	switch {
	case status == wire.StatusOK && w.part != nil:
		a.ext.Generation, a.ext.Size, a.hasExt = reply.Gen, reply.Count, true
	case status == wire.StatusOK && w.r.h.Kind == wire.KindGet:
		rs.fetchedLocked(a, part, w.r, reply)
	case status == wire.StatusOK, status == wire.StatusGenerationMismatch:
		a.status, a.ext.Generation, a.hasExt = status, reply.Gen, true
	case status == wire.StatusNotFound:
		a.status = status
	case status == wire.StatusPartitionLost:
		*a = failed(errLost(part.number, part.engine.Row()))
	case status == wire.StatusNoMemory:
		*a = failed(rs.noRoom(part.engine.Row()))
	case reply.NoRecord:
		*a = failed(rs.noRecord(part.engine.Row()))
	default:
		a.status, a.body.Bytes = status, []byte(reasons[status])
	}
	a.epoch = uint32(reply.Epoch)
}

// reasons are for people.
var reasons = map[wire.Status]string{
	wire.StatusNotOwner:       "this node does not serve the partition in this epoch",
	wire.StatusUnavailable:    "the partition is between two configurations",
	wire.StatusNoQuorum:       errNoLease.Error(),
	wire.StatusDegraded:       "too few replicas are in sync",
	wire.StatusBusy:           "too many writes of this partition or client are under way",
	wire.StatusUnknownOutcome: "the partition's configuration changed while the write was under way",
}

// fetchedLocked answers a get with the value that the engine names.
func (rs *replicas) fetchedLocked(a *answer, part *replicaPart, r *request, reply *replica.Reply) {
	e, err := wire.ParseReadExt(r.h.Ext)
	if err != nil {
		*a = failed(fmt.Errorf("%w: %w", dramnode.ErrInvalid, err))
		return
	}
	blob := uint64(reply.Value.Blob)
	v := storage.Value{
		Info:  storage.Info{Generation: reply.Gen, ValueBytes: int(reply.Value.Bytes), CRC: reply.Value.CRC, Deadline: reply.Deadline},
		Bytes: part.store.Bytes(blob), Lease: part.store.Lease(blob),
	}
	rs.n.found(a, r, &e, &v, rs.now())
}

// A rangeJob is a delete of a range of keys in all the partitions that this node is asked for.
type rangeJob struct {
	rs *replicas
	r  *request

	mu      sync.Mutex
	left    int
	begun   bool // a partition has, or may have, deleted something
	deleted uint64
	failure *answer
}

// add takes the answer of one partition. The last one ends the request. It was refused only if all have refused it.
func (j *rangeJob) add(a answer) {
	j.mu.Lock()
	j.left--
	j.deleted += a.ext.Size
	j.begun = j.begun || a.hasExt || a.status == wire.StatusUnknownOutcome
	if a.status != wire.StatusOK && j.failure == nil {
		j.failure = &a
	}
	done, failure := j.left == 0, j.failure
	if failure != nil && j.begun && failure.status != wire.StatusUnknownOutcome {
		partly := failed(fmt.Errorf("%w: some partitions were not served: %s", dramnode.ErrUnknownOutcome, failure.body.Bytes))
		partly.epoch = failure.epoch
		failure = &partly
	}
	j.mu.Unlock()
	switch {
	case !done:
	case failure != nil:
		j.rs.n.reply(j.r, failure)
	default:
		j.rs.n.reply(j.r, &answer{ext: wire.ReplyExt{Size: j.deleted}, hasExt: true})
	}
}

// serveRange lists, or deletes, the keys of the partitions whose primary this node is. All of them are served here, or
// it is refused.
func (rs *replicas) serveRange(r *request) {
	q, err := wire.ParseListRequest(r.body, nil)
	if err != nil {
		rs.n.endRange(r, failed(fmt.Errorf("%w: %w", dramnode.ErrInvalid, err)))
		return
	}
	v := rs.n.view.Load()
	if v == nil || v.Self == control.None {
		rs.n.endRange(r, failed(errNoTable))
		return
	}
	set, ok := rs.n.selected(v, q.Partitions)
	if !ok {
		rs.n.endRange(r, failed(fmt.Errorf("%w: a partition number is too large", dramnode.ErrInvalid)))
		return
	}
	if r.h.Kind == wire.KindDeleteRange {
		rs.deleteRange(r, &q, set)
		return
	}
	rs.n.endRange(r, rs.list(&q, set))
}

// endRange answers a request and frees its body.
func (n *Node) endRange(r *request, a answer) {
	n.drop(r)
	n.reply(r, &a)
}

// list makes a page of the committed values. Overdue ones are listed until their delete is committed, like everywhere else.
func (rs *replicas) list(q *wire.ListRequest, set partitionSet) answer {
	before := make([]replica.Epoch, len(rs.parts))
	if p, err := rs.epochs(set, before); err != nil {
		return rs.refusedRange(p, err)
	}
	page := rs.n.page(q, set, 0)
	after := make([]replica.Epoch, len(rs.parts))
	if p, err := rs.epochs(set, after); err != nil {
		return rs.refusedRange(p, err)
	}
	for p := range before {
		if before[p] != after[p] {
			return failed(errNotServing) // keys could be missing from the page
		}
	}
	return rs.n.pageAnswer(&page)
}

// errNotPrimary stands for wire.StatusNotOwner, which is no error of the root package.
var errNotPrimary = errors.New("node: another node is the primary")

func (rs *replicas) refusedRange(p uint16, err error) answer {
	if !errors.Is(err, errNotPrimary) {
		return failed(err)
	}
	row := rs.n.view.Load().Table.Rows[p]
	return answer{status: wire.StatusNotOwner, epoch: row.Epoch, body: transport.Body{Bytes: control.AppendRow(nil, row)}}
}

// epochs fills in the epochs in which this node, as their primary, serves the partitions of the set right now, or
// returns the first that it does not serve, and why. One that has lost entries, which was not accepted yet, is named only if it is all that is wrong.
func (rs *replicas) epochs(set partitionSet, into []replica.Epoch) (p uint16, err error) {
	for i := range rs.parts {
		part := &rs.parts[i]
		if !set.has(part.number) {
			continue
		}
		part.mu.RLock()
		row := part.engine.Row()
		active, leased := part.engine.Active(), part.engine.Confirm(rs.now(), row.Epoch)
		part.mu.RUnlock()
		switch {
		case row.Primary != rs.shared.ID:
			return part.number, errNotPrimary
		case !active:
			return part.number, errNotServing
		case !leased:
			return part.number, errNoLease
		case row.Unaccepted() > 0:
			p, err = part.number, errLost(part.number, row)
		}
		into[i] = row.Epoch
	}
	return p, err
}

// deleteRange has the engine of each partition delete its keys of the range.
func (rs *replicas) deleteRange(r *request, q *wire.ListRequest, set partitionSet) {
	e, err := wire.ParseWriteExt(r.h.Ext)
	if err != nil {
		rs.n.endRange(r, failed(fmt.Errorf("%w: %w", dramnode.ErrInvalid, err)))
		return
	}
	if e.Client != 0 && e.Counter == 0 {
		rs.n.endRange(r, failed(errNoCounter))
		return
	}
	if p, err := rs.epochs(set, make([]replica.Epoch, len(rs.parts))); err != nil && !errors.Is(err, dramnode.ErrPartitionLost) {
		rs.n.endRange(r, rs.refusedRange(p, err))
		return
	}
	start := bytes.Clone(q.Start)
	if len(q.After) > 0 && bytes.Compare(q.After, q.Start) >= 0 {
		start = append(bytes.Clone(q.After), 0)
	}
	end := bytes.Clone(q.End)
	origin := replica.Origin{Client: e.Client, Counter: e.Counter, FirstUnacked: e.FirstUnacked}
	fenced, fence := r.h.Flags&wire.FlagFence != 0, replica.Epoch(r.h.Epoch)
	rs.n.drop(r)
	r.body = nil
	job := &rangeJob{rs: rs, r: r, left: 1}
	for i := range rs.parts {
		if part := &rs.parts[i]; set.has(part.number) {
			job.mu.Lock()
			job.left++
			job.mu.Unlock()
			rs.step(part, func(part *replicaPart, now int64) {
				part.token++
				part.waiting[part.token] = waiter{part: job}
				epoch := fence
				if !fenced {
					epoch = part.engine.Row().Epoch
				}
				part.engine.Do(now, &replica.Request{
					Kind: wire.KindDeleteRange, Token: part.token, Epoch: epoch, Key: nilIfEmpty(start), End: nilIfEmpty(end), Origin: origin,
				}, &part.effects)
			})
		}
	}
	job.add(answer{}) // its own
}

func nilIfEmpty(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// placePut reserves memory for a value that is on its way.
func (rs *replicas) placePut(r *request, bytes int) (storage.Reservation, error) {
	if err := dramnode.CheckKey(r.h.Key); err != nil {
		return storage.Reservation{}, err
	}
	v := rs.n.view.Load()
	if v == nil {
		return storage.Reservation{}, errNoTable
	}
	return rs.parts[v.Partition(r.h.Key)].store.Reserve(len(r.h.Key), bytes, false)
}
