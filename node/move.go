package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/storage"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// A move hands one partition to its next owner, at the source. Entries go in order of generation while
// the partition serves; then it is frozen, the tail follows, the target acknowledges, and the
// publisher commits. Only the table ends a move: it names either the new owner or the old one.
type move struct {
	n         *Node
	partition uint16
	id        uint64
	target    control.Member
	link      transport.Link
}

const (
	moveWindow      = 64               // entries in flight
	moveWindowBytes = 16 << 20         // and their bytes; one entry always fits
	moveBatch       = 64               // entries read from storage at a time
	moveBatchBytes  = 1 << 20          //
	moveCallTimeout = 10 * time.Second //
	moveRetryMin    = 5 * time.Millisecond
	moveRetryMax    = 500 * time.Millisecond
	moveGiveUp      = time.Second // pause before a failed move is called off, so that a full target is not asked at once again
	moveLagRounds   = 64          // batches after which a partition that is written faster than sent is frozen all the same
)

func (m *move) run(ctx context.Context) {
	err := m.send(ctx)
	kind := control.ProposeDone
	if err != nil {
		if ctx.Err() != nil {
			return // the table has decided
		}
		m.n.cfg.Log.Warn().Err(err).Uint16("partition", m.partition).Str("target", m.target.Name).Msg("move failed")
		kind = control.ProposeAbort
		if !m.frozen() {
			wait(ctx, moveGiveUp)
		}
	} else if !m.setPhase(handover) {
		return
	}
	m.propose(ctx, kind)
}

// propose repeats until the table has decided, which cancels ctx.
func (m *move) propose(ctx context.Context, kind control.ProposalKind) {
	p := control.Proposal{Kind: kind, Member: m.n.self, Moves: []control.Move{{Partition: ring.Partition(m.partition), MoveID: m.id}}}
	for ctx.Err() == nil {
		if err := m.n.publisher.Propose(ctx, p); err != nil && ctx.Err() == nil {
			m.n.cfg.Log.Debug().Err(err).Uint16("partition", m.partition).Msg("publisher does not hear of the move")
		}
		wait(ctx, moveRetryMax)
	}
}

// wait pauses for about d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d/2 + rand.N(d))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func (m *move) part() *part { return &m.n.parts[m.partition] }

func (m *move) frozen() bool {
	p := m.part()
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.moveID == m.id && p.phase != serving
}

// setPhase reports false when the table has decided meanwhile. Once it returned true no operation
// that the phase blocks is under way.
func (m *move) setPhase(ph phase) bool {
	p := m.part()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.moveID != m.id {
		return false
	}
	m.n.becomeLocked(m.partition, p.epoch, ph)
	return true
}

// send returns nil when the target has everything and the partition is frozen.
func (m *move) send(ctx context.Context) (err error) {
	if m.link, err = m.n.peers.link(m.target.Addr); err != nil {
		return err
	}
	if err := m.begin(ctx); err != nil {
		return err
	}
	stream, err := m.n.store.StartStream(m.partition)
	if err != nil {
		return err
	}
	defer stream.Close()
	w := newWindow(ctx)
	defer w.close()
	if err := m.copyLive(ctx, stream, w); err != nil {
		return err
	}
	if !m.setPhase(frozen) {
		return context.Canceled
	}
	for caughtUp := false; !caughtUp; {
		if caughtUp, err = m.sendBatch(ctx, stream, w); err != nil {
			return err
		}
	}
	if err := w.drain(); err != nil {
		return err
	}
	stats, err := m.n.store.PartitionStats(m.partition)
	if err != nil {
		return err
	}
	return m.step(ctx, wire.MoveExt{Step: wire.MoveEnd, Generation: stats.Last})
}

// begin repeats while the target does not know of the move yet: its table may be a moment behind.
func (m *move) begin(ctx context.Context) error {
	deadline := time.Now().Add(moveCallTimeout)
	for pause := moveRetryMin; ; pause = min(2*pause, moveRetryMax) {
		err := m.step(ctx, wire.MoveExt{Step: wire.MoveBegin})
		if err == nil || !errors.Is(err, dramnode.ErrUnavailable) || time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
		wait(ctx, pause)
	}
}

