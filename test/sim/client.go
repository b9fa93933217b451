package sim

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/dramnode/dramnode/internal/rule"
	"github.com/dramnode/dramnode/replica"
	"github.com/dramnode/dramnode/wire"
)

// A client runs operations and retries them as the product's clients do.
type client struct {
	w       *world
	id      uint64
	counter uint64
	open    []*op
	idle    bool
}

// An op is one operation with all its attempts. Call and ret order it among the others.
type op struct {
	kind      wire.Kind
	key, end  []byte
	origin    replica.Origin
	ifMatch   bool
	ifGen     generation
	value     int
	big       bool
	ttl       int64
	call, ret int64
	callAt    int64 // ticks
	retAt     int64

	attempts int
	refused  int           // attempts that certainly did nothing
	losses   uint32        // of the partition, in the rows that all attempts were sent by which may have been executed
	epoch    replica.Epoch // of the last of these rows
	done     bool
	failed   bool // nothing was done
	unknown  bool

	status wire.Status
	gen    generation // written, or seen
	seen   int        // a get's value
}

// An attempt is one request for an op.
type attempt struct {
	op      *op
	number  int
	client  *client
	copies  int
	refused bool
}

func (o *op) String() string {
	return fmt.Sprintf("client %d op %d kind %d %s if %v %x value %d ttl %d: [%d,%d] status %v gen %x seen %d unknown %v",
		o.origin.Client, o.origin.Counter, o.kind, o.key, o.ifMatch, o.ifGen, o.value, o.ttl, o.call, o.ret, o.status, o.gen, o.seen, o.unknown)
}

func (c *client) start() { c.w.after(c.w.between(0, c.w.hurry), c.next) }

// next begins an operation, now and then.
func (c *client) next() {
	w := c.w
	if w.healed {
		c.idle = true
		return
	}
	if len(c.open) < w.window {
		c.begin(c.pick())
	}
	pause := w.between(1, 2*w.hurry)
	if w.chance(w.rest) {
		pause = w.between(1, 3*requestLife)
	}
	w.after(pause, c.next)
}

func keyName(i int) []byte { return []byte{'a' + byte(i)} }

// pick chooses what to do.
func (c *client) pick() *op {
	w := c.w
	o := &op{kind: wire.KindPut, key: keyName(w.rng.IntN(w.keys))}
	switch {
	case w.chance(w.reads):
		o.kind = wire.KindGet
		return o
	case w.chance(w.ranges):
		o.kind, o.key = wire.KindDeleteRange, nil
		if w.rng.IntN(2) == 0 {
			o.key = keyName(w.rng.IntN(w.keys))
		}
		if w.rng.IntN(3) == 0 {
			o.end = keyName(w.keys)
		}
		return o
	case w.chance(w.deletes):
		o.kind = wire.KindDelete
	case w.chance(w.touch):
		o.kind = wire.KindTouch
	default:
		w.nextValue++
		o.value, o.big = w.nextValue, w.chance(w.big)
	}
	if w.chance(w.cas) {
		o.ifMatch, o.ifGen = true, w.history.recent(w, o.key)
	}
	if o.kind != wire.KindDelete && w.chance(w.ttl) {
		o.ttl = w.between(50, 1500)
	}
	return o
}

// begin sends the first attempt.
func (c *client) begin(o *op) {
	w := c.w
	c.counter++
	o.origin = replica.Origin{Client: c.id, Counter: c.counter}
	o.call, o.callAt = w.stamp(), w.now
	c.open = append(c.open, o)
	w.history.ops = append(w.history.ops, o)
	w.stats.ops++
	c.try(o)
}

// firstUnacked is the lowest counter that this client may still retry.
func (c *client) firstUnacked() uint64 {
	first := c.counter + 1
	for _, o := range c.open {
		first = min(first, o.origin.Counter)
	}
	return first
}

// try sends an attempt to where somebody's table says, and tries again if no answer comes.
func (c *client) try(o *op) {
	w := c.w
	if o.done {
		return
	}
	if w.now-o.callAt > requestLife-200 || o.attempts >= 8 {
		c.abandon(o)
		return
	}
	row, to := c.route(o)
	if to == nil || o.kind != wire.KindGet && row.Epoch < o.epoch && !rule.Off(rule.RetryForward) {
		w.after(w.between(20, 200), func() { c.try(o) })
		return
	}
	if !o.repeatable(row) && !rule.Off(rule.RetryWithinLoss) {
		c.abandon(o)
		return
	}
	o.attempts++
	o.losses, o.epoch = lossesOf(row), row.Epoch
	at := &attempt{op: o, number: o.attempts, client: c}
	r := replica.Request{Kind: o.kind, Epoch: row.Epoch, Key: o.key, End: o.end, IfMatch: o.ifMatch, IfGen: o.ifGen, TTL: o.ttl}
	if o.kind != wire.KindGet {
		r.Origin = o.origin
		r.Origin.FirstUnacked = c.firstUnacked()
	}
	if w.trace != nil {
		w.logf("client %d op %d attempt %d kind %d %s if %v %x value %d ttl %d epoch %d -> n%d", c.id, o.origin.Counter, at.number, o.kind, o.key, o.ifMatch, o.ifGen, o.value, o.ttl, r.Epoch, to.slot)
	}
	c.request(to, at, r)
	patience := w.between(60, w.patience)
	if o.kind == wire.KindGet && w.rng.IntN(3) == 0 {
		patience = 3 * leaseTicks // an answer that was held up for long counts
	}
	w.after(patience, func() { c.try(o) })
}

