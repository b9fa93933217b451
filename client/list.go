package client

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"math/bits"
	"slices"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/wire"
)

// A Query says which keys are meant: those with Prefix in [Start,End) that come after After. What is
// empty does not restrict.
type Query struct {
	Prefix     []byte
	Start, End []byte
	After      []byte
	Limit      int // most keys that List yields; 0: no limit
}

// An Entry is one key of a List. Key is the caller's.
type Entry struct {
	Key        []byte
	Generation dramnode.Generation
	Size       int64 // of the value, in bytes
}

func (q Query) request() (wire.ListRequest, error) {
	r := wire.ListRequest{Start: q.Start, End: q.End, After: q.After, Limit: wire.ListPageKeys}
	if bytes.Compare(q.Prefix, r.Start) > 0 {
		r.Start = q.Prefix
	}
	if end := wire.PrefixEnd(q.Prefix); len(r.End) == 0 || end != nil && bytes.Compare(end, r.End) < 0 {
		r.End = end
	}
	for _, key := range [][]byte{q.Prefix, q.Start, q.End, q.After} {
		if len(key) > dramnode.MaxKeyBytes {
			return r, fmt.Errorf("client: %w: a bound of %d bytes, keys have at most %d", dramnode.ErrInvalid, len(key), dramnode.MaxKeyBytes)
		}
	}
	if q.Limit < 0 {
		return r, fmt.Errorf("client: %w: a limit of %d keys", dramnode.ErrInvalid, q.Limit)
	}
	return r, nil
}

// List yields the keys of the whole cluster in bytewise order. It asks all nodes page by page; each page
// may take Config.Timeout, or until the context ends. The first error ends the list: a partition that
// cannot be reached is an error and never a gap. What is written meanwhile may or may not be seen.
func (c *Client) List(ctx context.Context, q Query) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		r, err := q.request()
		left := q.Limit
		for more := true; more && err == nil; {
			if left > 0 {
				r.Limit = uint32(min(left, wire.ListPageKeys))
			}
			var page []Entry
			if page, more, err = c.page(ctx, r); err != nil {
				break
			}
			for _, e := range page {
				if !yield(e, nil) {
					return
				}
				if left--; left == 0 {
					return
				}
			}
			if more {
				r.After = page[len(page)-1].Key
			}
		}
		if err != nil {
			yield(Entry{}, err)
		}
	}
}

