package ucxnet

/*
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
)

// A Region is zeroed memory outside the Go heap, registered with both contexts. Pages that nobody wrote
// take no memory. The race detector does not see what UCX writes into it.
type Region struct {
	n     *Network
	mem   []byte
	base  uintptr // of mem; regionOf may look while Close runs
	bytes int

	handles [carriers]C.uint64_t // of ucp_mem_map, by context; guarded by Network.mu
	mapped  bool                 // guarded by Network.mu
	once    sync.Once
}

// Alloc implements transport.Network. It reserves addresses, not memory.
func (n *Network) Alloc(bytes int) (transport.Region, error) {
	if bytes <= 0 {
		return nil, fmt.Errorf("%w: a region of %d bytes", dramnode.ErrInvalid, bytes)
	}
	mem, err := syscall.Mmap(-1, 0, bytes, syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("%w: mmap of %d bytes: %w", dramnode.ErrNoMemory, bytes, err)
	}
	_ = syscall.Madvise(mem, syscall.MADV_HUGEPAGE) // advice: a kernel without it is as good
	r, err := n.regionIn(mem)
	if err != nil {
		_ = syscall.Munmap(mem)
		return nil, err
	}
	return r, nil
}

// regionIn registers memory that is mapped already.
func (n *Network) regionIn(mem []byte) (*Region, error) {
	r := &Region{n: n, mem: mem, base: uintptr(unsafe.Pointer(&mem[0])), bytes: len(mem)}
	if err := n.register(r); err != nil {
		return nil, err
	}
	return r, nil
}

// Bytes returns the whole region; it is valid until Close.
func (r *Region) Bytes() []byte { return r.mem }

// Words is the whole of the region as words, for those who share it with another process.
func (r *Region) Words() []atomic.Uint64 {
	return unsafe.Slice((*atomic.Uint64)(unsafe.Pointer(&r.mem[0])), len(r.mem)/8)
}

// Close unmaps the region: every slice of it becomes invalid.
func (r *Region) Close() (err error) {
	r.once.Do(func() {
		r.n.unregister(r)
		err = syscall.Munmap(r.mem)
		r.mem = nil
	})
	return err
}

func (n *Network) register(r *Region) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.contexts == nil {
		return fmt.Errorf("%w: network", dramnode.ErrClosed)
	}
	r.mapped = true
	for i, x := range n.contexts {
		status := C.dn_mem_map(x.c, unsafe.Pointer(&r.mem[0]), C.size_t(len(r.mem)), &r.handles[i])
		if status != 0 {
			n.unmapLocked(r)
			return fmt.Errorf("%w: %w", dramnode.ErrNoMemory, &Error{"ucp_mem_map", Status(status)})
		}
	}
	n.regions.Store(new(append(slices.Clone(*n.regions.Load()), r)))
	return nil
}

func (n *Network) unregister(r *Region) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.regions.Store(new(slices.DeleteFunc(slices.Clone(*n.regions.Load()), func(x *Region) bool { return x == r })))
	n.unmapLocked(r)
}

func (n *Network) unmapLocked(r *Region) {
	if !r.mapped {
		return
	}
	r.mapped = false
	for i, x := range n.contexts {
		if r.handles[i] != 0 {
			C.dn_mem_unmap(x.c, r.handles[i])
			r.handles[i] = 0
		}
	}
}

// regionOf returns the region in which all of b lies, nil when there is none.
func (n *Network) regionOf(b []byte) *Region {
	if len(b) == 0 {
		return nil
	}
	at := uintptr(unsafe.Pointer(&b[0]))
	for _, r := range *n.regions.Load() {
		if at >= r.base && at+uintptr(len(b)) <= r.base+uintptr(r.bytes) {
			return r
		}
	}
	return nil
}

// checkBody reports whether b may be sent.
func (n *Network) checkBody(b []byte) error {
	if len(b) > n.limits.MaxBodyBytes {
		return fmt.Errorf("%w: body of %d bytes, the limit is %d", dramnode.ErrTooLarge, len(b), n.limits.MaxBodyBytes)
	}
	if len(b) > transport.CopyBytes && n.regionOf(b) == nil {
		return fmt.Errorf("%w: body of %d bytes outside the network's regions", dramnode.ErrInvalid, len(b))
	}
	return nil
}
