package client

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
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
// empty. After an error some may be deleted.
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
	s := scatter{client: c, kind: kind, request: r, got: got, deadline: c.deadline(ctx)}
	s.left = newBitmap(len(c.Table().Rows))
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("client: %w: %w", dramnode.ErrUnavailable, context.Cause(ctx))
		}
		if err := s.prepare(c.view.Load()); err != nil {
			for _, i := range s.live {
				s.ops[i].end(c) // those that were prepared: their numbers must not stay in use
			}
			return err
		}
		retry, leader, next := c.round(ctx, s.ops, s.live, s.end)
		err := s.err
		if err == nil && len(retry) > 0 {
			err = c.again(ctx, &s.ops[leader], next)
		}
		for _, i := range retry {
			s.ops[i].end(c)
		}
		if err != nil || len(retry) == 0 {
			return err
		}
	}
}

// A scatter is one request to all owners.
type scatter struct {
	client   *Client
	kind     wire.Kind
	request  wire.ListRequest
	got      func(*reply) error
	deadline time.Time

	left bitmap   // partitions without answer
	sets []bitmap // by member, twice: what it is asked for that stays, and what is on the move
	ops  []op     // by set
	live []int    // sets that are asked for
	err  error
}

// prepare makes an op for each member that owns partitions which are left. Those on the move are asked
// for apart, so that a refusal because of one of them does not cost the answer for all the others.
func (s *scatter) prepare(v *view) error {
	t, c := v.table, s.client
	if len(newBitmap(len(t.Rows))) != len(s.left) {
		return fmt.Errorf("client: %w: the cluster was replaced by another", dramnode.ErrUnavailable)
	}
	members := len(t.Members)
	s.sets, s.ops, s.live = make([]bitmap, 2*members), make([]op, 2*members), nil
	for p, row := range t.Rows {
		if !s.left.has(p) {
			continue
		}
		i := int(row.Owner)
		if row.MoveTo != control.None {
			i += members
		}
		if s.sets[i] == nil {
			s.sets[i] = make(bitmap, len(s.left))
			s.live = append(s.live, i)
		}
		s.sets[i].set(p)
	}
	for _, i := range s.live {
		to, err := c.member(v, uint16(i%members))
		if err != nil {
			return err
		}
		s.request.Partitions = s.sets[i]
		s.ops[i] = op{kind: s.kind, to: to, deadline: s.deadline, body: wire.AppendListRequest(nil, &s.request)}
		if s.kind == wire.KindDeleteRange {
			c.asWrite(&s.ops[i], wire.WriteExt{})
		}
	}
	return nil
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

func (b bitmap) clear(other bitmap) {
	for i, w := range other {
		b[i] &^= w
	}
}
