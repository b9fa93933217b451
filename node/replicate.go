package node

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/replica"
	"github.com/dramnode/dramnode/storage"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// messageTimeout ends a call that carries a message of a replica. The engine sends again what it needs sooner than that.
const messageTimeout = 5 * time.Second

// shortValue is the length up to which a copy costs less than a lease, which is two holds of the shard's lock.
const shortValue = 512

// A carrier brings one message to another node. Its reply may carry the message's answer. Pooled.
type carrier struct {
	rs   *replicas
	part *replicaPart
	call transport.Call

	header [transport.MaxHeaderBytes]byte
	short  [shortValue]byte    // the value that the message carries, if it is short
	lease  storage.Lease       // on it, if it is not
	list   storage.Reservation // with a long list
	parcel parcel

	// The network holds the body, and the call may end before it lets go.
	mu       sync.Mutex
	bodyHeld bool
	ended    bool
}

// A parcel is a long value on its way to another replica: while it is, it is not sent again.
type parcel struct {
	partition uint16
	to        replica.ID // 0: no parcel
	kind      replica.Kind
	number    uint64
}

// depart notes that p is on its way. False: it was already.
func (rs *replicas) depart(p parcel) bool {
	rs.bulkMu.Lock()
	defer rs.bulkMu.Unlock()
	if _, ok := rs.bulk[p]; ok {
		return false
	}
	rs.bulk[p] = struct{}{}
	return true
}

// arrive notes that it is not any more.
func (rs *replicas) arrive(p parcel) {
	if p.to == 0 {
		return
	}
	rs.bulkMu.Lock()
	defer rs.bulkMu.Unlock()
	delete(rs.bulk, p)
}

var carriers = sync.Pool{New: func() any { return new(carrier) }}

// sendLocked sends m, or loses it.
func (rs *replicas) sendLocked(part *replicaPart, m *replica.Message) {
	table := rs.table.Load()
	addr, ok := table.of[m.To]
	if !ok {
		return
	}
	link, err := rs.n.peers.link(addr)
	if err != nil {
		return
	}
	c := carriers.Get().(*carrier)
	c.rs, c.part, c.bodyHeld, c.ended = rs, part, false, false
	list, ok := c.load(m)
	if !ok {
		c.recycle()
		return
	}
	m.Used, m.Crowded = rs.used(), rs.shared.Records.Full()
	c.call.Header = m.AppendHeader(c.header[:0], replica.Envelope{Cluster: table.cluster, Era: table.era, Partition: part.number}, list)
	c.call.Timeout, c.call.Completer = messageTimeout, c
	link.Call(&c.call)
}

// load makes the body of m ready. False: it must not be sent now.
func (c *carrier) load(m *replica.Message) (list []byte, ok bool) {
	body := []byte(nil)
	if v := m.Carried(); v != nil {
		if v.Value.Bytes > transport.CopyBytes {
			if p := (parcel{c.part.number, m.To, m.Kind, max(m.Staged, uint64(v.Gen))}); c.rs.depart(p) {
				c.parcel = p
			} else {
				return nil, false
			}
		}
		body = c.part.store.Bytes(uint64(v.Value.Blob))
		if len(body) <= shortValue {
			body = c.short[:copy(c.short[:], body)]
		} else {
			c.lease = c.part.store.Lease(uint64(v.Value.Blob))
		}
	} else if list = m.AppendList(nil); len(list) > 0 {
		body = list
		if len(list) > transport.CopyBytes {
			var err error
			if c.list, err = c.rs.n.store.ReserveScratch(len(list)); err != nil {
				return nil, false
			}
			copy(c.list.Bytes, list)
			body = c.list.Bytes
		}
	}
	if len(body) > 0 {
		c.call.Body, c.bodyHeld = transport.Body{Bytes: body, Releaser: c}, true
	}
	return list, true
}

// Release implements transport.Releaser.
func (c *carrier) Release(uint64) {
	c.mu.Lock()
	c.bodyHeld = false
	ended := c.ended
	c.mu.Unlock()
	if ended {
		c.recycle()
	}
}

