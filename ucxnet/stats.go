package ucxnet

import "maps"

// Stats counts what a network did. The gauges are at most 50 ms old.
type Stats struct {
	// Gauges.
	Endpoints   int // UCX endpoints, dialled and inbound, in any state
	Inbound     int // of them inbound
	Calls       int // without reply
	Transfers   int // messages and bodies handed to UCX and not yet given back
	Outstanding int // UCX requests
	SendBytes   int // of messages on their way out
	Resting     int // descriptor numbers of closed sockets, of the whole process, not to be used yet
	ShmRails    int // UCX workers of connections by shared memory, one each

	// Counters.
	MessagesSent   uint64 // active messages with coalesced frames
	FramesSent     uint64 // in them; FramesSent / MessagesSent is the coalescing
	BodiesSent     uint64 // frames with a separate body
	PiecesSent     uint64 // of them: a long body goes in several
	MessagesIn     uint64
	FramesIn       uint64
	Requests       uint64 // handed to the handler
	Refused        uint64 // requests that were not taken
	LateReplies    uint64 // replies to calls that had ended, or never were
	LostReplies    uint64 // replies that could not be sent: the peer had gone
	BadReplies     uint64 // replies of the handler that cannot be sent, or second ones
	GivenUp        uint64 // transfers that UCX never finished after a forced close
	Orphans        uint64 // messages without a known endpoint
	Rejected       uint64 // connection requests over the limits
	Stalls         uint64 // times when this process was not scheduled for long
	Sleeps         uint64
	LostEvents     uint64
	ShmRailsMade   uint64            // workers for connections by shared memory
	ClosedByReason map[string]uint64 // endpoints
	NoShmByReason  map[string]uint64 // connections by tcp with peers on this host, though we would share memory
}

func (s Stats) clone() Stats {
	s.ClosedByReason, s.NoShmByReason = maps.Clone(s.ClosedByReason), maps.Clone(s.NoShmByReason)
	return s
}

// Stats returns a snapshot; any goroutine may ask.
func (n *Network) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stats.clone()
}

// Counters returns the snapshot by names, for people. What never happened is left out.
func (n *Network) Counters() map[string]uint64 {
	s := n.Stats()
	all := map[string]uint64{
		"endpoints": uint64(s.Endpoints), "inbound": uint64(s.Inbound), "calls": uint64(s.Calls),
		"transfers": uint64(s.Transfers), "outstanding": uint64(s.Outstanding), "send_bytes": uint64(s.SendBytes), "resting": uint64(s.Resting),
		"messages_sent": s.MessagesSent, "frames_sent": s.FramesSent, "bodies_sent": s.BodiesSent, "pieces_sent": s.PiecesSent,
		"messages_in": s.MessagesIn, "frames_in": s.FramesIn, "requests": s.Requests, "refused": s.Refused,
		"late_replies": s.LateReplies, "lost_replies": s.LostReplies, "bad_replies": s.BadReplies,
		"given_up": s.GivenUp, "orphans": s.Orphans, "rejected": s.Rejected, "stalls": s.Stalls, "sleeps": s.Sleeps,
		"lost_events": s.LostEvents, "shm_rails": uint64(s.ShmRails), "shm_rails_made": s.ShmRailsMade,
	}
	for reason, count := range s.ClosedByReason {
		all["closed: "+reason] = count
	}
	for reason, count := range s.NoShmByReason {
		all["no shm: "+reason] = count
	}
	maps.DeleteFunc(all, func(_ string, v uint64) bool { return v == 0 })
	return all
}

func (p *poller) countUnshared(why unshared) {
	if p.stats.NoShmByReason == nil {
		p.stats.NoShmByReason = map[string]uint64{}
	}
	p.stats.NoShmByReason[why.String()]++
}

func (p *poller) countClosed(reason string) {
	if p.stats.ClosedByReason == nil {
		p.stats.ClosedByReason = map[string]uint64{}
	}
	p.stats.ClosedByReason[reason]++ // the reasons are constants of this package: the map stays small
}
