package cluster

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/test/netns"
	"github.com/dramnode/dramnode/test/proc"
)

var program = proc.BinaryFromEnv()

func TestMain(m *testing.M) {
	if spec := os.Getenv(driverEnv); spec != "" {
		os.Exit(driverMain(spec))
	}
	code := m.Run()
	if err := program.Remove(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const (
	settleLimit = 60 * time.Second
	pollEvery   = 20 * time.Millisecond
)

// A story is one cluster and who watches it.
type story struct {
	t       *testing.T
	program string
	name    string // of the cluster
	net     *netns.Net
	nodes   []*proc.Node
	options []proc.Options
	args    []string // of every node
	cut     int      // partitions that the settings in args make
	memory  []string // of the first nodes; others have 256MiB
}

func newStory(t *testing.T, args ...string) *story {
	t.Helper()
	path, err := program.Build()
	if err != nil {
		t.Fatal(err)
	}
	return &story{t: t, program: path, name: fmt.Sprintf("%s-%d", t.Name(), os.Getpid()), args: args, cut: ring.DefaultPartitions}
}

// onHosts puts node i on host i of a network of its own, and the driver on the last host.
func (s *story) onHosts(nodes int) *story {
	s.t.Helper()
	s.net = netns.ForTest(s.t, nodes+1)
	return s
}

// start adds n nodes. All have the same seed list, their own address included, as the manual says.
func (s *story) start(n int) {
	s.t.Helper()
	first := len(s.nodes)
	for range n {
		i := len(s.options)
		o := proc.Options{Name: fmt.Sprintf("n%d", i+1), Memory: "256MiB", Cluster: s.name, Args: s.args}
		if i < len(s.memory) {
			o.Memory = s.memory[i]
		}
		if s.net != nil {
			o.Host = s.net.Host(i)
			o.Env = []string{"UCX_TLS=tcp"}
			o.Args = append(slices.Clone(s.args), "--insecure") // no cluster key beyond loopback
		}
		o.Listen = proc.Address(s.t, o.Host)
		s.options = append(s.options, o)
	}
	seeds := s.seeds()
	for i := first; i < len(s.options); i++ {
		s.options[i].Join = seeds
		s.nodes = append(s.nodes, proc.Start(s.t, s.program, s.options[i]))
	}
}

// seeds are the gossip addresses of the first nodes, at most three.
func (s *story) seeds() (seeds []string) {
	for _, o := range s.options[:min(len(s.options), 3)] {
		seeds = append(seeds, gossipOf(o.Listen))
	}
	return seeds
}

func gossipOf(listen string) string {
	host, port, _ := cutPort(listen)
	return fmt.Sprintf("%s:%d", host, port+1)
}

func cutPort(addr string) (host string, port int, err error) {
	for i := len(addr) - 1; i >= 0; i-- {
		if addr[i] == ':' {
			port, err = strconv.Atoi(addr[i+1:])
			return addr[:i], port, err
		}
	}
	return addr, 0, fmt.Errorf("no port in %q", addr)
}

// restart starts node i again with the command line it had.
func (s *story) restart(i int) {
	s.t.Helper()
	s.nodes[i] = proc.Start(s.t, s.program, s.options[i])
}

func (s *story) addrs() (addrs []string) {
	for _, n := range s.nodes {
		addrs = append(addrs, n.Addr())
	}
	return addrs
}

// info asks a node about itself; nil when it does not answer.
func (s *story) info(n *proc.Node) *control.NodeInfo {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	status, body, err := n.Get(ctx, "/info")
	if err != nil || status != 200 {
		return nil
	}
	var info control.NodeInfo
	if err := json.Unmarshal(body, &info); err != nil {
		s.t.Fatalf("%s: /info: %v", n.Name(), err)
	}
	return &info
}

// state is what a node says of itself; on a loaded machine it may take several questions to learn it.
func (s *story) state(n *proc.Node) (info *control.NodeInfo) {
	s.t.Helper()
	s.await(n.Name()+" to answer", func() string {
		if info = s.info(n); info == nil {
			return "it does not"
		}
		return ""
	})
	return info
}

// agree waits until these nodes, and no others, serve by one table in which nothing moves.
func (s *story) agree(nodes ...*proc.Node) {
	s.t.Helper()
	s.await(fmt.Sprintf("%d nodes to agree", len(nodes)), func() string {
		var first *control.NodeInfo
		owned := 0
		for _, n := range nodes {
			info := s.info(n)
			switch {
			case info == nil:
				return n.Name() + " does not answer"
			case !info.Ready:
				return n.Name() + " is not ready"
			case info.Members != len(nodes) || info.Moving > 0:
				return fmt.Sprintf("%s counts %d members and %d moves in version %d", n.Name(), info.Members, info.Moving, info.TableVersion)
			}
			if first == nil {
				first = info
			}
			if info.TableVersion != first.TableVersion || info.ClusterID != first.ClusterID {
				return fmt.Sprintf("%s has table %d of %s, %s has %d of %s", first.Name, first.TableVersion, first.ClusterID, info.Name, info.TableVersion, info.ClusterID)
			}
			owned += info.Partitions
		}
		if owned != s.cut {
			return fmt.Sprintf("they own %d partitions together", owned)
		}
		return ""
	})
}

// cli runs a command as a user would, by way of node i, and returns what it prints.
func (s *story) cli(i int, args ...string) string {
	s.t.Helper()
	cmd := exec.Command(s.program, append([]string{"--addr", s.nodes[i].Addr(), "--cluster-name", s.name}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("dramnode %q: %v\n%s", args, err, said.String())
	}
	return string(out)
}

// await polls until missing returns "".
func (s *story) await(what string, missing func() string) {
	s.t.Helper()
	deadline := time.Now().Add(settleLimit)
	for {
		reason := missing()
		if reason == "" {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("waited %v for %s: %s", settleLimit, what, reason)
		}
		<-time.After(pollEvery)
	}
}

// A driver is a running driver process.
type driver struct {
	t       *testing.T
	cmd     *exec.Cmd
	err     bytes.Buffer
	written atomic.Int64  // what it said last
	ended   chan struct{} // closed when it has closed its output
	text    string        // its report; valid after ended
	readErr error
}

// drive starts w against the whole cluster, or against w.Addrs.
func (s *story) drive(w workload) *driver {
	s.t.Helper()
	if w.Addrs == nil {
		w.Addrs = s.addrs()
	}
	w.Cluster = s.name
	if w.Shm == "" {
		w.Shm = "auto"
	}
	spec, err := json.Marshal(w)
	if err != nil {
		s.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	d := &driver{t: s.t, cmd: exec.Command(self), ended: make(chan struct{})}
	if s.net != nil {
		host := s.net.Len() - 1
		if w.host > 0 {
			host = w.host - 1
		}
		d.cmd = s.net.Host(host).Command(self)
	}
	d.cmd.Env = append(os.Environ(), driverEnv+"="+string(spec))
	d.cmd.Stderr = &d.err
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	said := bufio.NewReader(out)
	if line, err := said.ReadString('\n'); err != nil || line != driverStarted+"\n" {
		s.t.Fatalf("driver said %q, %v\n%s", line, err, d.err.String())
	}
	go d.listen(said)
	return d
}

// listen notes how far the driver is, and its report.
func (d *driver) listen(said *bufio.Reader) {
	defer close(d.ended)
	for {
		line, err := said.ReadString('\n')
		if n, isProgress := strings.CutPrefix(line, driverWritten); isProgress {
			if count, numErr := strconv.ParseInt(strings.TrimSpace(n), 10, 64); numErr == nil {
				d.written.Store(count)
			}
		} else {
			d.text += line
		}
		if err != nil {
			if err != io.EOF {
				d.readErr = err
			}
			return
		}
	}
}

// wait returns the report of a driver that ends by itself.
func (d *driver) wait() report {
	d.t.Helper()
	<-d.ended
	if err := errors.Join(d.readErr, d.cmd.Wait()); err != nil {
		d.t.Fatalf("driver: %v\n%s", err, d.err.String())
	}
	var r report
	if err := json.Unmarshal([]byte(d.text), &r); err != nil {
		d.t.Fatalf("driver: %v\n%.2000s%s", err, d.text, d.err.String())
	}
	if r.Failure != "" {
		d.t.Fatalf("driver: %s\n%s", r.Failure, d.err.String())
	}
	for _, v := range r.Violations {
		d.t.Errorf("driver: %s", v)
	}
	d.t.Logf("driver: %d operations, %d writes, errors %v, missing %d, longest %v, longest call of unknown outcome %v", r.Ops, r.Written, r.Errors, r.Missing, r.Longest, r.Unknown)
	return r
}

// stop ends a load, which then checks all its keys once more.
func (d *driver) stop() report {
	d.t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	return d.wait()
}

// kept checks that every byte of a fill is there and that no partition was lost.
func (s *story) kept(fill workload) {
	s.t.Helper()
	fill.Mode = "check"
	s.drive(fill).wait()
	if info := s.state(s.nodes[0]); info.Losses != 0 {
		s.t.Errorf("something was lost: %+v", info)
	}
}

// pass lets time go by: a story is about what happens meanwhile.
func pass(d time.Duration) { <-time.After(d) }
