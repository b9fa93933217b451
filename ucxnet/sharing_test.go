package ucxnet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dramnode/dramnode/transport"
)

func TestPlace(t *testing.T) {
	here := intro{host: 1, domain: 2}
	for _, c := range []struct {
		there intro
		want  unshared
	}{
		{here, shared},
		{intro{host: 1, domain: 3}, sharedApart},
		{intro{host: 1}, sharedApart},
		{intro{host: 4, domain: 2}, sharedElsewhere},
		{intro{}, sharedElsewhere},
	} {
		if got := place(here, c.there); got != c.want {
			t.Errorf("place of %+v is %v, want %v", c.there, got, c.want)
		}
	}
	if got := place(intro{}, intro{}); got != sharedElsewhere {
		t.Errorf("two unknown hosts are %v", got)
	}
	for u := shared + 1; u <= unsharedEnd; u++ {
		if u.String() == "" {
			t.Errorf("reason %d has no name", u)
		}
	}
}

func TestMayRead(t *testing.T) {
	if pid, err := strconv.Atoi(os.Getenv("UCXNET_TEST_READ")); err == nil {
		if err := syscall.Setuid(65534); err != nil { // nobody, who may not read root's
			t.Fatal(err)
		}
		fmt.Println(mayRead(uint32(pid)))
		os.Exit(0)
	}
	if !mayRead(uint32(os.Getpid())) {
		t.Error("a process may not read its own memory")
	}
	if !mayRead(1 << 30) {
		t.Error("a process that does not exist is forbidden")
	}
	if syscall.Geteuid() != 0 {
		if mayRead(1) {
			t.Error("the first process can be read")
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestMayRead$")
	cmd.Env = append(os.Environ(), "UCXNET_TEST_READ="+fmt.Sprint(os.Getpid()))
	if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "false" {
		t.Errorf("nobody may read the memory of root: %v, %s", err, out)
	}
}

// A body that does not travel, while the peer is heard, is a doubt about shared memory.
func TestStuckTransferIsADoubt(t *testing.T) {
	const now = nanos(time.Minute)
	second := nanos(time.Second)
	for _, c := range []struct {
		name string
		shm  bool
		ep   endpoint
		want epState
	}{
		{"stuck", true, endpoint{transfers: 1, moved: now - 2*second}, epClosing},
		{"moving", true, endpoint{transfers: 1, moved: now - second/2}, epOpen},
		{"nothing under way", true, endpoint{moved: 0}, epOpen},
		{"long body", true, endpoint{transfers: 1, moved: now - 2*second, arriving: 64 << 20}, epOpen},
		{"tcp finds out by itself", false, endpoint{transfers: 1, moved: now - 2*second}, epOpen},
		{"pieces that the peer keeps back", false, endpoint{moved: now - 2*second, incoming: map[bodyKey]*incoming{{}: {held: 1}}}, epClosing},
		{"between two pieces", false, endpoint{moved: now - second/2, incoming: map[bodyKey]*incoming{{}: {held: 1}}}, epOpen},
	} {
		p := &poller{n: &Network{timing: transport.Timing{}.WithDefaults()}, now: now}
		c.ep.rail, c.ep.state, c.ep.heard = &rail{shm: c.shm}, epOpen, now
		p.checkEndpoint(&c.ep)
		if c.ep.state != c.want {
			t.Errorf("%s: the endpoint is in state %d, want %d; closed: %v", c.name, c.ep.state, c.want, p.stats.ClosedByReason)
		}
	}
}

// awaitFallback waits until l is open by tcp, for the reason.
func awaitFallback(t *testing.T, n *Network, l transport.Link, why unshared) {
	t.Helper()
	eventually(t, func() error {
		i := l.Info()
		if i.State != transport.LinkOpen || !strings.HasPrefix(i.Peer.Transport, "tcp") || i.Fallback != why.String() {
			return fmt.Errorf("the link is %v by %q, fallback %q, want tcp because of %q", i.State, i.Peer.Transport, i.Fallback, why)
		}
		if n.Counters()["no shm: "+why.String()] == 0 {
			return fmt.Errorf("the fallback is not counted: %v", n.Counters())
		}
		return nil
	})
	if err := newWaiter(nil).get(l, 8); err != nil {
		t.Error(err)
	}
}

// awaitRefusal waits until l says that there is no shared memory, and why.
func awaitRefusal(t *testing.T, l transport.Link, why unshared) {
	t.Helper()
	eventually(t, func() error {
		if i := l.Info(); i.State != transport.LinkConnecting || !errors.Is(i.Err, errNotShared) || !strings.Contains(i.Err.Error(), why.String()) {
			return fmt.Errorf("the link is %v, %w, want a refusal because of %q", i.State, i.Err, why)
		}
		return nil
	})
}

// More peers than there may be workers are reached by tcp, and it is said and counted at both ends; who requires
// shared memory is not served. When a worker is free again the next one gets it.
func TestMorePeersThanWorkers(t *testing.T) {
	sc := testConfig(transport.RoleNode)
	s := &store{}
	sc.Listen, sc.Handler, sc.Shm, sc.Limits.ShmPeers = "127.0.0.1:0", s, ShmAuto, 1
	server := start(t, sc)
	s.mem = region(t, server, 1<<20)
	dialFrom := func(shm ShmMode) (*Network, transport.Link) {
		n, _ := client(t, shm)
		return n, dial(t, n, server.Addr())
	}
	_, first := dialFrom(ShmAuto)
	awaitTransport(t, first, ShmAuto)
	n, l := dialFrom(ShmAuto)
	awaitFallback(t, n, l, sharedCrowded)
	required := testConfig(transport.RoleClient)
	required.Shm, required.Timing.RetryMax = ShmOn, 100*time.Millisecond
	waiting := dial(t, start(t, required), server.Addr())
	awaitRefusal(t, waiting, sharedCrowded)
	eventually(t, func() error {
		if c := server.Counters()["no shm: "+sharedCrowded.String()]; c < 2 {
			return fmt.Errorf("the server counts %d peers without room, want 2", c)
		}
		return nil
	})
	first.Close()
	awaitTransport(t, waiting, ShmOn) // it asked again
	waiting.Close()
	eventually(t, func() error {
		if got := server.Stats().ShmRails; got != 0 {
			return fmt.Errorf("%d workers after the close", got)
		}
		return nil
	})
	_, l = dialFrom(ShmAuto)
	awaitTransport(t, l, ShmAuto)

	cc := testConfig(transport.RoleClient) // the dialler has no room
	sc.Limits, cc.Shm, cc.Limits.ShmPeers = Limits{}, ShmAuto, 1
	cn := start(t, cc)
	for i, want := range []string{"sysv+cma", "tcp/lo"} {
		sc.Identity.Incarnation = lastIncarnation.Add(1)
		other := start(t, sc)
		l := dialOpen(t, cn, other.Addr())
		if i == 0 {
			awaitTransport(t, l, ShmAuto)
		} else {
			awaitFallback(t, cn, l, sharedCrowded)
		}
		if got := l.Info().Peer.Transport; got != want {
			t.Errorf("link %d goes by %q, want %q", i, got, want)
		}
	}
}

// A side that requires shared memory is not reached by tcp from its own host, whatever the other side wants.
func TestShmRequiredThere(t *testing.T) {
	sc := testConfig(transport.RoleNode)
	sc.Listen, sc.Handler, sc.Shm = "127.0.0.1:0", &store{}, ShmOn
	addr := start(t, sc).Addr()
	n, _ := client(t, ShmOff)
	awaitRefusal(t, dial(t, n, addr), sharedRequired)
	n, _ = client(t, ShmAuto)
	awaitTransport(t, dial(t, n, addr), ShmAuto)
}

// What fails often is tried on at once where tcp may not carry calls.
func TestRequiredIsTriedOn(t *testing.T) {
	sc := testConfig(transport.RoleNode)
	sc.Listen, sc.Handler, sc.Shm = "127.0.0.1:0", &store{}, ShmOn
	server, err := New(sc)
	if err != nil {
		t.Fatal(err)
	}
	lobby := netip.AddrPortFrom(loopback, server.intro.shmPort)
	server.intro.shmPort = detour(t, lobby, func(i int) bool { return i > 2*shmFails }, 0).Port()
	run(t, server)
	n, _ := client(t, ShmAuto)
	awaitTransport(t, dial(t, n, server.Addr()), ShmAuto)
}

// In other namespaces of the same host peers find to tcp by themselves.
func TestNamespacesApart(t *testing.T) {
	for _, c := range []struct{ name, setup string }{
		{"ipc", "unshare --ipc"},
		{"pid", "unshare --pid --fork --kill-child --mount-proc"},
	} {
		t.Run(c.name, func(t *testing.T) {
			argv := strings.Fields(c.setup)
			if out, err := exec.Command(argv[0], append(argv[1:], "true")...).CombinedOutput(); err != nil {
				t.Skipf("no right to make namespaces: %v, %s", err, out)
			}
			cmd := exec.Command(argv[0], append(argv[1:], os.Args[0], "-test.run=^$")...)
			cmd.Env = append(os.Environ(), "UCXNET_TEST_SERVER=127.0.0.1:0", "UCXNET_TEST_SHM=auto")
			child := runChild(t, cmd)
			n, _ := client(t, ShmAuto)
			awaitFallback(t, n, dial(t, n, child.addr), sharedApart)
			n, _ = client(t, ShmOn)
			awaitRefusal(t, dial(t, n, child.addr), sharedApart)
		})
	}
}

// Where the kernel gives no more segments, auto serves by tcp and on refuses to start.
func TestNoSegments(t *testing.T) {
	run := func(shm ShmMode) *exec.Cmd {
		cmd := exec.Command("unshare", "--ipc", "sh", "-c", `echo 9 >/proc/sys/kernel/shmmni && exec "$0" -test.run='^$'`, os.Args[0])
		cmd.Env = append(os.Environ(), "UCXNET_TEST_SERVER=127.0.0.1:0", "UCXNET_TEST_SHM="+shm.String())
		return cmd
	}
	if out, err := exec.Command("unshare", "--ipc", "sh", "-c", "echo 9 >/proc/sys/kernel/shmmni").CombinedOutput(); err != nil {
		t.Skipf("no right to make namespaces: %v, %s", err, out)
	}
	out, err := run(ShmOn).CombinedOutput()
	if err == nil || !strings.Contains(string(out), sharedFull.String()) {
		t.Errorf("shm on without segments ends with %v, %s", err, out)
	}
	c := runChild(t, run(ShmAuto))
	n, _ := client(t, ShmAuto)
	awaitFallback(t, n, dial(t, n, c.addr), sharedApart)
}

// What a worker takes, and what many idle ones cost.
func TestManyIdleWorkers(t *testing.T) {
	p := newPair(t, ShmOn)
	const more = 24
	settle := func(workers int) {
		eventually(t, func() error {
			if s := p.server.Stats(); s.ShmRails != workers || s.Resting > 0 {
				return fmt.Errorf("%d workers, want %d; %d descriptors rest", s.ShmRails, workers, s.Resting)
			}
			return nil
		})
	}
	settle(1)
	segments, _ := shmRoom()
	fds, kib, before := len(openFDs()), residentKB(t), cpuShare(t)
	var links []transport.Link
	began := time.Now()
	for range more {
		links = append(links, dial(t, p.client, p.server.Addr()))
	}
	eventually(t, func() error {
		if n := p.server.Stats().ShmRails; n != 1+more {
			return fmt.Errorf("%d workers, want %d", n, 1+more)
		}
		return nil
	})
	opened := time.Since(began)
	settle(1 + more)
	left, _ := shmRoom()
	t.Logf("each of %d more connections by shared memory takes, with both ends: %.1f descriptors, %d KiB resident, %.1f segments; all were open after %v",
		more, float64(len(openFDs())-fds)/more, (residentKB(t)-kib)/more, float64(int(segments)-int(left))/more, opened)
	after := cpuShare(t)
	t.Logf("idle: %.2f %% of a core with 1 connection, %.2f %% with %d", 100*before, 100*after, more+1)
	if after > 0.25 {
		t.Errorf("%d idle workers take %.1f %% of a core", 2*(more+1), 100*after)
	}
	for _, l := range links {
		l.Close()
	}
	settle(1)
	if n := len(openFDs()); n > fds+2 {
		t.Errorf("%d descriptors after the links were closed, %d before", n, fds)
	}
}

// cpuShare returns the share of a core that this process takes for two seconds.
func cpuShare(t *testing.T) float64 {
	t.Helper()
	before, began := cpuTime(t), time.Now()
	<-time.After(2 * time.Second)
	return float64(cpuTime(t)-before) / float64(time.Since(began))
}
