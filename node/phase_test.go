package node

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/test/proc"
	"github.com/dramnode/dramnode/wire"
)

// TestPhasesOfAMove makes the network so slow that requests can be aimed at the phases of each move: a
// delete while the source still serves, a write and a read while it is frozen.
func TestPhasesOfAMove(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, 51, func(cfg *Config) {
		cfg.Settings, cfg.Limits.MovesPerMember = ring.Config{Partitions: 12}, 1
	}, "n1")
	c.agree("n1")
	user := c.caller()
	n1 := c.nodes["n1"]
	doomed, kept := make([]string, 12), make([]string, 12) // a key of each partition
	for i := 0; ; i++ {
		key := fmt.Sprintf("phase-%d", i)
		p := n1.view.Load().Partition([]byte(key))
		if doomed[p] == "" {
			doomed[p] = key
		} else if kept[p] == "" {
			kept[p] = key
		} else if i > 500 {
			break
		}
	}
	for p := range kept {
		user.put("n1", doomed[p], []byte("old"))
		user.put("n1", kept[p], []byte("old"))
	}
	const delay = 20 * time.Millisecond
	c.world.SetDelay(delay, delay)
	n2 := c.start("n2", proc.Address(t, nil))

	var wg sync.WaitGroup
	var mu sync.Mutex
	deleted, written := map[int]bool{}, map[int]bool{}
	duringFreeze := 0
	c.wait("n2 to have its partitions", func() bool {
		for p := range kept {
			source, target := &n1.parts[p], &n2.parts[p]
			target.mu.RLock()
			receiving := target.receiving != 0
			target.mu.RUnlock()
			source.mu.RLock()
			phase, epoch := source.phase, source.epoch
			source.mu.RUnlock()
			if receiving && phase == serving && epoch != 0 && !deleted[p] {
				deleted[p] = true
				wg.Go(func() {
					<-time.After(delay / 2) // to arrive after the copy began
					h := wire.Header{Kind: wire.KindDelete, Key: []byte(doomed[p]), Ext: putOf("", nil).Ext}
					if r, err := user.do("n1", h, nil); err != nil {
						t.Errorf("delete %s: %v: %s", doomed[p], err, r.body)
					}
				})
			}
			if phase == frozen && !written[p] {
				written[p] = true
				wg.Go(func() {
					read := user.once("n1", wire.Header{Kind: wire.KindGet, Key: []byte(kept[p])}, nil)
					if read.err == nil && read.header.Epoch == epoch && read.header.Status != wire.StatusOK {
						t.Errorf("a read of a frozen partition: %v: %s", read.header.Status, read.body)
					}
				})
				wg.Go(func() {
					r, err := user.do("n1", putOf(kept[p], []byte("new")), []byte("new"))
					if err != nil || r.header.Epoch == epoch {
						t.Errorf("a write to the frozen partition %d was answered in epoch %d of the old owner: %v", p, r.header.Epoch, err)
					}
					mu.Lock()
					duringFreeze++
					mu.Unlock()
				})
			}
		}
		return n2.owned() > 0 && n1.Info().Moving == 0
	})
	wg.Wait()
	c.world.SetDelay(0, 0)
	c.agree("n1", "n2")
	for p := range kept {
		want := "old"
		if written[p] {
			want = "new"
		}
		if got, err := user.get("n1", kept[p]); err != nil || string(got) != want {
			t.Errorf("%s of partition %d: %q, %v; want %q", kept[p], p, got, err, want)
		}
		if _, err := user.get("n1", doomed[p]); deleted[p] != errors.Is(err, dramnode.ErrNotFound) {
			t.Errorf("%s, deleted %v: %v", doomed[p], deleted[p], err)
		}
	}
	t.Logf("%d deletes during a copy, %d writes during a freeze", len(deleted), duringFreeze)
	if len(deleted) == 0 || duringFreeze == 0 {
		t.Error("no move was met in the phase that it was aimed at")
	}
}