// PlaceReply implements transport.Completer: answers are short.
func (c *carrier) PlaceReply(*transport.Call, []byte, int) ([]byte, error) {
	return nil, fmt.Errorf("%w: a long answer to a message between replicas", dramnode.ErrInvalid)
}

// Complete implements transport.Completer.
func (c *carrier) Complete(_ *transport.Call, header, body []byte, err error) {
	if err == nil {
		c.rs.answered(c.part, header, body)
	}
	c.rs.arrive(c.parcel)
	c.mu.Lock()
	c.ended = true
	held := c.bodyHeld
	c.mu.Unlock()
	if !held {
		c.recycle()
	}
}

func (c *carrier) recycle() {
	c.rs.n.store.Release(c.lease)
	c.rs.n.store.Abort(c.list)
	c.lease, c.list, c.parcel, c.call = 0, storage.Reservation{}, parcel{}, transport.Call{}
	carriers.Put(c)
}

// answered steps the message that a reply carries, if it does.
func (rs *replicas) answered(part *replicaPart, header, body []byte) {
	h, err := wire.ParseHeader(header)
	if err != nil || h.Status != wire.StatusOK || len(h.Ext) == 0 {
		return // refused, or answered by a message of its own
	}
	h.Flags &^= wire.FlagReply
	e, m, err := replica.ParseMessage(&h)
	if err == nil && m.Carried() != nil {
		err = fmt.Errorf("%w: a reply with a value", replica.ErrMessage)
	}
	if err == nil {
		err = m.ParseList(body, h.CRC)
	}
	if err != nil || !rs.mine(&e, &m) || e.Partition != part.number {
		rs.n.cfg.Log.Debug().Err(err).Msg("answer of another replica not understood")
		return
	}
	rs.heard(&m)
	rs.step(part, func(part *replicaPart, now int64) { part.engine.Step(now, &m, &part.effects) })
}

// mine reports whether a message is for this life of this process in this cluster.
func (rs *replicas) mine(e *replica.Envelope, m *replica.Message) bool {
	t := rs.table.Load()
	return t != nil && e.Cluster == t.cluster && e.Era == t.era && m.To == rs.shared.ID && int(e.Partition) < len(rs.parts)
}

// An incoming is a message while it is stepped.
type incoming struct {
	m    replica.Message
	room []byte // empty, for the header
	// What goes back in the transport's reply: the first short answer.
	header []byte
	list   []byte
}

// answer takes m for the transport's reply, if it is fit for it.
func (in *incoming) answer(rs *replicas, part *replicaPart, m *replica.Message) bool {
	if in.header != nil || m.To != in.m.From || m.Carried() != nil {
		return false
	}
	list := m.AppendList(nil)
	if len(list) > answerInline {
		return false
	}
	table := rs.table.Load()
	m.Used, m.Crowded = rs.used(), rs.shared.Records.Full()
	in.header = m.AppendHeader(in.room, replica.Envelope{Cluster: table.cluster, Era: table.era, Partition: part.number}, list)
	in.list = list
	return true
}

// placeMessage reserves memory for the body of a message of another replica.
func (rs *replicas) placeMessage(r *request, bytes int) (storage.Reservation, error) {
	e, m, err := replica.ParseMessage(&r.h)
	if err != nil {
		return storage.Reservation{}, fmt.Errorf("%w: %w", dramnode.ErrInvalid, err)
	}
	if err := m.CheckBody(bytes); err != nil {
		return storage.Reservation{}, fmt.Errorf("%w: %w", dramnode.ErrInvalid, err)
	}
	if !rs.mine(&e, &m) {
		return storage.Reservation{}, errOtherLife
	}
	if m.Carried() == nil {
		return rs.n.store.ReserveScratch(bytes)
	}
	return rs.reserve(&rs.parts[e.Partition], &m)
}

var errOtherLife = fmt.Errorf("%w: a message for another process or cluster", dramnode.ErrUnavailable)

