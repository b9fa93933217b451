package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/control/group"
	"github.com/dramnode/dramnode/control/leader"
	"github.com/dramnode/dramnode/control/lease"
	"github.com/dramnode/dramnode/control/member"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

const (
	seedsInterval  = 200 * time.Millisecond
	acceptInterval = 200 * time.Millisecond
	maxMemberCalls = 4096 // messages to other members under way; more are dropped, as a network would
)

// A plane is this node's part in the replicated control plane. Member decides; here is how it finds the others and
// reaches them, and what the rest of the node sees of it.
type plane struct {
	n      *Node
	member *member.Member
	shown  atomic.Pointer[shown]
	seeds  atomic.Pointer[group.Seeds]
	calls  atomic.Int64 // under way

	refusal context.Context // ends, with the reason, when a cluster will never have us
	refuse  context.CancelCauseFunc
}

// A shown table is encoded when somebody asks for it.
type shown struct {
	*control.Table
	encoded func() []byte
}

func newPlane(n *Node) (*plane, error) {
	p := &plane{n: n}
	p.seeds.Store(&group.Seeds{})
	p.refusal, p.refuse = context.WithCancelCause(context.Background())
	g := group.Config{
		Self:     state.Node{Incarnation: state.Incarnation(n.self.Incarnation), Name: n.self.Name, Addr: n.self.Addr, Zone: n.self.Zone},
		Settings: n.cfg.Settings, MaxValue: uint32(n.cfg.MaxValueBytes), Params: n.cfg.params(), Timing: n.cfg.timing(),
		Seed: newID(), NewID: newID,
	}
	if len(n.cfg.Join) > 0 {
		g.Seeds = func() group.Seeds { return *p.seeds.Load() }
	}
	var err error
	p.member, err = member.New(member.Config{
		Group: g, Peers: p, OnTable: p.onTable, Sizes: func() []group.Usage { return n.replicas.usage() },
		Boot: n.cfg.Boot, Wall: time.Now, Log: n.cfg.Log,
	})
	return p, err
}

// params are the policies of a cluster that this node founds.
func (c *Config) params() state.Params {
	p := state.DefaultParams()
	p.Mode, p.Replicas, p.MinSync, p.OnLoss, p.LostAfter = c.Mode, uint8(c.Replicas), uint8(c.MinSync), c.OnLoss, c.LostAfter
	p.ForgetAfter = max(p.ForgetAfter, p.LostAfter)
	return p
}

// timing keeps the proportions of the default.
func (c *Config) timing() lease.Timing {
	t := lease.DefaultTiming()
	t.Renew = c.Lease * t.Renew / t.Length
	t.Batch = min(t.Batch, t.Renew/4)
	t.Length = c.Lease
	return t
}

// run keeps the table current until ctx ends, or until this process must not go on under its identity; then it returns
// control.ErrRetired or the reason why joining was refused.
func (p *plane) run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer context.AfterFunc(p.refusal, stop)()
	var looking sync.WaitGroup
	looking.Go(func() { p.look(ctx) })
	err := p.member.Run(ctx)
	stop()
	looking.Wait()
	switch {
	case err == nil && p.refusal.Err() != nil:
		return context.Cause(p.refusal)
	case member.Retired(err):
		return control.ErrRetired
	}
	return err
}

