package sim

import (
	"fmt"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control/group"
	control "github.com/dramnode/dramnode/control/leader"
	"github.com/dramnode/dramnode/control/lease"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/internal/rule"
	"github.com/dramnode/dramnode/replica"
	"github.com/dramnode/dramnode/replica/storetest"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/wire"
)

type generation = dramnode.Generation

// Of all partitions only the first is simulated; there must be as many as nodes.
var settings = ring.Config{Partitions: 6}

func (w *world) params() state.Params {
	p := state.DefaultParams()
	p.Replicas, p.Rereplicate = uint8(w.copies), 0
	p.LostAfter, p.ForgetAfter = ticks(w.lostAfter), 40*leaseTicks*tick
	p.MovesPerNode = 16
	return p
}

const inlineBytes = 50

var engineConfig = replica.Config{
	InlineBytes: inlineBytes, MinSync: 1, Resend: 20, Report: 300, StageTimeout: 800, DedupLife: 2 * requestLife,
	MaxWrites: 64, MaxRecords: 16, PageItems: 2,
}

// A node is one life of a process.
type node struct {
	w       *world
	slot    int
	id      uint64
	dead    bool
	paused  int64    // until then
	waiting []func() // for the end of the pause

	rate   float64
	offset int64

	group  *group.Group  // in worlds with the real control plane; in others
	holder *lease.Holder // its part of the modelled one
	table  *state.State  // the newest that was adopted
	shared *replica.Node
	until  int64 // the lease
	store  *watched
	part   *replica.Partition
	out    replica.Effects

	tokens map[uint64]*attempt
	token  uint64
	hint   int     // the slot that it takes for the control plane's leader
	leader *leader // not nil: it is, or believes it
}

// A watched store tells the history which write gets which generation.
type watched struct {
	storetest.Subject
	n *node
}

// Prepare implements replica.Store.
func (s *watched) Prepare(key []byte, v replica.Pending) error {
	err := s.Subject.Prepare(key, v)
	if err == nil {
		s.n.w.made(s.n, key, v, s.Value(v.Value.Blob))
	}
	return err
}

// Write implements replica.Store.
func (s *watched) Write(key []byte, over replica.Blob, v replica.Pending) error {
	value := s.Value(v.Value.Blob)
	err := s.Subject.Write(key, over, v)
	if err == nil {
		s.n.w.made(s.n, key, v, value)
		s.n.w.history.made[v.Gen].committed = true
	}
	return err
}

// birth starts a process in a slot.
func (w *world) birth(slot int) *node {
	old := w.nodes[slot]
	if old == nil || !rule.Off(rule.NewLifeNewID) {
		w.nextID++
	}
	id := w.nextID
	if old != nil && rule.Off(rule.NewLifeNewID) {
		id = old.id
	}
	n := &node{w: w, slot: slot, id: id, tokens: map[uint64]*attempt{}}
	n.rate = 1 + 0.98*w.drift*w.rng.Float64()
	if w.extreme {
		n.rate = 1 + 0.98*w.drift*float64(w.rng.IntN(2))
	}
	n.offset = w.between(1_000_000, 2_000_000)
	if w.raft {
		n.group = w.join(n)
	} else {
		n.holder = lease.NewHolder(state.Incarnation(id), w.timing)
	}
	n.shared = &replica.Node{ID: state.Incarnation(id), Config: engineConfig, Until: func() int64 { return n.until }}
	n.shared.Full = func(state.Incarnation) bool { return !w.healed && w.chance(w.full) }
	n.shared.Records = &replica.Records{Limit: w.recordLimit()}
	n.shared.Crowded = func(id state.Incarnation) bool {
		other := w.node(uint64(id))
		return other != nil && other.shared.Records.Full()
	}
	n.store = &watched{w.newStore(id), n}
	n.part = replica.New(n.shared, n.store)
	w.nodes[slot] = n
	w.on(n, w.between(0, 30), n.tick)
	return n
}

// recordLimit is room for a few records in one of eight worlds, and until the end of all trouble.
func (w *world) recordLimit() int64 {
	if w.seed%8 != 0 || w.healed {
		return 1 << 40
	}
	return 300
}

