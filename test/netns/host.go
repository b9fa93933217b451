package netns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// A Host is one namespace of a Net: a place to run processes and to open connections from.
type Host struct {
	namespace string
	addr      netip.Addr
}

// Addr is the host's address, the same for every network: host i has 10.77.(i+1).2.
func (h *Host) Addr() netip.Addr { return h.addr }

// gateway is the router's end of the host's link.
func (h *Host) gateway() netip.Addr { return h.addr.Prev() }

// Command returns a command that runs on the host. The process it starts is the program itself,
// not a wrapper: it may be signalled by its id.
func (h *Host) Command(name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", h.namespace, name}, args...)...)
}

// DialContext connects from the host. The address must hold an IP address, since no resolver runs
// there.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := h.inside(func() error {
		var d net.Dialer
		var err error
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// inside runs f on this goroutine's thread while the thread is in the host's namespace; sockets
// that f opens stay there. The thread goes back before it is let go, rather than being thrown away:
// processes started with a parent-death signal would die with the thread that started them.
func (h *Host) inside(f func() error) error {
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("netns: open this thread's namespace: %w", err)
	}
	defer unix.Close(home)
	there, err := unix.Open(filepath.Join(namespacesDir, h.namespace), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("netns: open namespace %s: %w", h.namespace, err)
	}
	defer unix.Close(there)

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Setns(there, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("netns: enter namespace %s: %w", h.namespace, err)
	}
	defer func() {
		if err := unix.Setns(home, unix.CLONE_NEWNET); err != nil {
			panic(fmt.Sprintf("netns: a thread is lost in namespace %s: %v", h.namespace, err))
		}
	}()
	return f()
}
