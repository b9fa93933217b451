package group

import (
	"testing"

	"github.com/dramnode/dramnode/control/leader"
	"github.com/dramnode/dramnode/ring"
)

// TestAsksAreToldOnce: what a leader was told lately is not said again, and what is new goes out at once, in one message.
func TestAsksAreToldOnce(t *testing.T) {
	w := cluster(t, 11, 3)
	var p *proc
	for _, a := range w.addrs() {
		if q := w.procs[a]; q.lead == nil {
			p = q
		}
	}
	tell := func(kind leader.AskKind, assigned ...uint64) (asks []leader.Ask, messages int) {
		for at, e := range assigned {
			p.Ask(leader.Ask{Kind: kind, Partition: ring.Partition(at), Epoch: 1000, AssignID: e})
		}
		for _, m := range p.Take() {
			if m.Kind == KindAsks {
				asks, messages = append(asks, m.Asks...), messages+1
			}
		}
		return asks, messages
	}
	p.Take()
	if asks, messages := tell(leader.AskPromote, 1, 1, 1); len(asks) != 3 || messages != 1 {
		t.Errorf("%d wishes in %d messages, want 3 in one", len(asks), messages)
	}
	if asks, _ := tell(leader.AskPromote, 1, 2, 1); len(asks) != 1 || asks[0].AssignID != 2 {
		t.Errorf("%+v, want the one that is new", asks)
	}
	if asks, _ := tell(leader.AskActivate, 1, 2, 1); len(asks) != 3 {
		t.Errorf("%d wishes of another kind, want 3", len(asks))
	}
	w.run(2 * askAgain) // its clock is that of its last step
	if asks, _ := tell(leader.AskPromote, 1, 2, 1); len(asks) != 3 {
		t.Errorf("%d wishes a while later, want all of 3 again", len(asks))
	}
}