var (
	names = [slots]string{"n0", "n1", "n2", "n3"}
	addrs = [slots]string{"n0:1", "n1:1", "n2:1", "n3:1"}
)

func (n *node) name() string { return names[n.slot] }
func (n *node) addr() string { return addrs[n.slot] }
func slotOf(addr string) int { return int(addr[1] - '0') }

func (n *node) clock() int64 { return n.offset + int64(float64(n.w.now)*n.rate) }

func (w *world) node(id uint64) *node {
	for _, n := range w.nodes {
		if n.id == id && !n.dead {
			return n
		}
	}
	return nil
}

// tick is what a node does every few milliseconds.
func (n *node) tick() {
	w := n.w
	n.part.Tick(n.clock(), &n.out)
	n.effects()
	if w.rng.IntN(20) == 0 && n.part.Removable() {
		n.part.Remove()
	}
	if n.group != nil {
		n.group.Tick(n.time(), w.unix())
		n.turn()
	} else {
		n.renew()
		if n.leader != nil {
			n.leader.tick()
		}
	}
	w.on(n, w.between(15, 40), n.tick)
}

// renew asks for a lease, or to join.
func (n *node) renew() {
	w := n.w
	if w.rng.IntN(10) == 0 || w.healed {
		n.hint = w.vote.leader
	}
	if n.table == nil || !known(n.table, n.id) {
		if w.rng.IntN(4) == 0 {
			n.tell(func(l *leader) { l.joins(n) })
		}
	}
	if r, due := n.holder.Due(n.time()); due {
		n.tell(func(l *leader) { l.renewed(n, r) })
	}
}

func known(s *state.State, id uint64) bool {
	at := s.Node(state.Incarnation(id))
	return at != nil && at.Status != state.Gone
}

// tell sends something to whom this node takes for the leader.
func (n *node) tell(say func(*leader)) {
	to := n.w.nodes[n.hint]
	n.w.send(n.slot, n.hint, func() {
		n.w.wake(to, func() {
			if to.leader != nil {
				say(to.leader)
			}
		})
	})
}

// install takes a table from the log.
func (n *node) install(s *state.State) {
	n.holder.Install(s)
	n.follow(n.holder)
}

// granted takes a lease.
func (n *node) granted(g lease.Grant) {
	if n.holder.Table() == nil {
		return
	}
	if err := n.holder.Granted(n.time(), g); err != nil {
		n.w.logf("n%d(%d) refuses a grant: %v", n.slot, n.id, err)
	}
	n.follow(n.holder)
}

// follow hands a new table's row to the replica, and then the lease that came with it.
func (n *node) follow(h *lease.Holder) {
	t := h.Table()
	if t == nil {
		return
	}
	if t.Newer(n.table) {
		n.table = t
		if s := t.Node(state.Incarnation(n.id)); s != nil && s.Status == state.Gone {
			n.w.logf("n%d(%d) is retired", n.slot, n.id)
			n.w.kill(n.slot)
			return
		}
		n.part.Adopt(n.clock(), &t.Rows[0], &n.out)
		n.effects()
	}
	n.until = int64(h.Until() / tick)
}

// effects does what the last step wants done.
func (n *node) effects() {
	w := n.w
	for i := range n.out.Sends {
		n.deliver(n.out.Sends[i])
	}
	for _, r := range n.out.Replies {
		n.reply(r)
	}
	for _, a := range n.out.Asks {
		n.ask(a)
	}
	n.out.Reset()
	n.store.Settle()
	w.watchActive(n)
}

// ask brings a wish of the replica to the control plane.
func (n *node) ask(a replica.Ask) {
	wish := control.Ask{Kind: askKinds[a.Kind], From: state.Incarnation(n.id), Epoch: a.Epoch, Peer: a.Peer, AssignID: a.Assign}
	if n.group != nil {
		n.group.Ask(wish)
		return // it is sent with the next turn
	}
	n.tell(func(l *leader) { _ = l.Ask(l.n.time(), wish) })
}

