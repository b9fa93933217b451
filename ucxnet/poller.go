package ucxnet

/*
#include "shim.h"
*/
import "C"

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
)

// A poller is the one goroutine that uses the rails. It owns every field below and everything that
// these reach, save what says otherwise.
type poller struct {
	n     *Network
	log   zerolog.Logger // sampled: peers can provoke lines
	start time.Time      // zero of every nanos
	now   nanos          // at the begin of the turn, or when its events came
	stamp time.Time      // now, when events came last

	rails     railSet
	tcp       *rail
	shmRails  int                  // of connections by shared memory
	orphaned  []*rail              // whose connection has ended; closed after the turn
	endpoints map[uint64]*endpoint // by token; all of them
	lastToken uint64
	dirty     []*endpoint // have an open batch
	inbound   int
	greeting  int // inbound endpoints that are not open yet
	links     []*link

	calls     callTable
	transfers transferTable
	held      int           // bytes of buffers that are in use
	buffers   [3]bufferPool // by size
	spareOut  []*outgoing
	spareIn   []*incoming

	req  transport.Request // reused for every call of the handler
	conn requestConn

	turns      uint64
	completed  bool          // a call was completed since the last yield: its caller may be waiting for this processor
	quarantine []quarantined // bodies sent by shared memory whose endpoints were closed; by due
	nextTick   nanos
	impolite   nanos // until then no other process goes first
	lastTurn   nanos
	spin       spinner
	fdsDirty   bool // UCX may have opened descriptors since they were last marked
	stats      Stats

	stopping atomic.Bool
	lookups  sync.WaitGroup // name look-ups under way
	ctx      context.Context
	cancel   context.CancelFunc
}

// nanos is a time on the poller's own monotonic clock.
type nanos int64

const (
	tickEvery      = nanos(10 * time.Millisecond)
	unsettledSleep = nanos(50 * time.Millisecond)  // while something is connecting, closing or resting
	tcpRounds      = 2                             // fruitless polls of UCX in a turn that finds nothing: each is a system call
	shmRounds      = 32                            // the same by shared memory, of all rails: each is a few loads, far less than a turn
	answerSteps    = 8                             // of a rail in a turn, while what came causes commands
	politeTurns    = 4                             // fruitless turns by shared memory after which other processes go first
	yieldTurns     = 16                            // turns without a yield, at most
	courtesy       = nanos(600 * time.Microsecond) // what another process may take of the processor when we give way
	afterCourtesy  = nanos(30 * time.Millisecond)
	giveUpAfter    = nanos(time.Second)
	drainAtMost    = nanos(3 * time.Second)
	receiveExtra   = nanos(2 * time.Second)
	refusedLinger  = nanos(200 * time.Millisecond)
)

