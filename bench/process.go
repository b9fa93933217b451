package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	startTimeout = 15 * time.Second
	stopTimeout  = 5 * time.Second
	// runTimeout is for one measurement with what surrounds it.
	runTimeout = 60 * time.Second
	maxOutput  = 1 << 20
)

// A server is a child process that serves until stop.
type server struct {
	cmd    *exec.Cmd
	output *tail
	ended  chan struct{} // closed when it has ended
	err    error         // why; valid after ended
}

// A tail keeps the first output of a process.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(b[:min(len(b), max(0, maxOutput-t.buf.Len()))])
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

// startServer starts a process and returns when ready says that it serves.
func startServer(env []string, ready func(output string) bool, program string, args ...string) (*server, error) {
	s := &server{cmd: exec.Command(program, args...), output: &tail{}, ended: make(chan struct{})}
	s.cmd.Env = environment(env)
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	// It must not outlive us, even if we are killed.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(s.ended)
		s.err = s.cmd.Wait()
	}()
	for deadline := time.Now().Add(startTimeout); ; {
		if ready(s.output.String()) {
			return s, nil
		}
		select {
		case <-s.ended:
			return nil, fmt.Errorf("%s ended at once (%w): %s", program, errors.Join(s.err), s.output)
		case <-time.After(2 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.stop()
			return nil, fmt.Errorf("%s does not start: %s", program, s.output)
		}
	}
}

// saysReady waits for a line of the program's own.
func saysReady(output string) bool { return strings.Contains(output, "ready") }

// accepts waits until somebody listens at addr.
func accepts(addr string) func(string) bool {
	return func(string) bool {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return false
		}
		return c.Close() == nil
	}
}

// stop ends the process and waits for it.
func (s *server) stop() {
	// Both fail only when it has ended.
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(stopTimeout):
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
}

// wait lets a server end that ends by itself.
func (s *server) wait() {
	select {
	case <-s.ended:
	case <-time.After(stopTimeout):
		s.stop()
	}
}

// cpu is the processor time of the server so far, in ticks of 10 ms; 0 when the system does not tell.
func (s *server) cpu() time.Duration {
	return statCPU(readFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid)))
}

// statCPU reads user and system time from /proc/PID/stat. The name in it may hold anything.
func statCPU(stat string) time.Duration {
	at := strings.LastIndexByte(stat, ')')
	if at < 0 {
		return 0
	}
	fields := strings.Fields(stat[at+1:]) // from field 3, the state, on
	const userField, systemField = 14 - 3, 15 - 3
	if len(fields) <= systemField {
		return 0
	}
	user, err := strconv.ParseInt(fields[userField], 10, 64)
	system, systemErr := strconv.ParseInt(fields[systemField], 10, 64)
	if errors.Join(err, systemErr) != nil {
		return 0
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on all Linux ports that matter
	return time.Duration(user+system) * tick
}

// run runs a program to its end and returns its standard output.
func run(ctx context.Context, env []string, program string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = environment(env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stdout bytes.Buffer
	stderr := &tail{}
	cmd.Stdout, cmd.Stderr = &stdout, stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), errors.Join(err, ctx.Err()), stderr)
	}
	return stdout.Bytes(), nil
}

// environment is ours without what would change the programs' settings.
func environment(add []string) []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "DRAMNODE_") && !strings.HasPrefix(v, "UCX_") && !strings.HasPrefix(v, "MEMCACHED_") {
			env = append(env, v)
		}
	}
	return append(env, add...)
}

// freePort returns the first of n ports in a row that nobody listens on.
func freePort(n int) (int, error) {
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		port := l.Addr().(*net.TCPAddr).Port
		held := []io.Closer{l}
		for i := 1; i < n && err == nil; i++ {
			if l, err = net.Listen("tcp", loopback(port+i)); err == nil {
				held = append(held, l)
			}
		}
		for _, l := range held {
			l.Close()
		}
		if err == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no %d free ports in a row", n)
}

const host = "127.0.0.1"

func loopback(port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
