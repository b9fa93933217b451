package ucxnet

import "github.com/dramnode/dramnode/transport"

// With cma the receiver of a body reads the sender's memory by itself, and goes on doing so after the
// sender closed the endpoint by force and UCX gave the body back. So such bodies rest before they are
// released, for longer than a receiver takes to notice that the peer has gone. A receiver that was stopped
// meanwhile does not notice; it finds that it was, and takes nothing by shared memory for whole that was
// under way then (poller.stalled, poller.step).
type quarantined struct {
	body transport.Body
	due  nanos
}

// releaseBody gives a sent body back, at once or after a rest.
func (p *poller) releaseBody(ep *endpoint, body transport.Body) {
	if ep.rail.shm && ep.state >= epClosing && body.Releaser != nil {
		p.quarantine = append(p.quarantine, quarantined{body, p.now + 2*nanos(p.n.timing.Dead)})
		return
	}
	body.Release()
}

// releaseRested gives back what has rested, oldest first.
func (p *poller) releaseRested() {
	n := 0
	for n < len(p.quarantine) && p.now >= p.quarantine[n].due {
		p.quarantine[n].body.Release()
		n++
	}
	p.quarantine = append(p.quarantine[:0], p.quarantine[n:]...)
}
