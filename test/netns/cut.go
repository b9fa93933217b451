package netns

import (
	"context"
	"net/netip"
	"time"
)

// A flow is the packets from one address to another; an invalid address stands for any.
type flow struct{ from, to netip.Addr }

// Cut makes the router lose all packets from and to host i. As with every cut of this file nobody
// is told: the links stay up, no error comes back, connections stay open and hang.
func (n *Net) Cut(i int) error { return n.lose(n.uplinkAndDownlink(i)...) }

// Heal undoes Cut(i). Cuts between pairs of hosts stay.
func (n *Net) Heal(i int) error { return n.pass(n.uplinkAndDownlink(i)...) }

// CutPair makes the router lose all packets between hosts i and j.
func (n *Net) CutPair(i, j int) error { return n.lose(n.between(i, j), n.between(j, i)) }

// HealPair undoes CutPair(i, j), and CutOneWay in either direction.
func (n *Net) HealPair(i, j int) error { return n.pass(n.between(i, j), n.between(j, i)) }

// CutOneWay makes the router lose the packets that host i sends to host j; j still reaches i.
func (n *Net) CutOneWay(i, j int) error { return n.lose(n.between(i, j)) }

// HealOneWay undoes CutOneWay(i, j), or that direction of CutPair(i, j).
func (n *Net) HealOneWay(i, j int) error { return n.pass(n.between(i, j)) }

// HealAll undoes every cut.
func (n *Net) HealAll() error {
	n.mu.Lock()
	var flows []flow
	for f := range n.lost {
		flows = append(flows, f)
	}
	n.mu.Unlock()
	return n.pass(flows...)
}

func (n *Net) between(i, j int) flow { return flow{n.hosts[i].addr, n.hosts[j].addr} }

func (n *Net) uplinkAndDownlink(i int) []flow {
	return []flow{{from: n.hosts[i].addr}, {to: n.hosts[i].addr}}
}

// lose stops flows. A flow that is stopped already stays so.
func (n *Net) lose(flows ...flow) error {
	return n.set(true, "add", flows)
}

// pass lets flows through again.
func (n *Net) pass(flows ...flow) error {
	return n.set(false, "del", flows)
}

// set brings flows to the wanted state. A blackhole rule drops without an ICMP answer, and is
// looked up for each forwarded packet, so it takes effect on open connections too.
func (n *Net) set(lost bool, verb string, flows []flow) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, f := range flows {
		if n.lost[f] == lost {
			continue
		}
		args := []string{"-n", n.router, "rule", verb, "priority", "100"}
		if f.from.IsValid() {
			args = append(args, "from", f.from.String())
		}
		if f.to.IsValid() {
			args = append(args, "to", f.to.String())
		}
		if err := ip(ctx, "", append(args, "blackhole")...); err != nil {
			return err
		}
		if lost {
			n.lost[f] = true
		} else {
			delete(n.lost, f)
		}
	}
	return nil
}
