package ucxnet

/*
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// An endpoint's state only grows.
type epState uint8

const (
	epCreating    epState = iota // UCX has not returned a handle
	epGreeting                   // the handshake runs; nothing but hellos is accepted
	epIntroducing                // the peer has proved itself; its intro is awaited
	epOpen
	epRefusing // our refusal is on its way
	epClosing  // to be closed by force, or being so
	epClosed   // UCX has forgotten it; transfers may still be out
)

// An endpoint is one UCX connection, dialled by a link or inbound.
type endpoint struct {
	token  uint64
	rail   *rail
	ucp    C.uint64_t
	state  epState
	link   *link // nil for inbound ones
	remote string
	since  nanos // of state epCreating; of epRefusing, epClosing: then

	handshake handshake
	peer      *transport.Peer // from epOpen on
	intro     intro           // the peer's

	batch  *buffer // open message, nil for none
	frames int     // in it
	dirty  bool    // is in poller.dirty

	calls     pendingList // sent by here, without reply
	transfers int         // given to UCX, not back
	receiving int         // of them bodies of inbound requests
	messages  int         // of them messages going out
	queued    int         // bytes of the buffers of these, and of frames with a separate body
	arriving  int         // bytes of bodies being received
	bulk      bulkQueue
	incoming  map[bodyKey]*incoming // bodies that are not all here

	heard  nanos // when the peer was heard last
	moved  nanos // when a transfer began after none, or ended last
	spoke  nanos // when a message was last sent to it
	pinged nanos
}

var (
	errLost        = errors.New("out of memory")
	errSilent      = errors.New("no sign of life from the peer")
	errConnectTime = errors.New("timed out while connecting")
	errSlow        = errors.New("the peer does not read")
	errProtocol    = errors.New("protocol violation")
	errTooMany     = errors.New("too many connections")
	errStopped     = errors.New("this process stood still for so long that the peer may have given up what it sent")
)

func (p *poller) newEndpoint(r *rail, l *link) *endpoint {
	p.lastToken++
	ep := &endpoint{token: p.lastToken, rail: r, link: l, since: p.now, heard: p.now}
	ep.handshake = newHandshake(p.n.config.Identity, l != nil, p.n.nonce())
	p.endpoints[ep.token] = ep
	if l == nil {
		p.inbound++
		p.greeting++
	}
	p.fdsDirty = true
	return ep
}

// dial starts to connect l by r.
func (p *poller) dial(r *rail, l *link, addr netip.AddrPort) *endpoint {
	ep := p.newEndpoint(r, l)
	ep.remote = addr.String()
	ep.batch = p.buffer(smallBufferBytes) // holds the address until UCX has read it
	ep.batch.used = append(ep.batch.used, sockaddr(addr)...)
	c := r.command(C.DN_CONNECT)
	c.token = C.uint64_t(ep.token)
	c.head, c.head_len = cAddr(ep.batch.used), C.uint64_t(len(ep.batch.used))
	return ep
}

// onConnection accepts a connection request; over the limits it closes it at once. (ucp_listener_reject
// is not used: it leaves a write event behind for a descriptor that the next newcomer gets, and UCX
// 1.13.1 then aborts.)
//
// By shared memory the connection gets a worker of its own, save one to be closed at once: it stays in
// the lobby, where it has no time to do harm.
func (p *poller) onConnection(r *rail, e *C.dn_event) {
	remote := parseSockaddr(cBytes(e.data, int(e.len)))
	tooMany := p.inbound >= p.n.limits.Endpoints || p.greeting >= p.n.limits.Handshakes || r.shm && p.shmRails >= p.n.limits.ShmPeers
	if r.shm && !tooMany && !p.stopping.Load() {
		if own, err := p.openShmRail(); err == nil {
			r = own
		} else {
			p.log.Warn().Err(err).Msg("no shared memory for a peer that connects")
			tooMany = true
		}
	}
	ep := p.newEndpoint(r, nil)
	ep.remote = remote
	c := r.command(C.DN_ACCEPT)
	c.ep, c.token = e.ep, C.uint64_t(ep.token)
	if tooMany && !p.stopping.Load() {
		p.stats.Rejected++
		p.log.Warn().Str("peer", remote).Int("inbound", p.inbound).Msg("connection rejected: too many")
	}
	if tooMany || p.stopping.Load() {
		p.closeEndpoint(ep, "", errTooMany)
	}
}

func (p *poller) onCreated(r *rail, e *C.dn_event) {
	ep := p.endpoints[uint64(e.token)]
	if ep.batch != nil && ep.frames == 0 {
		p.putBuffer(ep.batch)
		ep.batch = nil
	}
	if e.status != 0 {
		p.closeEndpoint(ep, "not created", Status(e.status))
		p.onClosed(ep)
		return
	}
	ep.ucp = e.ep
	r.endpoints[ep.ucp] = ep
	if ep.state == epClosing {
		p.forceClose(ep)
		return
	}
	ep.state = epGreeting
	if ep.link != nil {
		p.sendHello(ep, ep.handshake.start())
	}
}

func (p *poller) sendHello(ep *endpoint, b []byte) {
	buf := p.buffer(smallBufferBytes)
	buf.used = append(buf.used, b...)
	p.submitMessage(ep, buf, C.DN_AM_HELLO)
}

// onHello takes a step of the handshake.
func (p *poller) onHello(ep *endpoint, b []byte) error {
	if ep.state != epGreeting {
		return fmt.Errorf("%w: hello after the handshake", errProtocol)
	}
	reply, err := ep.handshake.next(b)
	if reply != nil {
		p.sendHello(ep, reply)
	}
	if err != nil {
		if reply == nil {
			return err
		}
		ep.state, ep.since = epRefusing, p.now // closed when the peer has had time to read why
		p.log.Warn().Str("peer", ep.remote).Err(err).Msg("peer refused")
		p.countClosed("handshake")
		return nil
	}
	if ep.handshake.done() {
		ep.state = epIntroducing
		if ep.link != nil {
			p.introduce(ep, p.n.intro)
		}
	}
	return nil
}

func (p *poller) introduce(ep *endpoint, i intro) {
	p.appendFrame(ep, &wire.Frame{Kind: wire.FrameIntro, Header: appendIntro(nil, i)})
}

// answerIntro introduces us to a peer that has introduced itself.
func (p *poller) answerIntro(ep *endpoint, theirs intro) {
	mine := p.n.intro
	if !ep.rail.shm {
		if mine.unshared = p.offer(theirs); mine.unshared != shared {
			mine.shmPort = 0
			if mine.unshared > sharedElsewhere {
				p.countUnshared(mine.unshared)
			}
		}
	}
	p.introduce(ep, mine)
}

// onIntro opens the endpoint.
func (p *poller) onIntro(ep *endpoint, header []byte) error {
	i, err := parseIntro(header)
	if err != nil {
		return err
	}
	if ep.link == nil {
		p.answerIntro(ep, i)
	}
	ep.state, ep.intro = epOpen, i
	ep.peer = &transport.Peer{
		Role:        ep.handshake.theirs.role,
		Name:        i.name,
		Incarnation: ep.handshake.theirs.incarnation,
		Addr:        i.addr,
		Transport:   ep.rail.lanes(ep.ucp),
	}
	p.fdsDirty = true
	if ep.link == nil {
		p.greeting--
		return nil
	}
	ep.pinged = p.now
	p.linkOpened(ep)
	return nil
}

// checkEndpoint does what is due by time.
func (p *poller) checkEndpoint(ep *endpoint) {
	t := &p.n.timing
	switch ep.state {
	case epCreating, epGreeting, epIntroducing:
		if p.now-ep.since > p.connectLimit(ep) {
			p.closeEndpoint(ep, "connect timeout", errConnectTime)
		}
	case epOpen:
		if p.now-ep.heard > nanos(t.Dead)+ep.bulkTime() {
			p.closeEndpoint(ep, "silent", errSilent)
		} else if ep.mayBeStuck() && p.now-ep.moved > nanos(t.Dead)+ep.bulkTime() {
			p.closeEndpoint(ep, "stuck", errStuck)
		} else if p.now >= p.pingDue(ep)-nanos(t.Heartbeat)/pingTogether {
			ep.pinged = p.now
			p.appendFrame(ep, &wire.Frame{Kind: wire.FramePing, ID: uint64(p.now)})
		}
	case epRefusing:
		if p.now-ep.since > refusedLinger {
			p.closeEndpoint(ep, "", errProtocol)
		}
	case epClosing:
		if p.own(ep.rail) && p.now-ep.since > giveUpAfter && ep.ucp != 0 {
			p.giveUp(ep)
		}
	case epClosed:
		if p.now-ep.since > giveUpAfter {
			p.giveUp(ep)
		}
	}
}

// pingDue is when to ask the peer for a sign of life: it has given none for a while, or had none of us. Whoever dialled asks.
func (p *poller) pingDue(ep *endpoint) nanos {
	if ep.link == nil {
		return never
	}
	return max(min(ep.heard, ep.spoke), ep.pinged) + nanos(p.n.timing.Heartbeat)
}

// Pings that are due within this share of a heartbeat go at once: their answers come together too, and wake everybody once.
const pingTogether = 5

// endpointDue is when checkEndpoint has something to do.
func (p *poller) endpointDue(ep *endpoint) nanos {
	if ep.state != epOpen {
		return p.now + unsettledSleep
	}
	dead := ep.heard
	if ep.mayBeStuck() {
		dead = min(dead, ep.moved)
	}
	return min(dead+nanos(p.n.timing.Dead)+ep.bulkTime(), p.pingDue(ep))
}

// mayBeStuck reports whether something is to come of which nobody else would notice that it does not: by shared
// memory anything that UCX has, and by tcp the rest of a body whose next piece the peer does not send.
func (ep *endpoint) mayBeStuck() bool {
	if ep.transfers == 0 {
		return len(ep.incoming) > 0
	}
	return ep.rail.shm
}

// connectDoublings bounds how long the limit for connecting grows.
const connectDoublings = 3

// connectLimit is how long it may take until ep is open. On a machine with much to do a handshake takes as
// long as it takes, and one that is begun anew all the time never ends. So a dialler waits twice as long
// after each attempt that ran out of time; the acceptor lets it, unless many strangers say nothing, or hold
// workers that others may want: it does not always notice that a dialler gave up.
func (p *poller) connectLimit(ep *endpoint) nanos {
	doublings := connectDoublings
	if ep.link != nil {
		doublings = min(ep.link.carriers[carrierOf(ep.rail)].late, connectDoublings)
	} else if p.greeting > p.n.limits.Handshakes/2 || ep.rail.shm && p.shmRails > p.n.limits.ShmPeers/2 {
		doublings = 0
	}
	return nanos(p.n.timing.Connect) << doublings
}

// begin and end count what UCX holds.
func (ep *endpoint) begin(now nanos) {
	if ep.transfers == 0 {
		ep.moved = now
	}
	ep.transfers++
}

func (ep *endpoint) end(now nanos) {
	ep.transfers--
	ep.moved = now
}

// bulkTime is how much longer the peer may be silent because bodies are under way: heartbeats queue up
// behind them, and UCX does not tell how far they are.
func (ep *endpoint) bulkTime() nanos {
	const slowest = 32 << 20 // bytes per second
	return nanos(ep.bulk.bytes+ep.arriving+ep.queued) * nanos(time.Second) / slowest
}

// closeEndpoint closes ep by force and ends what travelled by it. reason is counted unless empty.
func (p *poller) closeEndpoint(ep *endpoint, reason string, cause error) {
	if ep.state >= epClosing {
		return
	}
	if reason != "" {
		p.countClosed(reason)
		p.log.Debug().Str("peer", ep.remote).Str("reason", reason).Err(cause).Msg("connection closed")
	}
	if errors.Is(cause, wire.ErrMalformed) || errors.Is(cause, errProtocol) {
		p.log.Warn().Str("peer", ep.remote).Err(cause).Msg("peer misbehaves: connection closed")
	}
	if ep.link == nil && ep.state < epOpen || ep.link == nil && ep.state == epRefusing {
		p.greeting--
	}
	created := ep.state != epCreating
	ep.state, ep.since = epClosing, p.now
	if created {
		p.forceClose(ep)
		p.dropBatch(ep)
	}
	if ep.link != nil {
		p.linkLost(ep, cause)
	}
	p.dropBulk(ep, cause)
	p.failCalls(ep, cause)
	p.dropIncoming(ep, cause)
}

func (p *poller) dropBatch(ep *endpoint) {
	if ep.batch != nil {
		p.putBuffer(ep.batch)
		ep.batch, ep.frames = nil, 0
	}
}

func (p *poller) forceClose(ep *endpoint) {
	c := ep.rail.command(C.DN_CLOSE)
	c.ep, c.token = ep.ucp, C.uint64_t(ep.token)
}

func (p *poller) closeRail(r *rail, reason string, cause error) {
	for _, ep := range p.endpoints {
		if ep.rail == r {
			p.closeEndpoint(ep, reason, cause)
		}
	}
}

func (p *poller) onClosed(ep *endpoint) {
	ep.state, ep.since = epClosed, p.now
	delete(ep.rail.endpoints, ep.ucp)
	p.forget(ep)
}

// forget drops a closed endpoint once UCX has given everything back.
func (p *poller) forget(ep *endpoint) {
	if ep.state != epClosed || ep.transfers > 0 || p.endpoints[ep.token] == nil {
		return
	}
	delete(p.endpoints, ep.token)
	if ep.link == nil {
		p.inbound--
	}
	if p.own(ep.rail) {
		p.orphaned = append(p.orphaned, ep.rail)
	}
}

// giveUp takes back what UCX does not finish: a peer killed inside a shared-memory rendezvous leaves
// requests that never end. The endpoint was closed by force long ago, and by shared memory its worker goes
// first: so nobody here writes any more.
func (p *poller) giveUp(ep *endpoint) {
	if p.own(ep.rail) {
		p.closeShmRail(ep.rail)
		ep.state = epClosed
	}
	for _, t := range p.transfers.of(ep) {
		p.stats.GivenUp++
		p.transfers.take(t.token())
		if t.kind == receivePiece {
			p.received(t, statusTimedOut)
		} else {
			p.sent(t, statusTimedOut)
		}
	}
	p.forget(ep)
}

// pause is how long to wait before the next attempt to connect.
func pause(t transport.Timing, fails int, refused bool, random func(int64) int64) time.Duration {
	d := t.RetryMax
	switch {
	case refused:
		d = 5 * t.RetryMax
	case fails <= 1:
		return 0
	case fails < 20:
		d = min(t.RetryMin<<(fails-2), t.RetryMax)
	}
	return d/2 + time.Duration(random(int64(d/2)+1))
}