// copyLive sends what there is while the partition serves, until little is left.
func (m *move) copyLive(ctx context.Context, stream *storage.Stream, w *window) error {
	stats, err := m.n.store.PartitionStats(m.partition)
	if err != nil {
		return err
	}
	rounds := moveLagRounds + stats.Entries/moveBatch*2 + int(stats.ValueBytes/moveBatchBytes)*2
	for range rounds {
		caughtUp, err := m.sendBatch(ctx, stream, w)
		if err != nil {
			return err
		}
		if caughtUp {
			break
		}
	}
	return w.drain()
}

func (m *move) sendBatch(ctx context.Context, stream *storage.Stream, w *window) (caughtUp bool, err error) {
	now := m.n.now()
	items, caughtUp, err := stream.Next(nil, moveBatch, moveBatchBytes, now)
	if err != nil {
		return false, err
	}
	for i := range items {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = w.acquire(len(items[i].Value))
		}
		if err != nil {
			m.n.store.Release(items[i].Lease)
			continue
		}
		m.sendItem(&items[i], now, w)
	}
	return caughtUp, err
}

func (m *move) header(e wire.MoveExt, key []byte, crc uint32) []byte {
	e.MoveID, e.Partition = m.id, m.partition
	h := wire.Header{Kind: wire.KindMove, TableVersion: m.n.version.Load(), CRC: crc, Ext: wire.AppendMoveExt(nil, e), Key: key}
	return wire.AppendHeader(nil, &h)
}

func (m *move) sendItem(it *storage.Item, now int64, w *window) {
	e := wire.MoveExt{Step: wire.MoveValue, Generation: it.Generation, TTLMillis: ttlOf(now, it.Deadline)}
	if it.Deleted {
		e.Step, e.TTLMillis = wire.MoveDelete, 0
	}
	c := &moveCall{w: w, bytes: len(it.Value)}
	c.call = transport.Call{
		Header:    m.header(e, it.Key, it.CRC),
		Body:      transport.Body{Bytes: it.Value, Releaser: leases{m.n.store}, Token: uint64(it.Lease)},
		Deadline:  time.Now().Add(moveCallTimeout),
		Completer: c,
	}
	m.link.Call(&c.call)
}

// step sends one request without body and waits for its reply.
func (m *move) step(ctx context.Context, e wire.MoveExt) error {
	w := newWindow(ctx)
	defer w.close()
	if err := w.acquire(0); err != nil {
		return err
	}
	c := &moveCall{w: w}
	c.call = transport.Call{Header: m.header(e, nil, 0), Deadline: time.Now().Add(moveCallTimeout), Completer: c}
	m.link.Call(&c.call)
	if err := w.drain(); err != nil {
		return err
	}
	return ctx.Err()
}

// A moveCall is one entry on its way.
type moveCall struct {
	call  transport.Call
	w     *window
	bytes int
}

// PlaceReply implements transport.Completer; replies to moves are short.
func (c *moveCall) PlaceReply(_ *transport.Call, _ []byte, bytes int) ([]byte, error) {
	return nil, fmt.Errorf("%w: a reply of %d bytes to a move", dramnode.ErrTooLarge, bytes)
}

// Complete implements transport.Completer.
func (c *moveCall) Complete(_ *transport.Call, header, body []byte, err error) {
	_, err = replyOf(header, body, err)
	c.w.release(1, c.bytes, err)
}

// A window limits what is in flight and keeps the first error. Nobody waits in it once ctx has ended;
// the calls then end by themselves.
type window struct {
	ctx   context.Context
	close func() bool

	mu    sync.Mutex
	free  sync.Cond
	calls int
	bytes int
	err   error
}

func newWindow(ctx context.Context) *window {
	w := &window{ctx: ctx}
	w.free.L = &w.mu
	w.close = context.AfterFunc(ctx, func() { w.release(0, 0, ctx.Err()) })
	return w
}

