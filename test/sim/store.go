package sim

import (
	"bytes"
	"slices"

	"github.com/dramnode/dramnode/replica"
	"github.com/dramnode/dramnode/replica/storetest"
)

// arenaBytes is ample for the few entries of a world.
const arenaBytes = 256 << 10

// newStore returns the store of one life.
func (w *world) newStore(id uint64) storetest.Subject {
	if w.arena {
		return ordered{storetest.Arena(arenaBytes)}
	}
	return storetest.Mem(id)
}

// An ordered store scans in order of keys, so that a seed decides everything: package storage hashes with a random seed.
type ordered struct{ storetest.Subject }

// Scan implements replica.Store. A cursor is the next key, of which worlds have short ones.
func (o ordered) Scan(from replica.Cursor, limit int, visit func([]byte, replica.Version, replica.Pending)) replica.Cursor {
	type found struct {
		key       []byte
		committed replica.Version
		pending   replica.Pending
	}
	var all []found
	for next, more := replica.Cursor(0), true; more; more = next != 0 {
		next = o.Subject.Scan(next, limit, func(key []byte, v replica.Version, p replica.Pending) {
			if cursorOf(key) >= from {
				all = append(all, found{bytes.Clone(key), v, p})
			}
		})
	}
	slices.SortFunc(all, func(a, b found) int { return bytes.Compare(a.key, b.key) })
	for i, f := range all {
		if i >= limit {
			return cursorOf(f.key)
		}
		visit(f.key, f.committed, f.pending)
	}
	return 0
}

func cursorOf(key []byte) (c replica.Cursor) {
	for _, b := range key {
		c = c<<8 | replica.Cursor(b)
	}
	return c
}