func newPoller(n *Network) (*poller, error) {
	p := &poller{
		n:         n,
		log:       n.config.Log.Sample(&zerolog.BurstSampler{Burst: 20, Period: time.Second}),
		start:     time.Now(),
		rails:     railSet{sleeper: n.sleeper},
		endpoints: map[uint64]*endpoint{},
		spin:      newSpinner(),
		buffers:   newBufferPools(),
	}
	for _, r := range n.rails {
		if err := p.rails.add(r); err != nil {
			return nil, err
		}
	}
	p.tcp = n.rails[0]
	p.conn.p = p
	p.calls.earliest = never
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// stop makes run return; any goroutine may call it.
func (p *poller) stop() {
	p.stopping.Store(true)
	p.n.sleeper.wakeIfAsleep()
}

func (p *poller) clock() nanos { return nanos(time.Since(p.start)) }

// run polls until stop. It spins for a while when there is nothing to do, and then sleeps.
//
// While calls are pending it yields every turn, so that their callers run and what they send next goes out
// together. Without them it seldom yields, since with every yield Go's scheduler wakes an idle thread to look
// for work: on few processors that thread takes the time of the process at the other end.
func (p *poller) run() {
	defer p.cancel()
	p.now = p.clock()
	for !p.stopping.Load() {
		work := p.turn()
		if p.calls.len > 0 || p.completed || p.turns%yieldTurns == 0 {
			p.completed = false
			runtime.Gosched()
		}
		if work {
			p.spin.found(p.now)
			continue
		}
		if p.spin.fruitless() > p.patience() && p.now >= p.impolite {
			p.giveWay()
		}
		if p.spin.worth(p.now) {
			continue
		}
		if runtime.Gosched(); !p.n.inbox.empty() {
			continue // what came woke somebody, who had something to send at once
		}
		woken := p.sleep()
		p.spin.slept(p.clock(), woken) // not woken: only the tick is due, and it sleeps again at once if that finds nothing
	}
	p.shutdown()
}

// patience is how many fruitless turns the poller keeps its processor for. By tcp none: a turn costs several
// system calls already, one more is little beside the wait of a process that has what we wait for.
func (p *poller) patience() int {
	if len(p.rails.awake) == 1 && p.rails.awake[0] == p.tcp {
		return 0
	}
	return politeTurns
}

// giveWay lets another process have this processor if one waits for it: where there are more pollers than
// processors, a spinning one would keep the others from the very work it waits for. Alone, it costs a system
// call. One that does not give it back soon is no such poller: it has its share anyway, and no courtesy for a while.
func (p *poller) giveWay() {
	from := p.clock()
	_, _, _ = syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
	if p.clock()-from > courtesy {
		p.impolite = from + afterCourtesy
	}
}

// turn takes what was submitted, sends it, lets UCX progress and handles what came of it. It reports
// whether anything happened or is left to be sent.
func (p *poller) turn() bool {
	p.now = p.clock()
	p.noteStall()
	p.lastTurn = p.now
	p.turns++
	work := p.takeInbox()
	p.flush()
	for i := 0; i < len(p.rails.awake); i++ { // they may become more meanwhile
		if r := p.rails.awake[i]; !p.rails.resting(r, p.turns) {
			work = p.advance(r) || work
		}
	}
	if p.turns%restPeriod == 0 {
		p.rails.rest()
	}
	p.closeOrphaned()
	if p.now >= p.nextTick {
		p.noteStall() // in the midst of this turn, too
		p.tick()
	}
	work = work || len(p.dirty) > 0
	for _, r := range p.rails.awake {
		work = work || len(r.cmds) > 0
	}
	return work
}

// advance gives r its commands, lets UCX progress and handles what came of it; answers go out at once. It
// reports whether anything happened.
func (p *poller) advance(r *rail) (work bool) {
	for range answerSteps {
		if r.step(p.rounds(r)) == 0 && r.c.active == 0 {
			break
		}
		work = true
		p.now = p.clock()
		p.stamp = p.start.Add(time.Duration(p.now))
		if r.shm && p.now-p.lastTurn > nanos(p.n.timing.Dead) {
			p.closeRail(r, "stopped", errStopped)
		}
		p.handle(r)
		p.flush()
		if len(r.cmds) == 0 {
			break
		}
	}
	if work {
		r.fruitless = 0
	} else {
		r.fruitless++
	}
	return work
}

// rounds is how often UCX is asked before a turn counts as fruitless. Right after work it is once, since
// callers may be about to run; then a turn's own cost is worth more than one look.
func (p *poller) rounds(r *rail) int {
	switch {
	case r.fruitless == 0:
		return 1
	case r.shm:
		return max(1, shmRounds/len(p.rails.awake))
	}
	return tcpRounds
}

// noteStall looks whether this process stood still since the turn began, or since the one before.
func (p *poller) noteStall() {
	if gap := p.now - p.lastTurn; gap > nanos(p.n.timing.Dead)/2 {
		p.stalled(gap)
		p.lastTurn = p.now // forgiven once
	}
}

// stalled forgives the peers a silence that may be ours: this process was not scheduled (or a handler
// blocked), and what arrived meanwhile is still in the sockets. By shared memory, what we are about to
// read may belong to somebody else by now: see rest.go.
func (p *poller) stalled(gap nanos) {
	p.stats.Stalls++
	for _, ep := range p.endpoints {
		ep.heard, ep.moved, ep.since = p.now, p.now, ep.since+gap
		if ep.rail.shm && gap > nanos(p.n.timing.Dead) {
			p.closeEndpoint(ep, "stopped", errStopped)
		}
	}
}

func (p *poller) takeInbox() bool {
	c := p.n.inbox.take()
	if c == nil {
		return false
	}
	for c != nil {
		next := c.Transport.Next
		c.Transport.Next = nil
		switch o := c.Transport.Link.(type) {
		case *pending:
			p.startCall(o)
		case *answer:
			p.sendAnswer(o)
		case *command:
			o.run(p)
		}
		c = next
	}
	return true
}

// flush seals the open batches and gives them to their rails. When UCX does not get rid of the earlier
// ones, a batch stays open to fill up.
func (p *poller) flush() {
	for _, ep := range p.dirty {
		ep.dirty = false
		if ep.messages < heldMessages {
			p.sealBatch(ep)
		}
	}
	p.dirty = p.dirty[:0]
	p.relieve()
}

// handle handles the events of r, those too that come of what is submitted meanwhile.
func (p *poller) handle(r *rail) {
	for e, ok := r.next(); ok; e, ok = r.next() {
		switch e.kind {
		case C.DN_EV_AM:
			p.onMessage(r, &e)
		case C.DN_EV_SENT:
			if t := p.transfers.take(uint64(e.token)); t != nil {
				p.sent(t, Status(e.status))
			}
		case C.DN_EV_RECEIVED:
			if t := p.transfers.take(uint64(e.token)); t != nil {
				p.received(t, Status(e.status))
			}
		case C.DN_EV_CONN:
			p.onConnection(r, &e)
		case C.DN_EV_EP:
			p.onCreated(r, &e)
		case C.DN_EV_ERROR:
			if ep := p.endpoints[uint64(e.token)]; ep != nil {
				p.closeEndpoint(ep, "peer gone", Status(e.status))
			}
		case C.DN_EV_CLOSED:
			if ep := p.endpoints[uint64(e.token)]; ep != nil {
				p.onClosed(ep)
			}
		}
	}
	if lost := uint64(r.c.lost); lost != r.lost {
		p.stats.LostEvents += lost - r.lost
		r.lost = lost
		p.closeRail(r, "events lost", errLost)
	}
}

// sleep parks until there is work or something falls due. False: it was time.
func (p *poller) sleep() bool {
	p.publish()
	p.stats.Sleeps++
	d := max(p.nextDue()-p.clock(), nanos(time.Millisecond))
	p.lastTurn += d // to sleep so long is no stall
	woken := p.rails.park(time.Duration(d), func() bool { return !p.n.inbox.empty() || p.stopping.Load() })
	if !woken {
		p.nextTick = 0
	}
	return woken
}

// nextDue is when the next tick is needed, at the latest.
func (p *poller) nextDue() nanos {
	due := p.now + p.n.longestSleep
	for _, ep := range p.endpoints {
		due = min(due, p.endpointDue(ep))
	}
	if p.stats.Resting+len(p.quarantine) > 0 || p.fdsDirty {
		due = min(due, p.now+unsettledSleep)
	}
	due = min(due, p.calls.earliest)
	for _, l := range p.links {
		for i := range l.carriers {
			if c := &l.carriers[i]; c.ep == nil && !c.looking {
				due = min(due, c.next)
			}
		}
	}
	return due
}

// tick does what is due by time: about every 10 ms while awake, and when it is due while asleep.
func (p *poller) tick() {
	p.nextTick = p.now + tickEvery
	p.expireCalls()
	for _, ep := range p.endpoints {
		p.checkEndpoint(ep)
	}
	for _, l := range p.links {
		p.reconnect(l)
	}
	p.stats.Resting = int(C.dn_rest_tick())
	p.releaseRested()
	if p.fdsDirty {
		p.fdsDirty = false
		p.n.sleeper.inherited.closeOnExec()
	}
	p.publish()
}

func (p *poller) publish() {
	p.stats.Endpoints, p.stats.Inbound = len(p.endpoints), p.inbound
	p.stats.Calls, p.stats.Transfers = p.calls.len, p.transfers.len
	p.stats.Outstanding = 0
	for _, r := range p.rails.all {
		p.stats.Outstanding += int(r.c.outstanding)
	}
	p.stats.ShmRails, p.stats.SendBytes = p.shmRails, p.held
	p.n.mu.Lock()
	p.n.stats = p.stats.clone()
	p.n.mu.Unlock()
}

// shutdown ends every call, body and endpoint while UCX still works.
func (p *poller) shutdown() {
	p.cancel()
	for len(p.links) > 0 {
		p.removeLink(p.links[len(p.links)-1])
	}
	for deadline := p.clock() + drainAtMost; ; {
		for _, ep := range p.endpoints {
			p.closeEndpoint(ep, "shutdown", dramnode.ErrClosed)
		}
		p.turn()
		if len(p.endpoints) == 0 {
			break
		}
		if p.clock() > deadline {
			for _, ep := range p.endpoints {
				p.giveUp(ep)
			}
			break
		}
		runtime.Gosched()
	}
	p.turn() // commands that the last events caused
	for len(p.quarantine) > 0 {
		time.Sleep(time.Millisecond)
		p.turn()
	}
	p.lookups.Wait()
	p.n.inbox.close()
	p.freeBuffers()
	p.publish()
}
