package memnet

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
)

// A region is heap memory that remembers its addresses. Go's collector does not move heap memory, and
// the region keeps it alive, so the addresses identify it.
type region struct {
	network     *Network
	bytes       []byte  // nil once closed; guarded by world.mu
	first, last uintptr // addresses of the first byte and past the last
	frames      int     // frames in flight that name it; guarded by world.mu
}

// Alloc returns n zeroed bytes that bodies may lie in.
func (n *Network) Alloc(bytes int) (transport.Region, error) {
	if bytes <= 0 {
		return nil, fmt.Errorf("memnet: %w: a region of %d bytes", dramnode.ErrInvalid, bytes)
	}
	memory := make([]byte, bytes)
	start := reflect.ValueOf(memory).Pointer()
	r := &region{network: n, bytes: memory, first: start, last: start + uintptr(bytes)}
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	n.regions = append(n.regions, r)
	return r, nil
}

func (r *region) Bytes() []byte {
	r.network.world.mu.Lock()
	defer r.network.world.mu.Unlock()
	return r.bytes
}

// Close gives the memory up. While frames name it, it fails and changes nothing.
func (r *region) Close() error {
	n := r.network
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	if r.bytes == nil {
		return fmt.Errorf("memnet: region: %w", dramnode.ErrClosed)
	}
	if r.frames > 0 {
		return fmt.Errorf("memnet: %w: %d frames in flight name the region", dramnode.ErrInvalid, r.frames)
	}
	poisonUsed(r.bytes)
	r.bytes = nil
	for i, other := range n.regions {
		if other == r {
			n.regions = append(n.regions[:i], n.regions[i+1:]...)
			break
		}
	}
	return nil
}

// regionLocked returns the open region that holds all of b, nil when there is none.
func (n *Network) regionLocked(b []byte) *region {
	start := reflect.ValueOf(b).Pointer()
	for _, r := range n.regions {
		if r.first <= start && start+uintptr(len(b)) <= r.last {
			return r
		}
	}
	return nil
}

const pageBytes = 4096

// poisonUsed poisons the pages of b that hold anything. Most of a node's memory is never written in a test, and to write it
// here for the first time, with the race detector's notes on it, took half of the time of such tests. Who reads a page of zeros of a
// closed region is not found out.
func poisonUsed(b []byte) {
	for page := range slices.Chunk(b, pageBytes) {
		if used(page) {
			poison(page)
		}
	}
}

// used reports whether any byte is not zero. The race detector would note each read.
//
//go:norace
func used(page []byte) bool {
	for ; len(page) >= 8; page = page[8:] {
		if binary.LittleEndian.Uint64(page) != 0 {
			return true
		}
	}
	for _, b := range page {
		if b != 0 {
			return true
		}
	}
	return false
}

func poison(b []byte) {
	if len(b) == 0 {
		return
	}
	b[0] = Poison
	for n := 1; n < len(b); n *= 2 {
		copy(b[n:], b[:n])
	}
}
