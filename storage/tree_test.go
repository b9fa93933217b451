package storage

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/dramnode/dramnode"
	"pgregory.net/rapid"
)

// TestTrees grows and shrinks trees of several levels: by key in the order, by deadline in the other one.
func TestTrees(tb *testing.T) {
	rapid.Check(tb, func(t *rapid.T) {
		arena := rapid.SampledFrom([]int{1 << 20, 8 << 20}).Draw(t, "arena") // the small one gets full
		s := openAll(tb, Config{Arena: make([]byte, arena), Partitions: 1})
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		want := map[string]bool{}
		for range rapid.IntRange(1, 5).Draw(t, "phases") {
			treePhase(t, s, rnd, want)
			if err := s.Check(); err != nil {
				t.Fatal(err)
			}
			keys, _ := list(s, Listing{})
			if sorted := slices.Sorted(maps.Keys(want)); !slices.Equal(keys, sorted) {
				t.Fatalf("List has %d keys, want %d", len(keys), len(sorted))
			}
		}
	})
}

func treePhase(t *rapid.T, s *opened, rnd *rand.Rand, want map[string]bool) {
	kind := rapid.SampledFrom([]string{"ascending", "descending", "random", "delete", "delete front", "touch", "rewrite", "clear"}).Draw(t, "phase")
	n := rapid.IntRange(1, 6000).Draw(t, "count")
	keys := slices.Sorted(maps.Keys(want))
	for i := range n {
		key := fmt.Sprintf("%06d", rnd.IntN(20000))
		var err error
		switch kind {
		case "ascending":
			key = fmt.Sprintf("%06d", 20000+i)
		case "descending":
			key = fmt.Sprintf("%06d", 20000-i)
		case "delete front", "clear":
			if i == len(keys) {
				return
			}
			key = keys[i]
		}
		switch kind {
		case "delete", "delete front", "clear":
			err = s.del(0, []byte(key))
			delete(want, key)
		case "touch":
			err = s.touch(0, []byte(key), int64(1+rnd.IntN(1<<30)))
			if errors.Is(err, dramnode.ErrNotFound) && !want[key] || errors.Is(err, dramnode.ErrNoMemory) {
				err = nil
			}
		case "rewrite": // where it is, with another deadline
			info, _ := s.stat(0, []byte(key), 0)
			if !want[key] {
				continue
			}
			if err = s.put(0, []byte(key), make([]byte, info.ValueBytes), Info{Deadline: int64(rnd.IntN(5) * rnd.IntN(1<<30))}); errors.Is(err, dramnode.ErrNoMemory) {
				err = nil
			}
		default:
			err = s.put(0, []byte(key), make([]byte, rnd.IntN(100)), Info{Deadline: int64(rnd.IntN(2) * (1 + rnd.IntN(1<<30)))})
			if err == nil {
				want[key] = true
			} else if errors.Is(err, dramnode.ErrNoMemory) {
				err = nil
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
