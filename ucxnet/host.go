package ucxnet

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"
)

// hostIDs returns two numbers. The host is equal for two processes on the same boot of the same kernel;
// the domain, for those of them that can share memory by UCX: they have the same network namespace
// (wake-ups travel by abstract unix sockets), ipc namespace (for queues) and pid namespace (for long bodies). Each is 0 when
// that cannot be told.
func hostIDs() (host, domain uint64) {
	return hostOf(), hostOf("/proc/self/ns/net", "/proc/self/ns/pid", "/proc/self/ns/ipc")
}

// hostOf is equal for two processes on the same boot of the same kernel to which each of paths is the
// same file; 0 when that cannot be told.
func hostOf(paths ...string) uint64 {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return 0
	}
	id := strings.TrimSpace(string(boot))
	for _, path := range paths {
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil {
			return 0
		}
		id += fmt.Sprintf(" %d:%d", st.Dev, st.Ino)
	}
	return xxhash.Sum64String(id)
}

// An fdSet holds the file descriptors that were meant for children before UCX opened its own.
type fdSet map[int]bool

func inheritedFDs() fdSet {
	s := fdSet{0: true, 1: true, 2: true}
	for _, fd := range openFDs() {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			s[fd] = true
		}
	}
	return s
}

// closeOnExec marks every other descriptor. UCX marks few of its own, and one that leaks into a child
// keeps the connection alive after our death. A child started in between still gets it.
func (s fdSet) closeOnExec() {
	for _, fd := range openFDs() {
		if !s[fd] {
			unix.CloseOnExec(fd)
		}
	}
}

func openFDs() (fds []int) {
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil
	}
	for _, name := range names {
		n := 0
		if _, err := fmt.Sscanf(name, "%d", &n); err == nil {
			fds = append(fds, n)
		}
	}
	return fds
}
