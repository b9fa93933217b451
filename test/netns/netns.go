// Package netns gives stories several hosts on one Linux machine: network namespaces, each with an
// address and a link of its own, joined by a router that can lose packets between any two of them.
//
// Nothing of it is visible to the machine's own network: the links end in the router's namespace,
// which has no way out. It needs root and the ip command.
package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// MaxHosts is the largest network: a host's number is one byte of its address.
const MaxHosts = 250

// namespacesDir is where the ip command keeps the names of namespaces.
const namespacesDir = "/run/netns"

// A Net is a set of hosts that reach each other through one router. Its methods may be called
// from any goroutine.
type Net struct {
	router string // name of the router's namespace
	hosts  []*Host

	mu   sync.Mutex
	lost map[flow]bool // flows the router loses now
}

// serial tells the networks of one process apart; the process id tells processes apart.
var serial atomic.Int64

// Up makes a network of n hosts. The caller ends it with Close.
func Up(ctx context.Context, n int) (*Net, error) {
	if n < 1 || n > MaxHosts {
		return nil, fmt.Errorf("netns: %d hosts, want 1 to %d", n, MaxHosts)
	}
	if err := Available(); err != nil {
		return nil, err
	}
	removeOrphans()

	prefix := fmt.Sprintf("dn-%d-%d", os.Getpid(), serial.Add(1))
	net := &Net{router: prefix + "-router", lost: make(map[flow]bool)}
	for i := range n {
		net.hosts = append(net.hosts, &Host{
			namespace: fmt.Sprintf("%s-%d", prefix, i),
			addr:      netip.AddrFrom4([4]byte{10, 77, byte(i + 1), 2}),
		})
	}
	if err := net.build(ctx); err != nil {
		return nil, errors.Join(err, net.Close())
	}
	return net, nil
}

// ForTest is Up for the length of a test. Where namespaces cannot be made it skips the test and
// says why, except under CI=true, where the test fails: there nothing may be left out in silence.
func ForTest(t testing.TB, n int) *Net {
	t.Helper()
	if err := Available(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("SKIPPED, network namespaces are not available: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	net, err := Up(ctx, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := net.Close(); err != nil {
			t.Error(err)
		}
	})
	return net
}

// Available says what this machine lacks for Up, and nil when it lacks nothing.
func Available() error {
	if os.Geteuid() != 0 {
		return errors.New("netns: root is needed")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return fmt.Errorf("netns: the ip command (package iproute2) is needed: %w", err)
	}
	return nil
}

// build creates the namespaces and links. Each host has a /30 of its own, so that all its packets
// pass the router; reverse path filtering is off there, since it would turn the loss of one
// direction into the loss of both.
func (n *Net) build(ctx context.Context) error {
	var names, links strings.Builder
	fmt.Fprintf(&names, "netns add %s\n", n.router)
	for i, h := range n.hosts {
		fmt.Fprintf(&names, "netns add %s\n", h.namespace)
		fmt.Fprintf(&links, "link add h%d type veth peer name eth0 netns %s\n", i, h.namespace)
		fmt.Fprintf(&links, "addr add %s/30 dev h%d\nlink set h%d up\n", h.gateway(), i, i)
	}
	if err := ip(ctx, names.String(), "-batch", "-"); err != nil {
		return err
	}
	err := ip(ctx, "", "netns", "exec", n.router, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1",
		"net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0")
	if err != nil {
		return err
	}
	if err := ip(ctx, links.String(), "-n", n.router, "-batch", "-"); err != nil {
		return err
	}
	for _, h := range n.hosts {
		commands := fmt.Sprintf("link set lo up\naddr add %s/30 dev eth0\nlink set eth0 up\nroute add default via %s\n",
			h.addr, h.gateway())
		if err := ip(ctx, commands, "-n", h.namespace, "-batch", "-"); err != nil {
			return err
		}
	}
	for _, h := range n.hosts {
		if err := h.awaitCarrier(ctx); err != nil {
			return err
		}
	}
	return nil
}

// awaitCarrier waits until the host's link runs. The kernel tells of a new carrier up to a second
// late, and until then UCX finds no device.
func (h *Host) awaitCarrier(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		out, err := exec.CommandContext(ctx, "ip", "-n", h.namespace, "-o", "link", "show", "eth0").Output()
		if err == nil && strings.Contains(string(out), "state UP") {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("netns: the link of %s does not run: %w: %s", h.namespace, ctx.Err(), out)
		case <-tick.C:
		}
	}
}

// Host returns host i, counted from 0.
func (n *Net) Host(i int) *Host { return n.hosts[i] }

// Len is the number of hosts.
func (n *Net) Len() int { return len(n.hosts) }

// Close removes the network. Processes that still run on its hosts are not stopped, and keep their
// namespace alive, without a name or a link, until they end.
func (n *Net) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var errs []error
	for _, namespace := range append([]string{n.router}, n.namespaces()...) {
		if _, err := os.Stat(filepath.Join(namespacesDir, namespace)); errors.Is(err, fs.ErrNotExist) {
			continue // closed before, or never built
		}
		errs = append(errs, ip(ctx, "", "netns", "del", namespace))
	}
	return errors.Join(errs...)
}

func (n *Net) namespaces() []string {
	var names []string
	for _, h := range n.hosts {
		names = append(names, h.namespace)
	}
	return names
}

// removeOrphans removes what test processes that were killed left behind. Networks of running
// processes are not touched, so runs may overlap.
func removeOrphans() {
	names, _ := filepath.Glob(filepath.Join(namespacesDir, "dn-*-*-*")) // the pattern is well-formed
	for _, path := range names {
		name := filepath.Base(path)
		pid, err := strconv.Atoi(strings.Split(name, "-")[1])
		if err != nil {
			continue // not ours
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); errors.Is(err, fs.ErrNotExist) {
			exec.Command("ip", "netns", "del", name).Run() // best effort: another run may be faster
		}
	}
}

// ip runs the ip command with the given input and reports what it said when it failed.
func ip(ctx context.Context, input string, args ...string) error {
	cmd := exec.CommandContext(ctx, "ip", args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("netns: ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
