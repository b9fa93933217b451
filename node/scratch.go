package node

import (
	"fmt"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
)

// scratch is registered memory for the bodies of control requests. It is apart from the values'
// memory, so that a full store cannot stop the table from spreading. A buffer is either small, for
// the usual table, or large enough for the largest one (65,535 rows).
type scratch struct{ small, large chan []byte }

const (
	scratchSmall      = 128 << 10
	scratchSmallCount = 64
	scratchLarge      = 2 << 20
	scratchLargeCount = 8
	scratchRegion     = scratchSmall*scratchSmallCount + scratchLarge*scratchLargeCount
)

func newScratch(memory []byte) *scratch {
	s := &scratch{small: make(chan []byte, scratchSmallCount), large: make(chan []byte, scratchLargeCount)}
	cut := func(to chan []byte, size, count int) {
		for range count {
			to <- memory[:size:size]
			memory = memory[size:]
		}
	}
	cut(s.small, scratchSmall, scratchSmallCount)
	cut(s.large, scratchLarge, scratchLargeCount)
	return s
}

// get returns n bytes, or an error at once: it is called on pollers.
func (s *scratch) get(n int) ([]byte, error) {
	from := s.small
	if n > scratchSmall {
		from = s.large
	}
	if n > scratchLarge {
		return nil, fmt.Errorf("%w: control message of %d bytes, at most %d", dramnode.ErrTooLarge, n, scratchLarge)
	}
	select {
	case b := <-from:
		return b[:n], nil
	default:
		return nil, fmt.Errorf("%w: too many control messages are under way", dramnode.ErrBusy)
	}
}

func (s *scratch) put(b []byte) {
	b = b[:cap(b)]
	if len(b) == scratchSmall {
		s.small <- b
	} else {
		s.large <- b
	}
}

// body returns b as a body: as it is when a network copies it, else in scratch memory.
func (s *scratch) body(b []byte) (transport.Body, error) {
	if len(b) <= transport.CopyBytes {
		return transport.Body{Bytes: b}, nil
	}
	m, err := s.get(len(b))
	if err != nil {
		return transport.Body{}, err
	}
	copy(m, b)
	return transport.Body{Bytes: m, Releaser: scratchLease{s, m}}, nil
}

type scratchLease struct {
	s *scratch
	m []byte
}

// Release implements transport.Releaser.
func (l scratchLease) Release(uint64) { l.s.put(l.m) }