// repeatable reports whether o may be sent by row. Once the partition was lost nobody remembers whether an earlier
// attempt was executed, and was seen by others: a second execution would undo what was written since.
func (o *op) repeatable(row *replica.Row) bool {
	return o.kind == wire.KindGet || o.refused == o.attempts || o.losses == lossesOf(row)
}

// lossesOf counts how often the row's records may have been lost: a write is executed only in the epoch of the row
// that it was sent by, and epochs with the same count have the same records.
func lossesOf(row *replica.Row) uint32 { return row.LossCount + row.Doubts }

// route returns a table's row and a process that should serve o by it.
func (c *client) route(o *op) (*replica.Row, *node) {
	w := c.w
	table := w.nodes[w.rng.IntN(slots)].table
	if table == nil {
		return nil, nil
	}
	row := &table.Rows[0]
	id := row.Primary
	if o.kind == wire.KindGet && w.rng.IntN(3) > 0 {
		id = row.Sync[w.rng.IntN(len(row.Sync))]
	}
	return row, w.node(uint64(id))
}

// request brings an attempt to a process: once, late, twice or not at all.
func (c *client) request(to *node, at *attempt, r replica.Request) {
	w := c.w
	times := 1
	if !w.healed && w.chance(w.drop) {
		times = 0
	} else if !w.healed && w.chance(w.dup) && r.Kind != wire.KindGet {
		times = 2
	}
	at.copies = times
	for k := range times {
		delay := w.travel()
		if k > 0 {
			delay = w.between(0, requestLife-1)
		}
		w.on(to, delay, func() { // a copy that waits for a process which stands still gets no older: nobody looks how long it did
			now := to.clock()
			if w.healed || !w.chance(w.slowConfirm) {
				to.request(now, at, r)
				return
			}
			// The process is held up between reading its clock and looking at the key.
			limit := int64(50)
			if r.Kind == wire.KindGet {
				limit = 2 * w.lease
			}
			w.on(to, w.between(0, limit), func() { to.request(now, at, r) })
		})
	}
}

// request hands an attempt to the replica, with a reading of the clock that may be old.
func (n *node) request(now int64, at *attempt, r replica.Request) {
	n.token++
	r.Token = n.token
	n.tokens[r.Token] = at
	if at.op.kind == wire.KindPut {
		if at.op.big {
			value := replica.Copy{Value: replica.Value{Bytes: 2 * inlineBytes}}
			n.land(&value, len(r.Key), at.op.value)
			r.Value = value.Value
		} else {
			r.Value = replica.Value{Blob: n.store.Lend(at.op.value, 8), Bytes: 8}
		}
	}
	if r.Kind == wire.KindGet && n.w.rng.IntN(2) == 0 && n.glance(now, r) {
		return
	}
	key := bytes.Clone(r.Key)
	r.Key = key
	n.part.Do(now, &r, &n.out)
	n.effects()
	for i := range key { // the step is over
		key[i] = 0xCC
	}
}

// glance serves a get without a step, as nodes do where that is possible: only what is confirmed afterwards protects it.
func (n *node) glance(now int64, q replica.Request) bool {
	committed, pending := n.store.Get(q.Key)
	gets, dirty := n.part.Serves()
	overdue := committed.Alive() && committed.Deadline != 0 && committed.Deadline <= now
	if !gets || overdue || pending.Gen != 0 && !dirty {
		return false
	}
	row := n.part.Row()
	r := replica.Reply{Token: q.Token, Observed: true, Otherwise: wire.StatusNoQuorum, Epoch: row.Epoch}
	switch {
	case committed.Alive():
		r.Gen, r.Value = committed.Gen, committed.Value
	case row.Unaccepted() > 0:
		r.Status = wire.StatusPartitionLost
	default:
		r.Status = wire.StatusNotFound
	}
	n.reply(r)
	return true
}

// respond brings a reply to the client.
func (w *world) respond(n *node, at *attempt, r replica.Reply, value int) {
	if !w.healed && w.chance(w.drop) {
		return
	}
	if w.rng.IntN(2) == 0 {
		at.client.replied(at, r, value)
		return
	}
	w.after(w.travel(), func() { at.client.replied(at, r, value) })
}

// replied takes an answer. Success is believed of any attempt; a definite failure only of the latest, since an
// earlier one may be under way still.
func (c *client) replied(at *attempt, r replica.Reply, value int) {
	o := at.op
	if o.done {
		return
	}
	switch r.Status {
	case wire.StatusUnknownOutcome:
		return
	case wire.StatusOK, wire.StatusNotFound, wire.StatusPartitionLost, wire.StatusGenerationMismatch:
	default:
		if !at.refused && at.copies == 1 { // of two copies the other may still be executed
			at.refused = true
			o.refused++
		}
		return
	}
	did := r.Status == wire.StatusOK && r.Gen != 0 || o.kind == wire.KindGet
	if !did && at.number != o.attempts {
		return
	}
	o.status, o.gen, o.seen = r.Status, r.Gen, value
	c.w.stats.acked++
	if o.kind == wire.KindGet {
		c.w.stats.reads++
	}
	c.end(o)
}

// abandon ends an operation without an answer.
func (c *client) abandon(o *op) {
	o.failed = o.refused == o.attempts
	o.unknown = !o.failed
	c.end(o)
}

func (c *client) end(o *op) {
	w := c.w
	o.done, o.ret, o.retAt = true, w.stamp(), w.now
	if o.unknown || o.failed {
		o.ret = never
	}
	if w.trace != nil {
		w.logf("DONE %v", o)
	}
	c.open = slices.DeleteFunc(c.open, func(x *op) bool { return x == o })
}