// page merges one page of every node. A node that has more hides what comes after its last key, so the
// merged page ends where the first such node ends.
func (c *Client) page(ctx context.Context, r wire.ListRequest) (page []Entry, more bool, err error) {
	var bound []byte
	err = c.scatter(ctx, wire.KindList, r, func(reply *reply) error {
		body := bytes.Clone(reply.body) // the keys stay in it
		list, err := wire.ParseListReply(body, nil)
		if err != nil {
			return fmt.Errorf("%w: %w", errReply, err)
		}
		for _, e := range list.Entries {
			if bytes.Compare(e.Key, r.After) <= 0 {
				return fmt.Errorf("%w: the list steps back", errReply) // it would never end
			}
			page = append(page, Entry{Key: e.Key, Generation: e.Generation, Size: int64(e.Size)})
		}
		if list.More {
			last := list.Entries[len(list.Entries)-1].Key
			if bound == nil || bytes.Compare(last, bound) < 0 {
				bound = last
			}
		}
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	slices.SortFunc(page, func(a, b Entry) int { return bytes.Compare(a.Key, b.Key) })
	if bound != nil {
		page = slices.DeleteFunc(page, func(e Entry) bool { return bytes.Compare(e.Key, bound) > 0 })
	}
	return page, bound != nil, nil
}

// DeleteRange deletes the keys that q means and returns how many there were. Limit and After must be
// empty. After an error some may be deleted. What an attempt deleted whose answer was lost is not counted.
func (c *Client) DeleteRange(ctx context.Context, q Query) (deleted uint64, err error) {
	r, err := q.request()
	if err != nil {
		return 0, err
	}
	if q.Limit != 0 || len(q.After) != 0 {
		return 0, fmt.Errorf("client: %w: DeleteRange takes neither After nor Limit", dramnode.ErrInvalid)
	}
	err = c.scatter(ctx, wire.KindDeleteRange, r, func(r *reply) error {
		deleted += r.ext.Size
		return nil
	})
	return deleted, err
}

// scatter asks the owner of every partition once and calls got with each good reply. A node that has lost
// a partition meanwhile refuses; then the partitions that are left are asked for by the newer table.
func (c *Client) scatter(ctx context.Context, kind wire.Kind, r wire.ListRequest, got func(*reply) error) error {
	s := scatter{client: c, request: r, got: got, numbers: numbers{acks: &c.acks}}
	s.of = op{kind: kind, deadline: c.deadline(ctx), numbers: &s.numbers}
	v := c.view.Load()
	s.left = newBitmap(len(v.table.Rows))
	if kind == wire.KindDeleteRange {
		defer s.numbers.end()
		c.asWrite(&s.of, wire.WriteExt{})
		s.of.number()
		s.doubted = make([]*view, len(v.table.Rows))
		s.of.deadline = earlier(s.of.deadline, time.Now().Add(recordedLife))
	}
	for {
		if err := ctx.Err(); err != nil {
			return s.lastWord(fmt.Errorf("client: %w: %w", dramnode.ErrUnavailable, context.Cause(ctx)))
		}
		if err := s.prepare(c.view.Load()); err != nil {
			return s.lastWord(err)
		}
		retry, leader, next := c.round(ctx, s.ops, s.live, s.end)
		s.noteDoubts()
		err := s.err
		if err == nil && len(retry) > 0 {
			err = c.again(ctx, &s.ops[leader], next)
		}
		for _, i := range retry {
			s.ops[i].end(c)
		}
		if err != nil || len(retry) == 0 {
			return s.lastWord(err)
		}
		s.of.try++
	}
}

// A scatter is one request to all owners. As a write it has one id: each partition keeps its own record of it.
type scatter struct {
	client  *Client
	request wire.ListRequest
	got     func(*reply) error
	of      op // what all ops begin as
	numbers numbers

	left    bitmap   // partitions without answer
	doubted []*view  // of a write, by partition; as in op
	sets    []bitmap // what each op asks for
	ops     []op
	live    []int // all of them
	err     error
}

// A listShare is what one op asks for: partitions on the move apart, so that a refusal because of one of them does not cost
// the answer for all the others; and those of a write that is remembered by their epoch, which fences it.
type listShare struct {
	owner  uint16
	moving bool
	fence  uint32
}

// prepare makes an op for each share of the partitions that are left.
func (s *scatter) prepare(v *view) error {
	t := v.table
	if len(newBitmap(len(t.Rows))) != len(s.left) {
		return fmt.Errorf("client: %w: the cluster was replaced by another", dramnode.ErrUnavailable)
	}
	var shares []listShare
	at := map[listShare]int{}
	s.sets = nil
	for p, row := range t.Rows {
		if !s.left.has(p) {
			continue
		}
		share := listShare{owner: row.Owner, moving: row.MoveTo != control.None}
		if s.of.write() {
			share.fence = row.Epoch
			if d := s.doubted[p]; d != nil && !recordsKept(d.table, t, ring.Partition(p)) {
				return errRecordsLost
			}
		}
		i, ok := at[share]
		if !ok {
			i = len(shares)
			at[share] = i
			shares = append(shares, share)
			s.sets = append(s.sets, make(bitmap, len(s.left)))
		}
		s.sets[i].set(p)
	}
	return s.fill(v, shares)
}

func (s *scatter) fill(v *view, shares []listShare) error {
	s.ops, s.live = make([]op, len(shares)), s.live[:0]
	for i, share := range shares {
		to, err := s.client.member(v, share.owner)
		if err != nil {
			return err
		}
		o := &s.ops[i]
		*o = s.of
		o.to, o.fence, o.bounded = to, share.fence, true
		s.sets[i].each(func(p int) {
			if s.of.write() && s.doubted[p] != nil {
				o.doubted = s.doubted[p]
			}
		})
		s.request.Partitions = s.sets[i]
		o.body = wire.AppendListRequest(nil, &s.request)
		s.live = append(s.live, i)
	}
	return nil
}

// noteDoubts notes the partitions where the attempts of this round may have been executed.
func (s *scatter) noteDoubts() {
	before := s.of.unanswered
	for _, i := range s.live {
		o := &s.ops[i]
		if o.unanswered == before {
			continue
		}
		s.of.unanswered = before + 1
		s.sets[i].each(func(p int) {
			if s.doubted[p] == nil {
				s.doubted[p] = o.view
			}
		})
	}
}

// lastWord is err, unless a partition without answer may have been changed.
func (s *scatter) lastWord(err error) error {
	if err == nil || s.doubted == nil {
		return err
	}
	doubt := false
	s.left.each(func(p int) { doubt = doubt || s.doubted[p] != nil })
	return lastWord(doubt, err)
}

func (s *scatter) end(i int, err error) {
	if err == nil {
		err = s.got(&s.ops[i].call.reply)
		s.left.clear(s.sets[i])
	}
	if err != nil && s.err == nil {
		s.err = err
	}
	s.ops[i].end(s.client)
}

// A bitmap is a set of partitions.
type bitmap []uint64

// newBitmap returns the set of the first n.
func newBitmap(n int) bitmap {
	b := make(bitmap, (n+63)/64)
	for i := range n {
		b.set(i)
	}
	return b
}

func (b bitmap) set(i int)      { b[i/64] |= 1 << (i % 64) }
func (b bitmap) has(i int) bool { return b[i/64]>>(i%64)&1 == 1 }

func (b bitmap) each(do func(i int)) {
	for k, w := range b {
		for ; w != 0; w &= w - 1 {
			do(64*k + bits.TrailingZeros64(w))
		}
	}
}

func (b bitmap) clear(other bitmap) {
	for i, w := range other {
		b[i] &^= w
	}
}
