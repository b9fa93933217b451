package node

import (
	"bytes"

	"github.com/dramnode/dramnode/router"
	"github.com/dramnode/dramnode/storage"
	"github.com/dramnode/dramnode/wire"
)

// A partitionSet is a bitmap of partitions.
type partitionSet []uint64

func (s partitionSet) has(p uint16) bool { return s[p/64]>>(p%64)&1 == 1 }

// selected returns the set that a request names, or all that this node owns.
func (n *Node) selected(v *router.View, words []uint64) (partitionSet, bool) {
	set := make(partitionSet, (len(v.Table.Rows)+63)/64)
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
		if i >= len(set) || i == len(set)-1 && len(v.Table.Rows)%64 != 0 && w>>(len(v.Table.Rows)%64) != 0 {
			return nil, false
		}
		set[i] = w
	}
	return set, true
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
