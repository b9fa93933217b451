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

// A memberPlane is this node's part in the replicated control plane, as a plane. Member decides; here is how
// it finds the others and reaches them, and what the rest of the node sees of it.
type memberPlane struct {
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

func newMemberPlane(n *Node) (*memberPlane, error) {
	p := &memberPlane{n: n}
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
	p.Replicas, p.MinSync, p.OnLoss, p.LostAfter = uint8(c.Replicas), uint8(c.MinSync), c.OnLoss, c.Limits.LostAfter
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

// Run implements plane.
func (p *memberPlane) Run(ctx context.Context) error {
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
func (p *memberPlane) look(ctx context.Context) {
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
func (p *memberPlane) lookAround() (seeds group.Seeds) {
	sightings := p.n.sightings()
	var cluster uint64 // the lowest: no reason but that it stays the same
	for _, s := range sightings {
		if s.ClusterID != 0 && s.Incarnation != p.n.self.Incarnation && (cluster == 0 || s.ClusterID < cluster) {
			cluster = s.ClusterID
		}
	}
	for _, s := range sightings {
		if cluster != 0 && s.ClusterID == cluster {
			seeds.Members = append(seeds.Members, s.Addr)
		}
	}
	addresses, err := p.n.founders()
	if err != nil {
		p.n.cfg.Log.Debug().Err(err).Msg("not founding a cluster")
	}
	var founders []string
	for _, a := range addresses {
		i := slices.IndexFunc(sightings, func(s control.Sighting) bool { return s.Gossip == a })
		if i < 0 {
			return seeds
		}
		founders = append(founders, sightings[i].Addr)
	}
	slices.Sort(founders)
	seeds.Founders = slices.Compact(founders)
	return seeds
}

// onTable shows a new table to the rest of the node, and returns when every replica has adopted its row.
func (p *memberPlane) onTable(old, s *state.State) {
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
func (p *memberPlane) Send(addr string, b []byte) {
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
	plane *memberPlane
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

// Table implements plane.
func (p *memberPlane) Table() *control.Table {
	if s := p.shown.Load(); s != nil {
		return s.Table
	}
	return nil
}

// Leave implements plane.
func (p *memberPlane) Leave(context.Context) error {
	return p.member.Ask(leader.Ask{Kind: leader.AskLeave})
}

// accept acknowledges what is lost by now, and returns of how many partitions once the table says so. With
// state.Refuse those partitions start again.
func (p *memberPlane) accept(ctx context.Context) (accepted int, err error) {
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

// lost reports whether a row has something for an operator to accept.
func lost(s *state.State, row int) bool {
	r := &s.Rows[row]
	return r.Unaccepted() > 0 || s.Params.OnLoss == state.Refuse && len(s.Serving(r.ActSync)) == 0
}

// Serve implements plane.
func (p *memberPlane) Serve(kind wire.Kind, body []byte) ([]byte, error) {
	switch kind {
	case wire.KindMember:
		return nil, p.member.Deliver(body)
	case wire.KindTable:
		if s := p.shown.Load(); s != nil {
			return s.encoded(), nil
		}
		return nil, errNoTable
	case wire.KindPropose, wire.KindProbe, wire.KindPublish:
		return nil, fmt.Errorf("%w: %w: settings differ: replicas 1 here, %d there", dramnode.ErrInvalid, dramnode.ErrClusterConflict, p.n.cfg.Replicas)
	}
	return nil, fmt.Errorf("%w: control request of kind %d", dramnode.ErrInvalid, kind)
}

// Hint implements plane. Each renewal of the lease brings the newest table.
func (p *memberPlane) Hint(uint64) {}

// Quorate implements plane.
func (p *memberPlane) Quorate() bool { return p.member.Leased() }

// QuorateAt implements plane.
func (p *memberPlane) QuorateAt(now time.Time) bool { return now.Before(p.QuorateUntil()) }

// QuorateUntil implements plane.
func (p *memberPlane) QuorateUntil() time.Time {
	now := time.Now() // first: what takes time after it makes the term shorter, not longer
	return now.Add(p.member.Until() - p.n.cfg.Boot())
}

// Events implements plane.
func (p *memberPlane) Events() []control.Event {
	var events []control.Event
	for _, e := range p.member.Events() {
		events = append(events, control.Event(e))
	}
	return events
}

// Conflicts implements plane.
func (p *memberPlane) Conflicts() uint64 { return p.member.Status().Conflicts }

// info tells people about the replicated control plane.
func (p *memberPlane) info() *control.ReplicationInfo {
	status, s := p.member.Status(), p.member.Table()
	params := p.n.cfg.params()
	info := &control.ReplicationInfo{
		Replicas: int(params.Replicas), MinSync: int(params.MinSync), OnLoss: params.OnLoss.String(), LeaseSeconds: p.n.cfg.Lease.Seconds(),
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
