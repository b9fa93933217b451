package ucxnet

import "golang.org/x/sys/unix"

// UCX's own thread takes events from epoll in batches, by descriptor number. When an endpoint is closed
// after its event was taken and a connection is accepted before the event's turn, the connection may
// get the number, and then the event: UCX 1.13.1 aborts (tcp_sockcm_ep.c, uct_tcp_sockcm_ep_progress_send).
// The kernel gives out the lowest free number. So a ballast of low descriptors is let go whenever an
// endpoint is about to be closed: newcomers get those numbers, and the freed one rests until the
// ballast is taken in again.
type ballast struct {
	null    int // /dev/null, -1 before fill
	fds     []int
	dropped nanos // when it was let go last
}

const (
	ballastFDs  = 64
	ballastRest = nanos(1e9)
)

// fill takes the lowest free numbers. Where descriptors are short the ballast stays small.
func (b *ballast) fill() {
	if b.null < 0 {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return
		}
		b.null = fd
	}
	for len(b.fds) < ballastFDs {
		fd, err := unix.FcntlInt(uintptr(b.null), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return
		}
		b.fds = append(b.fds, fd)
	}
}

// drop lets the ballast go; call it before a close.
func (b *ballast) drop(now nanos) {
	b.dropped = now
	for _, fd := range b.fds {
		_ = unix.Close(fd)
	}
	b.fds = b.fds[:0]
}

// rest takes it in again once the last close is long enough ago.
func (b *ballast) rest(now nanos) {
	if len(b.fds) < ballastFDs && now-b.dropped > ballastRest {
		b.fill()
	}
}

func (b *ballast) close() {
	b.drop(0)
	if b.null >= 0 {
		_ = unix.Close(b.null)
		b.null = -1
	}
}
