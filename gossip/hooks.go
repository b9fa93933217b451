package gossip

import (
	"fmt"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/dramnode/dramnode"
)

// hooks are what memberlist calls, most of them with its own lock held: see the package comment.
type hooks struct{ g *Gossip }

var (
	_ memberlist.Delegate      = hooks{}
	_ memberlist.EventDelegate = hooks{}
	_ memberlist.AliveDelegate = hooks{}
	_ memberlist.MergeDelegate = hooks{}
)

// A Refusal is a node that we keep out, and which keeps us out.
type Refusal struct {
	Name       string // as memberlist knows it: name#incarnation
	GossipAddr string
	Meta       Meta // what it says of itself; zero if that cannot be read
	Err        error
	Since      time.Time // of the latest attempt that was logged
}

// NotifyAlive admits n or not. It runs for every sign of life that memberlist did not know before.
func (h hooks) NotifyAlive(n *memberlist.Node) error {
	h.g.mu.Lock()
	defer h.g.mu.Unlock()
	return h.g.admitLocked(n)
}

// NotifyMerge refuses a join, ours at a peer or a peer's with us, when a node on the other side has
// other settings.
func (h hooks) NotifyMerge(peers []*memberlist.Node) error {
	h.g.mu.Lock()
	defer h.g.mu.Unlock()
	for _, n := range peers {
		if n.State != memberlist.StateAlive {
			continue
		}
		if err := h.g.admitLocked(n); err != nil {
			return err
		}
	}
	return nil
}

func (h hooks) NotifyJoin(n *memberlist.Node)   { h.g.learn(n, true) }
func (h hooks) NotifyUpdate(n *memberlist.Node) { h.g.learn(n, true) }
func (h hooks) NotifyLeave(n *memberlist.Node)  { h.g.learn(n, false) }

// NodeMeta encodes our Meta, which New and Update found to fit.
func (h hooks) NodeMeta(int) []byte {
	h.g.mu.Lock()
	defer h.g.mu.Unlock()
	b, err := h.g.meta.Append(nil)
	if err != nil {
		h.g.conf.Log.Error().Err(err).Msg("gossip: our metadata")
		return nil
	}
	return b
}

func (hooks) NotifyMsg([]byte)                {}
func (hooks) GetBroadcasts(int, int) [][]byte { return nil }
func (hooks) LocalState(bool) []byte          { return nil }
func (hooks) MergeRemoteState([]byte, bool)   {}

// admitLocked returns why n must stay out, and logs that once in a while.
func (g *Gossip) admitLocked(n *memberlist.Node) error {
	err := g.checkLocked(n)
	if err == nil {
		delete(g.refusals, n.Name)
		return nil
	}
	g.refused++
	last, known := g.refusals[n.Name]
	if !known && len(g.refusals) >= maxRefusals {
		return err
	}
	meta, parseErr := ParseMeta(n.Meta)
	if parseErr != nil {
		meta = Meta{} // err says so
	}
	now := Refusal{Name: n.Name, GossipAddr: n.Address(), Meta: meta, Err: err, Since: time.Now()}
	if meta != last.Meta {
		g.signalChange()
	}
	if known && time.Since(last.Since) < time.Minute {
		now.Since = last.Since
		g.refusals[n.Name] = now
		return err
	}
	g.refusals[n.Name] = now
	g.conf.Log.Error().Err(err).Str("node", n.Name).Str("addr", n.Address()).Msg("gossip: node refused")
	return err
}

func (g *Gossip) checkLocked(n *memberlist.Node) error {
	if n.Name == g.meta.key() {
		return nil
	}
	m, err := ParseMeta(n.Meta)
	if err != nil {
		return fmt.Errorf("node %q: %w", n.Name, err)
	}
	if key := m.key(); key != n.Name {
		return fmt.Errorf("node %q: %w: it says it is %q", n.Name, dramnode.ErrInvalid, key)
	}
	if m.Settings != g.meta.Settings {
		return fmt.Errorf("%w: settings differ: %016x on %q at %s, %016x here; partitions, strategy, rules and replication must be equal on all nodes",
			dramnode.ErrInvalid, m.Settings, m.Name, n.Address(), g.meta.Settings)
	}
	if g.table.members[n.Name] == nil && g.table.full() {
		return fmt.Errorf("%w: %d members", dramnode.ErrBusy, maxMembers)
	}
	return nil
}

// learn copies what memberlist knows of n into our table.
func (g *Gossip) learn(n *memberlist.Node, alive bool) {
	meta, err := ParseMeta(n.Meta)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended || err != nil || meta.key() != n.Name {
		return // the last two were refused by NotifyAlive
	}
	if n.Name == g.meta.key() {
		g.announced = meta
		return
	}
	before, known := g.table.members[n.Name]
	if !g.table.put(Member{Meta: meta, Alive: alive, Since: time.Now(), GossipAddr: n.Address()}) {
		return
	}
	if !known || before.Alive != alive {
		g.conf.Log.Info().Str("node", n.Name).Str("addr", n.Address()).Bool("alive", alive).Msg("gossip: member")
	}
	g.noteConflictLocked(g.table.members[n.Name])
	g.signalChange()
}

// noteConflictLocked counts and logs m when its table is of another cluster than ours, each time it
// comes to that.
func (g *Gossip) noteConflictLocked(m *Member) {
	key, now := m.key(), conflicts(m.ClusterID, g.meta.ClusterID)
	if now && !g.conflict[key] {
		g.conflict[key] = true
		g.conflicts++
		g.conf.Log.Error().Err(dramnode.ErrClusterConflict).Str("node", key).Str("addr", m.GossipAddr).
			Uint64("theirs", m.ClusterID).Uint64("ours", g.meta.ClusterID).Msg("gossip: node of another cluster")
	} else if !now {
		delete(g.conflict, key)
	}
}