// reserve makes room for the value that m carries. What may be refused leaves some room to what may not, and what a learner
// is sent to catch up leaves room for new values.
func (rs *replicas) reserve(part *replicaPart, m *replica.Message) (storage.Reservation, error) {
	if m.Kind == replica.Fill && rs.used() > learnPercent {
		return storage.Reservation{}, fmt.Errorf("%w: no more copies: this node is %d %% full", dramnode.ErrNoMemory, rs.used())
	}
	return part.store.Reserve(len(m.Key), int(m.Carried().Value.Bytes), !refusable(m))
}

func refusable(m *replica.Message) bool { return m.Kind == replica.Stage || m.Kind == replica.Fill }

// serveMessage steps a message of another replica.
func (rs *replicas) serveMessage(r *request) {
	e, m, err := replica.ParseMessage(&r.h)
	if err == nil {
		err = m.CheckBody(len(r.body))
	}
	switch {
	case err != nil:
		err = fmt.Errorf("%w: %w", dramnode.ErrInvalid, err)
	case !rs.mine(&e, &m):
		err = errOtherLife
	case m.Carried() != nil:
		err = rs.takeValue(&rs.parts[e.Partition], r, &m)
	default:
		err = m.ParseList(r.body, r.h.CRC)
	}
	if err != nil {
		rs.n.drop(r)
		rs.n.fail(r, err)
		return
	}
	rs.receive(&rs.parts[e.Partition], r, &m)
	rs.n.drop(r) // a list
}

// takeValue gives m the value that came with it. Where there is no room a Stage or Fill says so to the engine.
func (rs *replicas) takeValue(part *replicaPart, r *request, m *replica.Message) error {
	if rs.n.damaged(r) {
		return fmt.Errorf("%w: the value of %q arrived damaged", dramnode.ErrCorrupt, m.Key)
	}
	res := r.value
	if res.Bytes == nil && len(r.body) > 0 {
		var err error
		if res, err = rs.reserve(part, m); err != nil {
			if !refusable(m) {
				return err
			}
			m.Carried().Carried = false
			return nil
		}
		copy(res.Bytes, r.body)
	}
	r.value = storage.Reservation{} // the engine's now
	m.Carried().Value.Blob = replica.Blob(res.Token())
	return nil
}

// refuseValue tells the engine of a Stage or Fill whose value found no room, and reports whether that answered r.
func (rs *replicas) refuseValue(r *request, cause error) bool {
	if r.h.Kind != wire.KindReplica || !errors.Is(cause, dramnode.ErrNoMemory) {
		return false
	}
	e, m, err := replica.ParseMessage(&r.h)
	if err != nil || !rs.mine(&e, &m) || m.Carried() == nil || !refusable(&m) {
		return false
	}
	m.Carried().Carried = false
	rs.receive(&rs.parts[e.Partition], r, &m)
	return true
}

func (rs *replicas) receive(part *replicaPart, r *request, m *replica.Message) {
	rs.heard(m)
	in := incoming{m: *m}
	if r.from != nil {
		in.room = r.from.Scratch[:0]
	}
	var room [stepAnswers]ended
	part.mu.Lock()
	part.engine.Step(rs.now(), &in.m, &part.effects)
	all := rs.effectsLocked(part, &in, room[:0])
	part.mu.Unlock()
	rs.give(all)
	rs.acknowledge(r, &in)
}

// acknowledge ends the transport's request, with the answer of the engine if it has one.
func (rs *replicas) acknowledge(r *request, in *incoming) {
	rs.n.count(r.h.Kind, wire.StatusOK)
	header, body := in.header, transport.Body{Bytes: in.list}
	if header == nil {
		header = wire.AppendHeader(in.room, &wire.Header{Kind: wire.KindReplica})
	}
	wire.MarkReply(header)
	if r.from != nil {
		r.from.Reply(header, body)
		return
	}
	if err := r.later.Respond(header, body); err != nil {
		rs.n.cfg.Log.Error().Err(err).Msg("answer to a replica not sent")
	}
}