// acquire waits for room.
func (w *window) acquire(bytes int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.err == nil && w.calls > 0 && (w.calls >= moveWindow || w.bytes+bytes > moveWindowBytes) {
		w.free.Wait()
	}
	if w.err != nil {
		return w.err
	}
	w.calls++
	w.bytes += bytes
	return nil
}

func (w *window) release(calls, bytes int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls -= calls
	w.bytes -= bytes
	if w.err == nil {
		w.err = err
	}
	w.free.Broadcast()
}

// drain waits until nothing is in flight and returns the first error.
func (w *window) drain() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.calls > 0 && w.ctx.Err() == nil {
		w.free.Wait()
	}
	return w.err
}

// serveMove is the target's side. Entries are stored on the poller; begin and end may take longer.
func (n *Node) serveMove(r *request) {
	e, err := wire.ParseMoveExt(r.h.Ext)
	if err == nil && int(e.Partition) >= len(n.parts) {
		err = fmt.Errorf("partition %d of %d", e.Partition, len(n.parts))
	}
	if err != nil {
		n.drop(r)
		n.reply(r, failed(fmt.Errorf("%w: %w", dramnode.ErrInvalid, err)))
		return
	}
	switch e.Step {
	case wire.MoveBegin:
		n.later(r, func(r *request) { n.reply(r, outcome(n.beginReceive(e))) })
	case wire.MoveEnd:
		n.later(r, func(r *request) { n.reply(r, outcome(n.endReceive(e))) })
	default:
		err := n.receive(e, r)
		n.drop(r)
		n.reply(r, outcome(err))
	}
}

func outcome(err error) answer {
	if err != nil {
		return failed(err)
	}
	return answer{}
}

func (n *Node) beginReceive(e wire.MoveExt) error {
	part := &n.parts[e.Partition]
	part.cleaning.Lock()
	defer part.cleaning.Unlock()
	v := n.view.Load()
	if v == nil {
		return errNoTable
	}
	row := v.Table.Rows[e.Partition]
	part.mu.Lock()
	if v.Self == control.None || row.MoveTo != v.Self || row.MoveID != e.MoveID || part.epoch != 0 {
		part.mu.Unlock()
		return fmt.Errorf("%w: move %d of partition %d is not known here", dramnode.ErrUnavailable, e.MoveID, e.Partition)
	}
	part.receiving, part.received = 0, 0
	part.mu.Unlock()
	n.empty(e.Partition)
	if err := n.store.StartReceive(e.Partition); err != nil {
		return err
	}
	part.mu.Lock()
	defer part.mu.Unlock()
	part.receiving = e.MoveID
	return nil
}

var errNotReceiving = fmt.Errorf("%w: not receiving this move any more", dramnode.ErrUnavailable)

func (n *Node) receive(e wire.MoveExt, r *request) error {
	it := storage.Item{Key: r.h.Key, Generation: e.Generation, CRC: r.h.CRC, Deadline: deadlineOf(n.now(), e.TTLMillis), Deleted: e.Step == wire.MoveDelete, Value: r.body}
	if err := dramnode.CheckKey(it.Key); err != nil {
		return err
	}
	if !it.Deleted && n.damaged(r) {
		return fmt.Errorf("%w: the entry %q arrived damaged", dramnode.ErrCorrupt, it.Key)
	}
	part := &n.parts[e.Partition]
	part.mu.RLock()
	defer part.mu.RUnlock()
	if part.receiving != e.MoveID {
		return errNotReceiving
	}
	if r.value.Bytes == nil {
		_, err := n.store.Apply(e.Partition, it)
		return err
	}
	applied, err := n.store.ApplyReserved(e.Partition, it, r.value)
	if applied {
		r.value = storage.Reservation{}
	}
	return err
}

func (n *Node) endReceive(e wire.MoveExt) error {
	part := &n.parts[e.Partition]
	part.mu.Lock()
	defer part.mu.Unlock()
	if part.receiving != e.MoveID {
		return errNotReceiving
	}
	part.received = e.MoveID
	n.janitor.add(func() {
		if err := n.store.EndReceive(e.Partition); err != nil {
			n.cfg.Log.Error().Err(err).Msg("move not ended")
		}
	})
	return nil
}
