package group

import (
	"maps"
	"time"

	"github.com/dramnode/dramnode/control/leader"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/ring"
)

// Nodes repeat what they ask for until the table shows the answer, and every partition asks by itself. After the loss of a node
// that is thousands of wishes every few milliseconds. So what the leader was told lately is not said again, and many
// wishes travel in one message.

const (
	askAgain = 200 * time.Millisecond // a leader remembers: this is for messages that were lost
	askPause = 5 * time.Millisecond   // between two decisions of the leader for no other reason
	maxAsks  = 1024                   // of a message
)

// An asking is what this node has asked of leaders.
type asking struct {
	told   map[wish]telling
	tidied time.Duration
	next   []leader.Ask // to be sent
}

// A wish is what a partition asks for.
type wish struct {
	kind      leader.AskKind
	partition ring.Partition
	peer      state.Incarnation
}

// A telling is when which leader was told of a wish, and what exactly.
type telling struct {
	at       time.Duration
	leader   state.Incarnation
	term     uint64
	epoch    state.Epoch
	assignID uint64
}

// ofRow reports whether a is a wish of a partition's primary.
func ofRow(a *leader.Ask) bool { return a.Kind >= leader.AskActivate && a.Kind <= leader.AskEpoch }

// Ask passes a wish of this node on to the leader, if it is known. It may get lost: ask again until the
// table shows the answer.
func (g *Group) Ask(a leader.Ask) {
	a.From = g.cfg.Self.Incarnation
	to := g.Leader()
	switch {
	case to == 0 || ofRow(&a) && g.toldLately(&a, to):
	case g.lead != nil:
		g.asked(a)
	case ofRow(&a):
		if g.asking.next = append(g.asking.next, a); len(g.asking.next) == maxAsks {
			g.sendAsks()
		}
	default:
		g.send(Message{Kind: KindAsk, To: to, Ask: a})
	}
}

// toldLately reports whether that leader heard of the wish a moment ago, and notes that it hears of it now.
func (g *Group) toldLately(a *leader.Ask, to state.Incarnation) bool {
	s := &g.asking
	if s.told == nil {
		s.told = map[wish]telling{}
	}
	if g.now-s.tidied > askAgain {
		s.tidied = g.now
		maps.DeleteFunc(s.told, func(_ wish, t telling) bool { return g.now-t.at >= askAgain })
	}
	w, now := wish{a.Kind, a.Partition, a.Peer}, telling{g.now, to, g.log.term(), a.Epoch, a.AssignID}
	last, ok := s.told[w]
	if now.at = last.at; ok && now == last && g.now-last.at < askAgain {
		return true
	}
	now.at = g.now
	s.told[w] = now
	return false
}

// sendAsks sends what was collected.
func (g *Group) sendAsks() {
	if to := g.Leader(); to != 0 && g.lead == nil && len(g.asking.next) > 0 {
		g.send(Message{Kind: KindAsks, To: to, Asks: g.asking.next})
	}
	g.asking.next = nil
}

// asked gives the leader a wish, of this node or another.
func (g *Group) asked(a leader.Ask) {
	g.decideAt = min(g.decideAt, max(g.now, g.decidedAt+askPause))
	if err := g.lead.Ask(g.now, a); err != nil && a.Kind == leader.AskJoin {
		g.send(Message{Kind: KindRefuse, To: a.Node.Incarnation, Addr: a.Node.Addr, Text: err.Error()})
	}
}

func (e *encoder) asks(all []leader.Ask) {
	for i := range all {
		a := &all[i]
		e.b = append(e.b, byte(a.Kind))
		e.u64(uint64(a.Partition), uint64(a.Epoch), uint64(a.Peer), a.AssignID)
	}
}

// asks decodes the wishes of from.
func (d *decoder) asks(from state.Incarnation) (all []leader.Ask) {
	for len(d.b) > 0 && d.err == nil {
		a := leader.Ask{
			Kind: leader.AskKind(d.take(1)[0]), From: from, Partition: ring.Partition(d.number(ring.MaxPartitions)),
			Epoch: state.Epoch(d.number(1<<31 - 1)), Peer: state.Incarnation(d.u64()), AssignID: d.u64(),
		}
		if !ofRow(&a) || len(all) == maxAsks {
			d.fail("wish %d of kind %d", len(all), a.Kind)
		}
		all = append(all, a)
	}
	return all
}
