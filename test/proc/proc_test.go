package proc

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dramnode/dramnode/test/netns"
	"go.uber.org/goleak"
)

// roleEnv makes this test binary stand in for a node: TestMain then runs standIn.
const roleEnv = "PROC_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(standIn(role, os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

// standIn obeys the command line of "dramnode serve". It is ready at its third /readyz, and leaves
// with exit code 0 at SIGTERM unless its role says otherwise.
func standIn(role string, args []string) int {
	fmt.Println("stand-in", role, "started with", strings.Join(args, " "))
	if role == "broken" {
		return 7
	}
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	listen := flags.String("listen", "", "")
	for _, name := range []string{"name", "join", "memory", "cluster-name"} {
		flags.String(name, "", "")
	}
	if len(args) == 0 || args[0] != "serve" || flags.Parse(args[1:]) != nil {
		return 2
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)

	addr := netip.MustParseAddrPort(*listen)
	for offset := range uint16(2) { // take all three ports, as a node does
		l, err := net.Listen("tcp", netip.AddrPortFrom(addr.Addr(), addr.Port()+offset).String())
		if err != nil {
			fmt.Println(err)
			return 1
		}
		defer l.Close()
	}
	var asked atomic.Int64
	http.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 3 || role == "never ready" {
			http.Error(w, "no table yet", http.StatusServiceUnavailable)
		}
	})
	failed := make(chan error, 1)
	go func() {
		failed <- http.ListenAndServe(netip.AddrPortFrom(addr.Addr(), addr.Port()+2).String(), nil)
	}()
	select {
	case err := <-failed:
		fmt.Println(err)
		return 1
	case <-term:
		fmt.Println("leaving")
	}
	if role == "leaves badly" {
		return 3
	}
	return 0
}

// startStandIn starts this binary in a role.
func startStandIn(t testing.TB, role string, o Options) *Node {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.Env = append(o.Env, roleEnv+"="+role)
	return Start(t, self, o)
}

func TestLifeOfANode(t *testing.T) {
	n := startStandIn(t, "good", Options{Name: "n1", Memory: "64MiB", Cluster: "c", Join: []string{"127.0.0.1:1", "127.0.0.1:2"}})
	n.WaitReady()
	want := "serve --name n1 --listen " + n.Addr() + " --join 127.0.0.1:1 --join 127.0.0.1:2 --memory 64MiB --cluster-name c\n"
	if !strings.Contains(n.Log(), want) {
		t.Errorf("command line: %q, want %q", n.Log(), want)
	}
	if n.RSSBytes() < 1<<20 || n.Threads() < 1 || n.FDs() < 5 {
		t.Errorf("usage: %d bytes, %d threads, %d descriptors", n.RSSBytes(), n.Threads(), n.FDs())
	}
	n.Stop()
	if !strings.HasSuffix(n.Log(), "leaving\n") {
		t.Errorf("SIGTERM did not reach the process: %q", n.Log())
	}
	n.Kill() // of a process that has ended: nothing
}

func TestWaitReadySaysWhatIsWrong(t *testing.T) {
	n := startStandIn(t, "never ready", Options{})
	for limit := time.Now().Add(readyLimit); ; { // it listens some time after its start
		if status, _, err := n.Get(t.Context(), "/readyz"); err == nil {
			if status != http.StatusServiceUnavailable {
				t.Fatalf("/readyz answers %d", status)
			}
			break
		} else if time.Now().After(limit) {
			t.Fatal(err)
		}
		<-time.After(pollEvery)
	}
	err := n.waitReady(2 * time.Second)
	if err == nil || !strings.Contains(err.Error(), "no table yet") {
		t.Errorf("never ready: %v, want the node's answer", err)
	}

	n = startStandIn(t, "broken", Options{})
	err = n.waitReady(readyLimit)
	if err == nil || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("ended at once: %v, want its exit status", err)
	}
}

func TestStopWantsExitCodeZero(t *testing.T) {
	n := startStandIn(t, "leaves badly", Options{})
	n.WaitReady()
	if err := n.stop(stopLimit); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("stop: %v, want its exit status", err)
	}
}

func TestPauseFreezesAndResumeThaws(t *testing.T) {
	n := startStandIn(t, "good", Options{})
	n.WaitReady()
	n.Pause()
	if err := n.stop(200 * time.Millisecond); err == nil {
		t.Error("a frozen process ended at SIGTERM")
	}
	n.Resume() // now it sees the SIGTERM
	if err := n.await(stopLimit); err != nil {
		t.Error(err)
	}
}

