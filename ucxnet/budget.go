package ucxnet

// Messages on their way out take C memory beside the regions. All connections together may hold
// Limits.SendBytes of it, so that peers that do not read cost no more, however many they are.
//
// From three quarters on, who holds more than a short queue gets no more: calls end with ErrBusy, and
// requests that come are refused unserved. What is due all the same, replies above all, ends at the limit:
// the connection that holds the most is closed. Whoever reads has a short queue, and notices nothing.

// shortQueue is what a peer that reads may let us hold, in bytes: batches are held back from there on.
const shortQueue = heldMessages * largeBufferBytes

// crowded reports whether ep is to get no more work.
func (p *poller) crowded(ep *endpoint) bool {
	return ep.queued > shortQueue && p.held > p.n.limits.SendBytes/4*3
}

// relieve closes the connection that holds the most, when all hold too much. It runs between two steps;
// while UCX still has what a closed one held, no other has to go.
func (p *poller) relieve() {
	if p.held <= p.n.limits.SendBytes {
		return
	}
	var longest *endpoint
	for _, ep := range p.endpoints {
		if longest == nil || ep.queued > longest.queued {
			longest = ep
		}
	}
	if longest != nil {
		p.closeEndpoint(longest, "slow reader", errSlow)
	}
}
