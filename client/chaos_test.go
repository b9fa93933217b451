package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
)

// Callers leave early, connections break, partitions move and memory is short. Whatever was acknowledged
// is read back, whatever is read was written, and all memory comes back (the client's cleanup looks).
func TestChaos(t *testing.T) {
	cluster := newTestCluster(t, 3)
	c := cluster.client(func(cfg *Config) { cfg.MemoryBytes, cfg.Outstanding = 512<<10, 8 })
	cluster.world.SetDelay(0, 2*time.Millisecond)
	cluster.world.SetDrop(0.01)
	stop := make(chan struct{})
	var trouble, workers sync.WaitGroup
	trouble.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for version := uint64(2); ; version++ {
			select {
			case <-stop:
				return
			case <-tick.C:
				cluster.install(cluster.newTable(version, func(p int) int { return (p + int(version)) % 3 }))
			}
		}
	})
	for w := range 8 {
		workers.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(w)))
			for i := range 60 {
				if err := chaosStep(t.Context(), c, random, fmt.Sprintf("%d/%d", w, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	workers.Wait()
	close(stop)
	trouble.Wait()
	cluster.world.SetDrop(0)
}

// chaosStep writes a key of its own and reads it back, perhaps with little patience.
func chaosStep(ctx context.Context, c *Client, random *rand.Rand, name string) error {
	key := []byte(name)
	value := bytes.Repeat(key, 1+random.IntN(30_000))
	patience := func() (time.Duration, bool) {
		if random.IntN(3) == 0 {
			return time.Duration(random.IntN(3000)) * time.Microsecond, true
		}
		return time.Minute, false
	}
	limit, hasty := patience()
	putCtx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_, putErr := c.Put(putCtx, key, value)
	unknown := errors.Is(putErr, dramnode.ErrUnknownOutcome)
	if putErr != nil && !unknown && !hasty {
		return fmt.Errorf("put %s: %w", name, putErr)
	}
	limit, hasty = patience()
	getCtx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	v, err := c.Get(getCtx, key)
	switch {
	case err == nil && !bytes.Equal(v.Bytes, value):
		return fmt.Errorf("get %s: other bytes", name)
	case err == nil && putErr != nil && !unknown:
		return fmt.Errorf("put %s was applied and ended with: %w", name, putErr)
	case errors.Is(err, dramnode.ErrNotFound) && putErr == nil:
		return fmt.Errorf("put %s was acknowledged and is lost", name)
	case err != nil && !errors.Is(err, dramnode.ErrNotFound) && !hasty:
		return fmt.Errorf("get %s: %w", name, err)
	}
	return nil
}
