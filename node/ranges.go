package node

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/router"
	"github.com/dramnode/dramnode/storage"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// serveRange handles the operations on a range of keys. They are asked of each node for the
// partitions that it owns, all or nothing: a gap is an error, never a silence.
//
// One that meets a partition in the last step of its move waits there, as a read does, and starts over
// when the move is decided.
func (n *Node) serveRange(r *request) {
	a, busy := n.rangeAnswer(r)
	if busy != nil {
		n.park(busy, r)
		return
	}
	n.drop(r)
	n.reply(r, a)
}

// rangeAnswer returns the answer, or the partition that the request must wait for.
func (n *Node) rangeAnswer(r *request) (a answer, busy *part) {
	q, err := wire.ParseListRequest(r.body, nil)
	if err != nil {
		return failed(fmt.Errorf("%w: %w", dramnode.ErrInvalid, err)), nil
	}
	v := n.view.Load()
	switch {
	case v == nil || v.Self == control.None:
		return failed(errNoTable), nil
	case !n.plane.Quorate():
		return failed(errNotQuorate), nil
	}
	set, ok := n.selected(v, q.Partitions)
	if !ok {
		return answer{status: wire.StatusInvalid, body: transport.Body{Bytes: []byte("a partition number is too large")}}, nil
	}
	epochs, p, state := n.epochs(set, r.h.Kind)
	switch {
	case state == absent:
		return answer{status: wire.StatusNotOwner, epoch: v.Table.Rows[p].Epoch, body: transport.Body{Bytes: control.AppendRow(nil, v.Table.Rows[p])}}, nil
	case state == blocked:
		return answer{}, &n.parts[p]
	case r.h.Kind == wire.KindList:
		return n.list(&q, set, epochs), nil
	}
	return n.deleteRange(r, &q, set), nil
}

// A partitionSet is a bitmap of partitions.
type partitionSet []uint64

func (s partitionSet) has(p uint16) bool { return s[p/64]>>(p%64)&1 == 1 }

// selected returns the set that a request names, or all that this node owns.
func (n *Node) selected(v *router.View, words []uint64) (partitionSet, bool) {
	set := make(partitionSet, (len(n.parts)+63)/64)
	if len(words) == 0 {
		for p, row := range v.Table.Rows {
			if row.Owner == v.Self {
				set[p/64] |= 1 << (p % 64)
			}
		}
		return set, true
	}
	for i, w := range words {
		if w == 0 {
			continue
		}
		if i >= len(set) || i == len(set)-1 && len(n.parts)%64 != 0 && w>>(len(n.parts)%64) != 0 {
			return nil, false
		}
		set[i] = w
	}
	return set, true
}

// What a partition is for a request on a range of keys.
type presence uint8

const (
	present presence = iota
	blocked          // the request must wait
	absent           // this node does not serve it
)

// epochs returns the epoch by which each partition of the set is served here, or the first one that
// cannot be, and why.
func (n *Node) epochs(set partitionSet, k wire.Kind) (epochs []uint32, p uint16, state presence) {
	epochs = make([]uint32, len(n.parts))
	for i := range n.parts {
		p := uint16(i)
		if !set.has(p) {
			continue
		}
		part := &n.parts[p]
		part.mu.RLock()
		epochs[p], state = part.epoch, present
		if part.epoch == 0 {
			state = absent
		} else if part.blocks(k) {
			state = blocked
		}
		part.mu.RUnlock()
		if state != present {
			return nil, p, state
		}
	}
	return epochs, 0, present
}

// stayed reports whether every partition of the set is served by the epoch it had. Then its entries
// were here all the while, also if it is on its way out by now: they go when the epoch does.
func (n *Node) stayed(set partitionSet, before []uint32) bool {
	for i := range n.parts {
		if p := uint16(i); set.has(p) {
			part := &n.parts[p]
			part.mu.RLock()
			same := part.epoch == before[p]
			part.mu.RUnlock()
			if !same {
				return false
			}
		}
	}
	return true
}

func (n *Node) list(q *wire.ListRequest, set partitionSet, before []uint32) answer {
	page := n.page(q, set, n.now())
	if !n.stayed(set, before) {
		return failed(errNotServing) // keys could be missing from the page
	}
	return n.pageAnswer(&page)
}

// page lists what the store has of the set's partitions and has not expired by now.
func (n *Node) page(q *wire.ListRequest, set partitionSet, now int64) (page wire.ListReply) {
	l := storage.Listing{
		Start: q.Start, Limit: int(q.Limit), BudgetBytes: wire.ListPageBytes - wire.ListReplyBytes, Include: set.has, Now: now,
	}
	if len(q.End) > 0 {
		l.End = q.End
	}
	if len(q.After) > 0 {
		l.After = q.After
	}
	page.More = n.store.List(l, func(e storage.Entry) bool {
		page.Entries = append(page.Entries, wire.ListEntry{Key: bytes.Clone(e.Key), Generation: e.Generation, Size: uint64(e.ValueBytes)})
		return true
	})
	return page
}

func (n *Node) pageAnswer(page *wire.ListReply) answer {
	body, err := n.scratch.body(wire.AppendListReply(nil, page))
	if err != nil {
		return failed(err)
	}
	return answer{body: body}
}

// deleteRange deletes the keys of the range that exist now. A key that is written meanwhile gets a new
// generation and survives, so repeating the request is harmless.
func (n *Node) deleteRange(r *request, q *wire.ListRequest, set partitionSet) answer {
	if _, err := wire.ParseWriteExt(r.h.Ext); err != nil {
		return failed(fmt.Errorf("%w: %w", dramnode.ErrInvalid, err))
	}
	bounds := make([]dramnode.Generation, len(n.parts))
	for p := range bounds {
		if set.has(uint16(p)) {
			stats, err := n.store.PartitionStats(uint16(p))
			if err != nil {
				return failed(err)
			}
			bounds[p] = stats.Last
		}
	}
	l := storage.Listing{Start: q.Start, Include: set.has, Now: n.now()}
	if len(q.End) > 0 {
		l.End = q.End
	}
	if len(q.After) > 0 {
		l.After = q.After
	}
	var deleted uint64
	var failure error
	n.store.List(l, func(x storage.Entry) bool {
		if x.Generation > bounds[x.Partition] {
			return true
		}
		failure = n.deleteListed(x)
		if failure == nil {
			deleted++
		} else if errors.Is(failure, dramnode.ErrGenerationMismatch) {
			failure = nil
		}
		return failure == nil && n.context.Err() == nil
	})
	if failure != nil {
		return failed(failure)
	}
	return answer{ext: wire.ReplyExt{Size: deleted}, hasExt: true}
}

func (n *Node) deleteListed(x storage.Entry) error {
	part := &n.parts[x.Partition]
	part.mu.RLock()
	defer part.mu.RUnlock()
	if part.epoch == 0 || part.blocks(wire.KindDelete) {
		return errNotServing
	}
	_, err := n.store.Delete(x.Partition, x.Key, storage.Write{IfMatch: true, IfGeneration: x.Generation, Epoch: part.epoch, Now: n.now()})
	return err
}
