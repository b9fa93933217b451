package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const (
	arrivalLimit = 10 * time.Second       // longer than any retransmission after a short cut
	silence      = 300 * time.Millisecond // a delivered packet takes well under a millisecond
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A port is a UDP socket on one host.
type port struct {
	t    *testing.T
	host *Host
	conn net.PacketConn
}

func openPort(t *testing.T, h *Host) *port {
	t.Helper()
	p := &port{t: t, host: h}
	err := h.inside(func() (err error) {
		p.conn, err = net.ListenPacket("udp", net.JoinHostPort(h.Addr().String(), "0"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.conn.Close() })
	return p
}

var sent int // makes every datagram different

// reaches reports whether a datagram from p arrives at q.
func (p *port) reaches(q *port, limit time.Duration) bool {
	p.t.Helper()
	sent++
	want := fmt.Sprintf("datagram %d", sent)
	if _, err := p.conn.WriteTo([]byte(want), q.conn.LocalAddr()); err != nil {
		p.t.Fatalf("a cut must be silent, but sending said: %v", err)
	}
	if err := q.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		p.t.Fatal(err)
	}
	buf := make([]byte, 64)
	for {
		k, _, err := q.conn.ReadFrom(buf)
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				p.t.Fatal(err)
			}
			return false
		}
		if string(buf[:k]) == want {
			return true
		}
	}
}

// expectReach checks every ordered pair of ports against the set of pairs that are cut.
func expectReach(t *testing.T, when string, ports []*port, cut ...[2]int) {
	t.Helper()
	isCut := make(map[[2]int]bool)
	for _, pair := range cut {
		isCut[pair] = true
	}
	for i, p := range ports {
		for j, q := range ports {
			if i == j {
				continue
			}
			limit := arrivalLimit
			if isCut[[2]int{i, j}] {
				limit = silence
			}
			if got, want := p.reaches(q, limit), !isCut[[2]int{i, j}]; got != want {
				t.Errorf("%s: host %d reaches host %d: %v, want %v", when, i, j, got, want)
			}
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCutsLoseExactlyTheirPackets(t *testing.T) {
	n := ForTest(t, 3)
	var ports []*port
	for i := range n.Len() {
		ports = append(ports, openPort(t, n.Host(i)))
	}
	expectReach(t, "at first", ports)

	must(t, n.Cut(0))
	must(t, n.Cut(0)) // a second cut changes nothing
	expectReach(t, "host 0 cut", ports, [2]int{0, 1}, [2]int{1, 0}, [2]int{0, 2}, [2]int{2, 0})
	must(t, n.Heal(0))
	expectReach(t, "host 0 healed", ports)

	must(t, n.CutPair(0, 1))
	expectReach(t, "pair cut", ports, [2]int{0, 1}, [2]int{1, 0})
	must(t, n.HealOneWay(1, 0))
	expectReach(t, "half the pair healed", ports, [2]int{0, 1})
	must(t, n.HealPair(0, 1))
	expectReach(t, "pair healed", ports)

	must(t, n.CutOneWay(2, 1))
	must(t, n.Cut(0))
	must(t, n.HealAll())
	must(t, n.HealAll())
	expectReach(t, "all healed", ports)
}

func TestCutIsSilentForStreams(t *testing.T) {
	n := ForTest(t, 2)
	var l net.Listener
	must(t, n.Host(1).inside(func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(n.Host(1).Addr().String(), "0"))
		return err
	}))
	defer l.Close()
	client, err := n.Host(0).DialContext(t.Context(), "tcp", l.Addr().String())
	must(t, err)
	defer client.Close()
	server, err := l.Accept()
	must(t, err)
	defer server.Close()

	must(t, n.Cut(1))
	_, err = client.Write([]byte("x"))
	must(t, err)
	must(t, server.SetReadDeadline(time.Now().Add(silence)))
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read from a cut peer: %v, want silence", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), silence)
	defer cancel()
	if c, err := n.Host(0).DialContext(ctx, "tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("connected to a cut host")
	} else if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("connect to a cut host: %v, want silence", err)
	}

	must(t, n.Heal(1))
	must(t, server.SetReadDeadline(time.Now().Add(arrivalLimit)))
	if _, err := server.Read(make([]byte, 1)); err != nil {
		t.Errorf("after the cut healed, the connection that was open before: %v", err)
	}
}

func TestCommandRunsOnItsHost(t *testing.T) {
	n := ForTest(t, 2)
	for i := range n.Len() {
		out, err := n.Host(i).Command("ip", "-o", "-4", "addr").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for j := range n.Len() {
			if got, want := strings.Contains(string(out), n.Host(j).Addr().String()+"/"), i == j; got != want {
				t.Errorf("host %d has the address of host %d: %v, want %v:\n%s", i, j, got, want, out)
			}
		}
	}
}

func TestNetworksDoNotMeetAndCloseRemovesAll(t *testing.T) {
	a, b := ForTest(t, 1), ForTest(t, 1)
	if a.router == b.router || a.Host(0).namespace == b.Host(0).namespace {
		t.Fatalf("two networks share a namespace: %v and %v", a, b)
	}
	must(t, a.Close())
	must(t, a.Close())
	if left, _ := filepath.Glob(filepath.Join(namespacesDir, strings.TrimSuffix(a.router, "router")+"*")); len(left) > 0 {
		t.Errorf("Close left %v", left)
	}
	if _, err := a.Host(0).DialContext(t.Context(), "udp", "10.77.1.1:1"); err == nil {
		t.Error("a closed network can be used")
	}
	if out, err := b.Host(0).Command("true").CombinedOutput(); err != nil {
		t.Errorf("closing one network hurt another: %v: %s", err, out)
	}
}

func TestOrphansAreRemoved(t *testing.T) {
	_ = ForTest(t, 1)               // skips where it must
	const orphan = "dn-4194305-1-0" // above the kernel's largest process id, so of no running process
	must(t, ip(t.Context(), "", "netns", "add", orphan))
	_ = ForTest(t, 1)
	if _, err := os.Stat(filepath.Join(namespacesDir, orphan)); err == nil {
		must(t, ip(t.Context(), "", "netns", "del", orphan))
		t.Error("a dead process's namespace is still there")
	}
}

func TestUpRejectsImpossibleSizes(t *testing.T) {
	for _, n := range []int{-1, 0, MaxHosts + 1} {
		if _, err := Up(t.Context(), n); err == nil {
			t.Errorf("Up(%d) did not fail", n)
		}
	}
}
