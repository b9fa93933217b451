package leader

import (
	"fmt"
	"testing"
	"time"

	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/ring"
)

// settledBench is a settled cluster of ten nodes with the default number of partitions. Its params are
// generous: the bench has no patience for small steps.
func settledBench(t testing_) *bench {
	params := state.DefaultParams()
	params.MovesPerNode = 255
	b := newBench(t, ring.DefaultPartitions, params)
	b.run(1100 * ms)
	for i := state.Incarnation(2); i <= 10; i++ {
		b.join(i, fmt.Sprintf("n%d", i))
	}
	b.settle(2 * time.Minute)
	return b
}

// BenchmarkDecide is what the leader does at least every 25 ms.
func BenchmarkDecide(b *testing.B) {
	c := settledBench(b)
	for b.Loop() {
		if batch := c.l.Decide(c.now, 1, c.s); len(batch) != 0 {
			b.Fatal("not settled")
		}
	}
}

// BenchmarkCrash is the decision after a node's death: one batch for all its rows.
func BenchmarkCrash(b *testing.B) {
	c := settledBench(b)
	delete(c.alive, 3)
	for !c.l.Grants.Silent(c.now, 3) {
		c.now += 5 * ms
		c.l.Grants.Turn(c.now)
		for i, h := range c.holder {
			if r, due := h.Due(c.now); due && c.alive[i] {
				c.l.Grants.Renew(c.now, r)
			}
		}
		if id, start := c.l.Grants.Round(c.now); start {
			c.l.Grants.Confirmed(id, c.s.Serves)
		}
	}
	batch := c.l.Decide(c.now, 1, c.s)
	for b.Loop() {
		c.l.Decide(c.now, 1, c.s)
	}
	b.ReportMetric(float64(len(batch)), "commands")
	b.ReportMetric(float64(len(state.AppendBatch(nil, batch))), "bytes")
	b.ReportMetric(float64(len(c.s.Append(nil))), "table-bytes")
}
