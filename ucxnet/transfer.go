package ucxnet

type transferKind uint8

const (
	sendMessage  transferKind = iota + 1 // coalesced frames, or a hello
	sendPiece                            // of a body, with its frame
	receivePiece                         // of a body
)

// A transfer is memory that UCX reads or writes: it belongs to UCX until its event, or until it is
// given up.
type transfer struct {
	index, generation uint32

	kind transferKind
	ep   *endpoint
	head *buffer // sends: the message
	at   []byte  // pieces: what is sent, or where it lands

	out *outgoing // sendPiece
	in  *incoming // receivePiece
}

func (t *transfer) token() uint64 { return uint64(t.generation)<<32 | uint64(t.index) }

// A transferTable finds transfers by token: the slot's index and its generation, so that an event that
// comes after a transfer was given up finds nothing.
type transferTable struct {
	slots []*transfer // every one ever made, by index; in use when kind is not 0
	free  []*transfer
	len   int
}

func (tt *transferTable) add(kind transferKind, ep *endpoint) *transfer {
	var t *transfer
	if n := len(tt.free); n > 0 {
		t, tt.free = tt.free[n-1], tt.free[:n-1]
	} else {
		t = &transfer{index: uint32(len(tt.slots))}
		tt.slots = append(tt.slots, t)
	}
	t.kind, t.ep = kind, ep
	tt.len++
	return t
}

// take removes and returns the transfer with the token; nil when there is none. The caller recycles it.
func (tt *transferTable) take(token uint64) *transfer {
	i := uint32(token)
	if int64(i) >= int64(len(tt.slots)) || tt.slots[i].kind == 0 || tt.slots[i].generation != uint32(token>>32) {
		return nil
	}
	tt.slots[i].generation++
	tt.len--
	return tt.slots[i]
}

// recycle makes a taken transfer free.
func (tt *transferTable) recycle(t *transfer) {
	*t = transfer{index: t.index, generation: t.generation}
	tt.free = append(tt.free, t)
}

// of returns the transfers that UCX holds for ep.
func (tt *transferTable) of(ep *endpoint) (ts []*transfer) {
	for _, t := range tt.slots {
		if t.kind != 0 && t.ep == ep {
			ts = append(ts, t)
		}
	}
	return ts
}
