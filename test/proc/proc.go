// Package proc runs real dramnode processes for stories: it finds ports, starts, waits until they
// serve, stops, kills and freezes them, and shows their logs when a test fails.
//
// A process never outlives its test: cleanup kills it by its id, and the kernel does so if the test
// binary itself dies. What a process stores, says or does is not known here.
package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Limits of the waits below. They are for a slow, shared machine: a healthy node needs a fraction.
const (
	readyLimit = 30 * time.Second
	stopLimit  = 75 * time.Second // above the drain timeout of a node
	killLimit  = 10 * time.Second
	pollEvery  = 10 * time.Millisecond
)

// A Host is where processes run; netns.Host is one. Without a Host it is this machine.
type Host interface {
	// Command returns a command whose process is the program itself, not a wrapper around it.
	Command(name string, args ...string) *exec.Cmd
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	Addr() netip.Addr
}

// Options say how to start a node. The zero value is a node with free ports on loopback.
type Options struct {
	Name    string   // --name; "node" if empty
	Listen  string   // --listen, IP:port; chosen by Address if empty
	Join    []string // --join, gossip addresses
	Memory  string   // --memory, such as "64MiB"; left out if empty
	Cluster string   // --cluster-name; left out if empty
	Args    []string // appended to the command line
	Env     []string // added to this process's environment
	Host    Host     // where to run
}

// A Node is one running process. Its methods may be called from any goroutine.
type Node struct {
	t       testing.TB
	name    string
	listen  netip.AddrPort
	log     string
	client  *http.Client
	cmd     *exec.Cmd
	exited  chan struct{} // closed once the process is reaped
	waitErr error         // valid once exited is closed
}

// Start runs "program serve" with o and returns at once; WaitReady waits until it serves. The
// process is killed when t ends, and its log is shown if t failed.
func Start(t testing.TB, program string, o Options) *Node {
	t.Helper()
	if o.Name == "" {
		o.Name = "node"
	}
	if o.Listen == "" {
		o.Listen = Address(t, o.Host)
	}
	n, err := start(t, program, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.cleanup)
	return n
}

func start(t testing.TB, program string, o Options) (*Node, error) {
	listen, err := netip.ParseAddrPort(o.Listen)
	if err != nil {
		return nil, fmt.Errorf("proc: %s: %w", o.Name, err)
	}
	n := &Node{
		t: t, name: o.Name, listen: listen, client: httpClient(o.Host),
		log: filepath.Join(t.TempDir(), o.Name+".log"), exited: make(chan struct{}),
	}
	out, err := os.Create(n.log)
	if err != nil {
		return nil, fmt.Errorf("proc: %s: %w", o.Name, err)
	}
	defer out.Close() // the process has its own descriptor
	n.cmd = o.command(program)
	n.cmd.Stdout, n.cmd.Stderr = out, out
	if err := n.cmd.Start(); err != nil {
		return nil, fmt.Errorf("proc: start %s: %w", o.Name, err)
	}
	go func() {
		n.waitErr = n.cmd.Wait()
		close(n.exited)
	}()
	return n, nil
}

func (o Options) command(program string) *exec.Cmd {
	args := append([]string{"serve"}, o.args()...)
	cmd := exec.Command(program, args...)
	if o.Host != nil {
		cmd = o.Host.Command(program, args...)
	}
	cmd.Env = append(os.Environ(), o.Env...)
	// The death of the starting thread counts as ours. It is safe as long as no test ends a
	// goroutine that is locked to its thread.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (o Options) args() []string {
	args := []string{"--name", o.Name, "--listen", o.Listen}
	for _, seed := range o.Join {
		args = append(args, "--join", seed)
	}
	if o.Memory != "" {
		args = append(args, "--memory", o.Memory)
	}
	if o.Cluster != "" {
		args = append(args, "--cluster-name", o.Cluster)
	}
	return append(args, o.Args...)
}

// httpClient opens a connection for each request, so that no idle one outlives a test.
func httpClient(h Host) *http.Client {
	tr := &http.Transport{DisableKeepAlives: true}
	if h != nil {
		tr.DialContext = h.DialContext
	}
	return &http.Client{Transport: tr, Timeout: 2 * time.Second}
}

// Name is the node's name.
func (n *Node) Name() string { return n.name }

// PID is the process id.
func (n *Node) PID() int { return n.cmd.Process.Pid }

// Addr is where clients connect.
func (n *Node) Addr() string { return n.port(0) }

// GossipAddr is what other nodes join.
func (n *Node) GossipAddr() string { return n.port(1) }

// HTTPAddr is where health and info are.
func (n *Node) HTTPAddr() string { return n.port(2) }

func (n *Node) port(offset uint16) string {
	return netip.AddrPortFrom(n.listen.Addr(), n.listen.Port()+offset).String()
}

// Get fetches a path, such as "/readyz", from the node's HTTP address, from the node's own host.
func (n *Node) Get(ctx context.Context, path string) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.HTTPAddr()+path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := n.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	return resp.StatusCode, body, err
}

// WaitReady waits until /readyz answers 200 and fails the test if it does not, or if the process ends.
func (n *Node) WaitReady() {
	n.t.Helper()
	if err := n.waitReady(readyLimit); err != nil {
		n.t.Fatal(err)
	}
}

func (n *Node) waitReady(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	last := errors.New("not asked yet")
	for {
		status, body, err := n.Get(ctx, "/readyz")
		switch {
		case err == nil && status == http.StatusOK:
			return nil
		case err == nil:
			last = fmt.Errorf("/readyz answers %d: %.200s", status, body)
		case ctx.Err() == nil: // an error of running out of time would hide the real one
			last = err
		}
		select {
		case <-n.exited:
			return fmt.Errorf("proc: %s ended before it was ready: %w", n.name, n.exit())
		case <-ctx.Done():
			return fmt.Errorf("proc: %s is not ready after %v: %w", n.name, limit, last)
		case <-tick.C:
		}
	}
}

// Exited is closed once the process has ended.
func (n *Node) Exited() <-chan struct{} { return n.exited }

// ExitCode is the process's exit code, -1 if a signal ended it. Valid once Exited is closed.
func (n *Node) ExitCode() int { return n.cmd.ProcessState.ExitCode() }

// exit describes how the process ended, also a clean end. Valid once exited is closed.
func (n *Node) exit() error {
	if n.waitErr != nil {
		return n.waitErr
	}
	return errors.New("exit status 0")
}

// Log returns what the process has written so far.
func (n *Node) Log() string {
	text, err := os.ReadFile(n.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// cleanup kills the process and, if the test failed, shows its log.
func (n *Node) cleanup() {
	if err := n.kill(); err != nil {
		n.t.Error(err)
	}
	if n.t.Failed() {
		text := n.Log()
		n.t.Logf("log of %s (%d bytes):\n%s", n.name, len(text), ends(text))
	}
}

// ends shortens a long text to its beginning and its end: a crash tells its reason first, and ends with much else.
func ends(text string) string {
	const shown = 12 << 10
	if len(text) <= 2*shown {
		return text
	}
	return text[:shown] + "\n...\n" + text[len(text)-shown:]
}
