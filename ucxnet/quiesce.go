package ucxnet

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// UCX 1.13.1 must not get a connection request once its listener is destroyed: the connections that it
// accepted and that have sent nothing yet outlive the listener, and what they send then is handled, on
// UCX's own thread, with the listener's freed memory. Peers that reconnect for ever make that likely.
// So before a listener goes, the kernel is told to drop whatever still arrives for its port, and what
// arrived before is waited for.

// quiesceAtMost bounds the wait; microseconds do, as a rule.
const quiesceAtMost = time.Second

// quiesce makes a rail's listener deaf. The endpoints are closed already.
func (r *rail) quiesce() {
	if !r.bound.IsValid() {
		return
	}
	endpoints := 0
	for deadline := time.Now().Add(quiesceAtMost); time.Now().Before(deadline); {
		more := deafen(r.bound)
		r.step(1)
		for e, ok := r.next(); ok; e, ok = r.next() {
			endpoints += r.turnAway(&e)
		}
		if !more && endpoints == 0 && len(r.cmds) == 0 {
			return
		}
		time.Sleep(50 * time.Microsecond)
	}
}

// deafen makes the listening socket and those accepted from it drop what comes in, and reports whether
// there is something left that came before.
func deafen(bound netip.AddrPort) (more bool) {
	drop := [1]unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	prog := unix.SockFprog{Len: 1, Filter: &drop[0]}
	for _, wantListening := range []bool{true, false} { // in this order: what was accepted meanwhile is seen
		for _, fd := range openFDs() {
			if !localTo(fd, bound) || isListening(fd) != wantListening {
				continue
			}
			if unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog) != nil {
				if !wantListening { // not allowed here: what is left is to hang up
					_ = unix.Shutdown(fd, unix.SHUT_RDWR)
				}
				continue
			}
			more = more || hasInput(fd, wantListening)
		}
	}
	return more
}

// localTo reports whether fd is a TCP socket whose own address is bound, or within it.
func localTo(fd int, bound netip.AddrPort) bool {
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_STREAM {
		return false
	}
	var own netip.AddrPort
	sa, err := unix.Getsockname(fd)
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		own = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		own = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return err == nil && own.Port() == bound.Port() && (bound.Addr().IsUnspecified() || own.Addr() == bound.Addr().WithZone(""))
}

func isListening(fd int) bool {
	on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	return err == nil && on != 0
}

func hasInput(fd int, listening bool) bool {
	if !listening {
		n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
		return err == nil && n > 0
	}
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds[:], 0)
	return err == nil && n > 0
}