var askKinds = map[replica.AskKind]control.AskKind{
	replica.AskActivate: control.AskActivate, replica.AskPromote: control.AskPromote,
	replica.AskReport: control.AskReport, replica.AskEpoch: control.AskEpoch,
}

// deliver sends a message: the values it carries are read now.
func (n *node) deliver(m replica.Message) {
	w := n.w
	var version, base int
	if m.Version.Carried {
		version = n.store.Value(m.Version.Value.Blob)
	}
	if m.Base.Carried {
		base = n.store.Value(m.Base.Value.Blob)
	}
	to := w.node(uint64(m.To))
	if to == nil {
		return
	}
	w.send(n.slot, to.slot, func() {
		w.wake(to, func() { to.receive(m, version, base) })
	})
}

// receive hands a message to the replica, with values in blobs of its own.
func (n *node) receive(m replica.Message, version, base int) {
	w := n.w
	if w.trace != nil {
		w.logf("n%d(%d) <- %d %v", n.slot, n.id, m.From, describe(&m))
	}
	if m.Version.Carried {
		n.land(&m.Version, len(m.Key), version)
		if (m.Kind == replica.Stage || m.Kind == replica.Fill) && !w.healed && w.chance(w.full) {
			n.store.Free(m.Version.Value.Blob)
			m.Version.Carried, m.Version.Value.Blob = false, 0
		}
	}
	if m.Base.Carried {
		n.land(&m.Base, len(m.Key), base)
	}
	n.part.Step(n.clock(), &m, &n.out)
	n.effects()
}

// land brings a value into a blob of this node.
func (n *node) land(c *replica.Copy, keyBytes, value int) {
	var ok bool
	if c.Value.Blob, ok = n.store.New(keyBytes, value, c.Value.Bytes); !ok {
		n.w.fault("node %d has no room for a value", n.id)
	}
}

func describe(m *replica.Message) string {
	return fmt.Sprintf("kind %d epoch %d assign %d key %s gen %x version {%x deleted %v carried %v same %x} base %x floor %x number %d items %d page %+v",
		m.Kind, m.Epoch, m.Assign, m.Key, m.Gen, m.Version.Gen, m.Version.Deleted, m.Version.Carried, m.Version.Same, m.Base.Gen, m.Floor, m.Number, len(m.Items), m.Page)
}

// reply ends a request; what was observed is confirmed first, perhaps much later.
func (n *node) reply(r replica.Reply) {
	w := n.w
	at := n.tokens[r.Token]
	if at == nil {
		if r.Token != 0 {
			w.fault("node %d answers request %d twice or unasked", n.id, r.Token)
		}
		return
	}
	delete(n.tokens, r.Token)
	var value int
	if r.Status == wire.StatusOK && at.op.kind == wire.KindGet {
		value = n.store.Value(r.Value.Blob)
	}
	finish := func() {
		if r.Observed && !n.part.Confirm(n.clock(), r.Epoch) {
			r = replica.Reply{Status: r.Otherwise}
		}
		if w.trace != nil {
			w.logf("n%d(%d) replies %v gen %x to client %d op %d attempt %d", n.slot, n.id, r.Status, r.Gen, at.op.origin.Client, at.op.origin.Counter, at.number)
		}
		w.respond(n, at, r, value)
	}
	switch {
	case !r.Observed || w.healed || !w.chance(w.slowConfirm):
		finish()
	default:
		limit := int64(150)
		if w.rng.IntN(2) == 0 {
			limit = 2 * w.lease
		}
		w.on(n, w.between(1, limit), finish)
	}
}

// A tick is so long that the control plane's fixed delays of seconds fit a lease of a thousand of them.
const tick = 2 * time.Millisecond

// unix is what all clocks of the world show in seconds, as far as epochs are concerned: some grow by it, some by one.
func (w *world) unix() uint32 { return uint32(w.now / 100) }

func ticks(n int64) time.Duration { return time.Duration(n) * tick }

// time is the clock as the control plane's packages read it.
func (n *node) time() time.Duration { return time.Duration(n.clock()) * tick }