func TestKillEndsAPausedNode(t *testing.T) {
	n := startStandIn(t, "good", Options{})
	n.WaitReady()
	n.Pause()
	n.Kill()
	select {
	case <-n.Exited():
	default:
		t.Error("Kill returned before the process was gone")
	}
	if err := n.signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal to a dead process: %v", err)
	}
	if _, err := net.Dial("tcp", n.Addr()); err == nil {
		t.Error("a killed node accepts connections")
	}
}

func TestCleanupKills(t *testing.T) {
	var n *Node
	t.Run("story", func(t *testing.T) {
		n = startStandIn(t, "good", Options{})
		n.WaitReady()
	})
	select {
	case <-n.Exited():
	default:
		t.Error("the process outlives its test")
	}
}

func TestAddressesAreDistinctAndFree(t *testing.T) {
	used := make(map[netip.AddrPort]bool)
	for range 50 {
		addr := netip.MustParseAddrPort(Address(t, nil))
		for p := addr.Port(); p < addr.Port()+nodePorts; p++ {
			port := netip.AddrPortFrom(addr.Addr(), p)
			if used[port] {
				t.Errorf("%v was handed out twice", port)
			}
			used[port] = true
			if err := free(port.String()); err != nil {
				t.Error(err)
			}
		}
		if guard, err := reserve(addr.Addr(), addr.Port()); err == nil {
			t.Errorf("%v could be reserved twice", addr)
			guard.Close()
		}
	}
}

func TestRestartOnTheSameAddress(t *testing.T) {
	n := startStandIn(t, "good", Options{})
	n.WaitReady()
	n.Kill()
	again := startStandIn(t, "good", Options{Listen: n.Addr()})
	again.WaitReady()
	if again.Addr() != n.Addr() || again.PID() == n.PID() {
		t.Errorf("restarted as %d at %s, want a new process at %s", again.PID(), again.Addr(), n.Addr())
	}
}

func TestNodesOnNamespacedHosts(t *testing.T) {
	network := netns.ForTest(t, 2)
	a := startStandIn(t, "good", Options{Name: "a", Host: network.Host(0)})
	b := startStandIn(t, "good", Options{Name: "b", Host: network.Host(1)})
	a.WaitReady()
	b.WaitReady()
	if a.Addr() == b.Addr() {
		t.Errorf("two hosts share the address %s", a.Addr())
	}
	if c, err := network.Host(1).DialContext(t.Context(), "tcp", a.Addr()); err != nil {
		t.Fatal(err)
	} else {
		c.Close()
	}
	if err := network.Cut(0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if c, err := network.Host(1).DialContext(ctx, "tcp", a.Addr()); err == nil {
		c.Close()
		t.Error("b reaches a through a cut link")
	}
	if status, _, err := a.Get(t.Context(), "/readyz"); err != nil || status != http.StatusOK {
		t.Errorf("a process behind a cut link must still answer on its own host: %d, %v", status, err)
	}
	a.Stop() // its process id is the program's own, not a wrapper's
}

func TestBinaryIsBuiltOnce(t *testing.T) {
	given := &Binary{Path: "/given"}
	if path, err := given.Build(); path != "/given" || err != nil {
		t.Errorf("Build() = %q, %v, want the given path", path, err)
	}
	if err := given.Remove(); err != nil {
		t.Error(err)
	}
	built := &Binary{pkg: "github.com/dramnode/dramnode/test/proc/testdata/hello"}
	first, err := built.Build()
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(first)
	if err != nil {
		t.Fatal(err)
	}
	second, err := built.Build()
	if again, statErr := os.Stat(second); err != nil || statErr != nil || !os.SameFile(info, again) {
		t.Errorf("the second Build made %q anew: %v, %v", second, err, statErr)
	}
	if err := built.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Dir(first)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Remove left %s: %v", filepath.Dir(first), err)
	}
	broken := &Binary{pkg: "github.com/dramnode/dramnode/no/such/package"}
	if _, err := broken.Build(); err == nil {
		t.Error("building nothing succeeded")
	}
	if err := broken.Remove(); err != nil {
		t.Error(err)
	}
}
