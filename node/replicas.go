package node

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/dramnode/dramnode/control/group"
	"github.com/dramnode/dramnode/control/leader"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/ring"
)

const askInterval = 50 * time.Millisecond

// replicas are this node's copies of partitions. They hold nothing yet: they ask the control plane for what
// their rows want, so that it goes on.
type replicas struct {
	n     *Node
	table atomic.Pointer[state.State]
}

func newReplicas(n *Node) (*replicas, error) { return &replicas{n: n}, nil }

// adopt hands each partition its row of a new table.
func (r *replicas) adopt(_, s *state.State) {
	r.table.Store(s)
	r.ask(s)
}

// usage tells the sizes of the partitions that this node is the primary of.
func (r *replicas) usage() (all []group.Usage) {
	if s := r.table.Load(); s != nil {
		for p := range s.Rows {
			if s.Rows[p].Primary == state.Incarnation(r.n.self.Incarnation) {
				all = append(all, group.Usage{Partition: ring.Partition(p)})
			}
		}
	}
	return all
}

func (r *replicas) run(ctx context.Context) error {
	ticker := time.NewTicker(askInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if s := r.table.Load(); s != nil {
				r.ask(s)
			}
		}
	}
}

func (r *replicas) ask(s *state.State) {
	for p := range s.Rows {
		row := &s.Rows[p]
		a := leader.Ask{Kind: leader.AskActivate, Partition: ring.Partition(p), Epoch: row.Epoch}
		if row.Active() {
			a.Kind, a.Peer, a.AssignID = leader.AskPromote, row.Learner, row.AssignID
		}
		if row.Primary == state.Incarnation(r.n.self.Incarnation) && (!row.Active() || row.Learner != 0) {
			_ = r.n.member.Ask(a) // again at the next turn
		}
	}
}

func (r *replicas) retire() {}