// look finds out whom to turn to, until this process has a cluster. It is apart from the member, since names
// may take long to resolve.
func (p *plane) look(ctx context.Context) {
	ticker := time.NewTicker(seedsInterval)
	defer ticker.Stop()
	for p.member.Table() == nil {
		seeds := p.lookAround()
		p.seeds.Store(&seeds)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// lookAround returns the members of a cluster that is in sight and, once all seeds are in sight and this process
// is one of them, the founders. Of several clusters only one may admit us.
func (p *plane) lookAround() (seeds group.Seeds) {
	sightings := p.n.sightings()
	var cluster uint64 // the lowest: no reason but that it stays the same
	for _, s := range sightings {
		if s.cluster != 0 && s.incarnation != p.n.self.Incarnation && (cluster == 0 || s.cluster < cluster) {
			cluster = s.cluster
		}
	}
	for _, s := range sightings {
		if cluster != 0 && s.cluster == cluster {
			seeds.Members = append(seeds.Members, s.addr)
		}
	}
	addresses, err := p.n.founders()
	if err != nil {
		p.n.cfg.Log.Debug().Err(err).Msg("not founding a cluster")
	}
	var founders []string
	for _, a := range addresses {
		i := slices.IndexFunc(sightings, func(s sighting) bool { return s.gossip == a })
		if i < 0 {
			return seeds
		}
		founders = append(founders, sightings[i].addr)
	}
	slices.Sort(founders)
	seeds.Founders = slices.Compact(founders)
	return seeds
}

// onTable shows a new table to the rest of the node, and returns when every replica has adopted its row.
func (p *plane) onTable(old, s *state.State) {
	if t := project(s); t != nil {
		p.shown.Store(&shown{t, sync.OnceValue(func() []byte { return t.Append(nil) })})
		p.n.show(t)
		if old == nil || old.Era != s.Era || old.NodesVersion != s.NodesVersion {
			p.n.janitor.add(p.n.followTable)
		}
	}
	p.n.replicas.adopt(old, s)
}

// Send implements member.Peers.
func (p *plane) Send(addr string, b []byte) {
	if addr == p.n.self.Addr { // a seed may be another name of this process
		_ = p.member.Deliver(b)
		return
	}
	if p.calls.Add(1) > maxMemberCalls {
		p.calls.Add(-1)
		return
	}
	c := &memberCall{controlCall: controlCall{peers: p.n.peers, done: make(chan struct{})}, plane: p, addr: addr}
	if err := p.n.peers.start(&c.controlCall, c, addr, wire.KindMember, b, time.Now().Add(p.n.cfg.Lease)); err != nil {
		p.calls.Add(-1)
		p.n.cfg.Log.Debug().Err(err).Str("addr", addr).Msg("control message not sent")
	}
}

// A memberCall is a message on its way.
type memberCall struct {
	controlCall
	plane *plane
	addr  string
}

// Complete implements transport.Completer. A lost message is none of our business, but a process that we
// asked to join may say that it cannot even understand us.
func (c *memberCall) Complete(call *transport.Call, header, body []byte, err error) {
	c.controlCall.Complete(call, header, body, err)
	p := c.plane
	p.calls.Add(-1)
	if (errors.Is(c.err, dramnode.ErrInvalid) || errors.Is(c.err, dramnode.ErrClusterConflict)) && p.member.Table() == nil {
		p.refuse(fmt.Errorf("the cluster at %s refuses us: %w", c.addr, c.err))
	}
}

// table returns the newest table known here, nil before the first.
func (p *plane) table() *control.Table {
	if s := p.shown.Load(); s != nil {
		return s.Table
	}
	return nil
}

// leave asks for our partitions to be given to others. It was heard when the table says that we are leaving, and run ends
// when it is done; asking again does no harm.
func (p *plane) leave() error {
	return p.member.Ask(leader.Ask{Kind: leader.AskLeave})
}

// accept acknowledges what is lost by now, and returns of how many partitions once the table says so. With
// state.Refuse those partitions start again.
func (p *plane) accept(ctx context.Context) (accepted int, err error) {
	ticker := time.NewTicker(acceptInterval)
	defer ticker.Stop()
	var wanted []int
	for first := true; ; first = false {
		s := p.member.Table()
		if s == nil {
			return 0, errNoTable
		}
		if first {
			for row := range s.Rows {
				if lost(s, row) {
					wanted = append(wanted, row)
				}
			}
		}
		left := 0
		for _, row := range wanted {
			if lost(s, row) {
				left++
				r := &s.Rows[row]
				_ = p.member.Ask(leader.Ask{Kind: leader.AskAccept, Partition: ring.Partition(row), Count: r.LossCount + r.Doubts}) // again at the next turn
			}
		}
		if left == 0 {
			return len(wanted), nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%w: the losses of %d partitions are not accepted yet: nobody leads, or copies may still come back", dramnode.ErrUnavailable, left)
		case <-ticker.C:
		}
	}
}

// refound has the control plane founded anew by those that are left, on an operator's word that these nodes are dead, and
// returns when this node serves again.
func (p *plane) refound(ctx context.Context, dead []string) (*control.Recovery, error) {
	ticker := time.NewTicker(acceptInterval)
	defer ticker.Stop()
	before := p.member.Table()
	if before == nil {
		return nil, errNoTable
	}
	for {
		now := p.member.Table()
		if now.Era > before.Era && p.member.Leased() {
			return recovered(before, now), nil
		}
		err := error(nil)
		if now.Era == before.Era {
			// In time of its own: why it cannot be is told even where the operator's time is over.
			say, cancel := context.WithTimeout(context.WithoutCancel(ctx), operatorMargin/2)
			err = p.member.Recover(say, dead)
			cancel()
			if err != nil && !errors.Is(err, dramnode.ErrUnavailable) {
				return nil, err
			}
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("%w: the others are not ready for another era yet", dramnode.ErrUnavailable)
			}
			return nil, err
		case <-ticker.C:
		}
	}
}

// recovered says what became of the partitions.
func recovered(before, now *state.State) *control.Recovery {
	r := &control.Recovery{Era: now.Era}
	for i := range now.Nodes {
		if n := &now.Nodes[i]; n.Serves() {
			r.Nodes = append(r.Nodes, n.Name)
		}
	}
	slices.Sort(r.Nodes)
	for p := range now.Rows {
		row, was := &now.Rows[p], &before.Rows[p]
		switch {
		case row.LossCount > was.LossCount || len(now.Serving(row.ActSync)) == 0:
			r.Lost++
		case row.Doubts > was.Doubts:
			r.Doubts++
		}
	}
	return r
}

// lost reports whether a row has something for an operator to accept.
func lost(s *state.State, row int) bool {
	r := &s.Rows[row]
	return r.Unaccepted() > 0 || s.Params.OnLoss == state.Refuse && len(s.Serving(r.ActSync)) == 0
}

// serve answers a control request of a peer.
func (p *plane) serve(kind wire.Kind, body []byte) ([]byte, error) {
	switch kind {
	case wire.KindMember:
		return nil, p.member.Deliver(body)
	case wire.KindTable:
		if s := p.shown.Load(); s != nil {
			return s.encoded(), nil
		}
		return nil, errNoTable
	}
	return nil, fmt.Errorf("%w: control request of kind %d", dramnode.ErrInvalid, kind)
}

// events returns what an operator would want to know, oldest first.
func (p *plane) events() []control.Event {
	var events []control.Event
	for _, e := range p.member.Events() {
		events = append(events, control.Event(e))
	}
	return events
}

// info tells people about the replicated control plane.
func (p *plane) info() control.ReplicationInfo {
	status, s := p.member.Status(), p.member.Table()
	params := p.n.cfg.params()
	info := control.ReplicationInfo{
		Mode: params.Mode.String(), Replicas: int(params.Replicas), MinSync: int(params.MinSync), OnLoss: params.OnLoss.String(), LeaseSeconds: p.n.cfg.Lease.Seconds(),
		Leading: status.Leading, Dropped: status.Dropped,
	}
	if s == nil {
		return info
	}
	info.Era = s.Era
	if n := s.Node(status.Leader); n != nil {
		info.Leader = n.Name
	}
	if status.Leading {
		h := control.Health(status.Health)
		info.Health = &h
	}
	return info
}
