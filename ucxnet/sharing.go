package ucxnet

// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/dramnode/dramnode/transport"
)

// Shared memory and the peers with which it works.
//
// A peer that is killed while it writes to our receive queue leaves it blocked for ever, new connections
// included. So every connection by shared memory has a UCX worker of its own at both ends: it is made for the connection
// and destroyed with it, and nobody else notices. Requests to connect come to one more worker, the
// lobby, which carries no connection and so has no queue that anybody writes to.
//
// The two sides agree by their connection over tcp, in its introductions. The dialler says where it
// lives; the acceptor either names the lobby's port, or says why not.

// carriers are what may carry a link: tcp, and shared memory.
const carriers = 2

func carrierOf(r *rail) int {
	if r.shm {
		return 1
	}
	return 0
}

// What a worker takes of the kernel's System V shared memory, with the settings of railEnv: a queue and two blocks
// of 128 slots when its receiver lags, and some to spare.
const (
	shmRailSegments = 5
	shmRailBytes    = 5 << 20
)

// An unshared is why a peer is not reached by shared memory. It travels in introductions.
type unshared uint8

const (
	shared unshared = iota
	sharedOff
	sharedElsewhere // on another host
	sharedApart     // on this host, in other namespaces
	sharedForbidden
	sharedFull
	sharedCrowded
	sharedBroken
	sharedTCP
	sharedRequired
	sharedSoon
	unsharedEnd
)

func (u unshared) String() string {
	return [...]string{
		"", "switched off there", "another host", "other namespaces", "not allowed to read its memory",
		"no shared memory is left (kernel.shmmni, shmall)", "too many peers share memory", "UCX cannot open it", "UCX prefers tcp", "required there", transport.FallbackSoon, "unknown",
	}[min(u, unsharedEnd)]
}

// passes reports whether the reason may be gone soon.
func (u unshared) passes() bool { return u == sharedFull || u == sharedCrowded }

// An errUnshared is errNotShared with the reason.
type errUnshared struct{ why unshared }

func (e errUnshared) Error() string {
	return errNotShared.Error() + ": " + e.why.String()
}
func (e errUnshared) Unwrap() error { return errNotShared }

// place says whether two processes can share memory, as far as that follows from where they live.
func place(a, b intro) unshared {
	switch {
	case a.host == 0 || a.host != b.host:
		return sharedElsewhere
	case a.domain == 0 || a.domain != b.domain:
		return sharedApart
	}
	return shared
}

// offer is what we answer to an introduction by tcp: whether the peer may connect by shared memory.
func (p *poller) offer(theirs intro) unshared {
	mine := p.n.intro
	switch {
	case p.n.config.Shm == ShmOff || theirs.unshared == sharedOff:
		return sharedOff
	case place(mine, theirs) != shared:
		return place(mine, theirs)
	case mine.unshared != shared:
		return mine.unshared
	}
	return p.room(theirs.pid)
}

// room says whether there can be one more connection by shared memory, with the process.
func (p *poller) room(pid uint32) unshared {
	switch {
	case !mayRead(pid):
		return sharedForbidden
	case p.shmRails >= p.n.limits.ShmPeers:
		return sharedCrowded
	case !shmLeft(2): // the peer needs as much
		return sharedFull
	}
	return shared
}

// mayRead reports whether this process may read the other's memory, as UCX does for long bodies: it
// tries, at an address where nothing is mapped. A process that has gone is not forbidden.
func mayRead(pid uint32) bool {
	var b [1]byte
	_, err := unix.ProcessVMReadv(int(pid), []unix.Iovec{{Base: &b[0], Len: 1}}, []unix.RemoteIovec{{Base: 8, Len: 1}}, 0)
	return errors.Is(err, unix.EFAULT) || errors.Is(err, unix.ESRCH)
}

// shmRoom returns how many segments of shared memory, and how many bytes of them, the kernel still gives to this ipc namespace.
//
// Implements: int shmctl(int shmid, int cmd, struct shmid_ds *buf), IPC_INFO and SHM_INFO
func shmRoom() (segments, bytes uint64) {
	var s, b C.uint64_t
	C.dn_shm_room(&s, &b)
	return uint64(s), uint64(b)
}

// shmLeft reports whether there is shared memory for so many more workers.
func shmLeft(workers uint64) bool {
	segments, bytes := shmRoom()
	return segments >= workers*shmRailSegments && bytes >= workers*shmRailBytes
}

// loopback is where the lobby listens: those whom it is for are in the same network namespace.
var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// openShm opens the context for shared memory and, for a network that listens, the lobby.
func (n *Network) openShm() error {
	if n.intro.domain == 0 {
		return errors.New("the kernel does not say which host this is")
	}
	if !shmLeft(2) {
		segments, bytes := shmRoom()
		return fmt.Errorf("%w: %d segments and %d bytes may be made, want %d and %d", errUnshared{sharedFull}, segments, bytes, 2*shmRailSegments, 2*shmRailBytes)
	}
	x, err := openContext(true, "")
	if err != nil {
		return err
	}
	n.contexts = append(n.contexts, x)
	if n.config.Listen == "" {
		return nil // the first connection will show whether there can be any
	}
	lobby, err := x.openRail()
	if err != nil {
		return err
	}
	n.rails = append(n.rails, lobby)
	if err := lobby.listen(netip.AddrPortFrom(loopback, 0)); err != nil {
		return err
	}
	n.intro.shmPort = lobby.port
	return nil
}

// openShmRail makes the worker of a new connection by shared memory.
func (p *poller) openShmRail() (*rail, error) {
	r, err := p.n.contexts[1].openRail()
	if err != nil {
		return nil, err
	}
	if err := p.rails.add(r); err != nil {
		r.close()
		return nil, err
	}
	p.shmRails++
	p.stats.ShmRailsMade++
	p.fdsDirty = true
	return r, nil
}

// own reports whether the rail lives and dies with its one connection.
func (p *poller) own(r *rail) bool { return r.shm && !r.bound.IsValid() }

// closeShmRail destroys the worker of a connection that is closed.
func (p *poller) closeShmRail(r *rail) {
	if r.c == nil {
		return
	}
	r.step(1) // gives back what messages hold
	p.rails.remove(r)
	r.close()
	p.shmRails--
}

// closeOrphaned destroys the workers whose connections were forgotten, between two turns.
func (p *poller) closeOrphaned() {
	for _, r := range p.orphaned {
		p.closeShmRail(r)
	}
	p.orphaned = p.orphaned[:0]
}
