package ucxnet

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A sleeper parks the poller in Go's netpoller until a rail's event fd becomes ready, somebody wakes
// it, or a time has come.
//
// The fds hang below one epoll fd, of which Go's netpoller watches a duplicate, edge-triggered. An edge
// that comes before the park would be lost, and UCX's tcp does not produce a second one; so the rails
// are armed and the fd is polled once more inside RawConn.Read's callback, which runs after the
// netpoller was prepared.
type sleeper struct {
	epoll  int
	event  int // eventfd for wake
	file   *os.File
	conn   syscall.RawConn
	asleep atomic.Bool // the poller is parked or about to be; the one who clears it writes to event

	mu     sync.Mutex // a late wake must not write to a descriptor that was closed, and maybe reused
	closed bool       // guarded by mu

	inherited fdSet
}

func newSleeper() (s *sleeper, err error) {
	s = &sleeper{epoll: -1, event: -1}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	if s.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if err = s.watch(s.event); err != nil {
		return nil, err
	}
	dup, err := unix.FcntlInt(uintptr(s.epoll), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("fcntl: %w", err)
	}
	if err = unix.SetNonblock(dup, true); err != nil {
		_ = unix.Close(dup)
		return nil, fmt.Errorf("fcntl: %w", err)
	}
	s.file = os.NewFile(uintptr(dup), "ucx")
	if s.conn, err = s.file.SyscallConn(); err != nil {
		return nil, err
	}
	return s, nil
}

// watch makes fd end a park when it is readable.
func (s *sleeper) watch(fd int) error {
	if err := unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// unwatch is called before fd is closed.
func (s *sleeper) unwatch(fd int) { _ = unix.EpollCtl(s.epoll, unix.EPOLL_CTL_DEL, fd, nil) }

// readableFDs appends the watched descriptors that are readable now, some of them if they are many.
func (s *sleeper) readableFDs(fds []int) []int {
	var events [64]unix.EpollEvent
	n, _ := unix.EpollWait(s.epoll, events[:], 0) // an error: none, for now
	for _, e := range events[:max(n, 0)] {
		fds = append(fds, int(e.Fd))
	}
	return fds
}

// wake ends the current or the next park.
func (s *sleeper) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	one := [8]byte{1}
	_, _ = unix.Write(s.event, one[:]) // EAGAIN: it is more than awake already
}

// wakeIfAsleep costs a load while the poller is awake. Whoever pushed work calls it after the push.
func (s *sleeper) wakeIfAsleep() {
	if s.asleep.Load() && s.asleep.CompareAndSwap(true, false) {
		s.wake()
	}
}

// park sleeps until woken or until d has passed. ready is asked last, when a wake would not be missed
// any more; it arms the rails and reports whether there is work after all. The result is false when d
// has passed.
func (s *sleeper) park(d time.Duration, ready func() bool) bool {
	if s.file.SetReadDeadline(time.Now().Add(d)) != nil {
		return true
	}
	first := true
	err := s.conn.Read(func(uintptr) bool {
		if !first {
			return true
		}
		first = false
		s.asleep.Store(true)
		return ready() || s.readable()
	})
	s.asleep.Store(false)
	s.drain()
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

func (s *sleeper) readable() bool {
	fds := [1]unix.PollFd{{Fd: int32(s.epoll), Events: unix.POLLIN}}
	n, err := unix.Poll(fds[:], 0)
	return n > 0 || err != nil
}

func (s *sleeper) drain() {
	var b [8]byte
	_, _ = unix.Read(s.event, b[:])
}

func (s *sleeper) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.file != nil {
		_ = s.file.Close()
	}
	for _, fd := range []int{s.epoll, s.event} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}
