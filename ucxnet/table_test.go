package ucxnet

import (
	"testing"
	"time"

	"github.com/dramnode/dramnode/transport"
)

func TestCallTable(t *testing.T) {
	table := callTable{earliest: never}
	a, b := &pending{deadline: 50}, &pending{}
	table.add(a)
	table.add(b)
	if table.get(a.id) != a || table.get(b.id) != b || table.len != 2 || table.earliest != 50 {
		t.Fatalf("table = %+v", table)
	}
	old := a.id
	table.remove(a)
	if table.get(old) != nil {
		t.Error("an ended call is still found")
	}
	c := &pending{}
	table.add(c)
	if uint32(c.id) != uint32(old) {
		t.Errorf("id %#x does not reuse the slot of %#x", c.id, old)
	}
	if table.get(old) != nil {
		t.Error("a late reply finds the slot's next call")
	}
	for _, id := range []uint64{99, 1 << 40, ^uint64(0)} {
		if table.get(id) != nil {
			t.Errorf("unknown id %#x is found", id)
		}
	}
}

func TestTransferTable(t *testing.T) {
	var table transferTable
	ep := &endpoint{}
	a := table.add(sendMessage, ep)
	token := a.token()
	if got := table.of(ep); len(got) != 1 || got[0] != a {
		t.Fatalf("of = %v", got)
	}
	if table.take(token) != a || table.take(token) != nil {
		t.Error("a transfer is not taken exactly once")
	}
	table.recycle(a)
	b := table.add(receivePiece, ep)
	if b != a || table.take(token) != nil || table.take(b.token()) != b {
		t.Error("an old token finds the slot's next transfer")
	}
}

func TestPause(t *testing.T) {
	timing := transport.Timing{}.WithDefaults()
	least := func(int64) int64 { return 0 }
	most := func(n int64) int64 { return n - 1 }
	for _, c := range []struct {
		fails     int
		refused   bool
		from, to_ time.Duration
	}{
		{1, false, 0, 0},
		{2, false, 25 * time.Millisecond, 50 * time.Millisecond},
		{3, false, 50 * time.Millisecond, 100 * time.Millisecond},
		{10, false, 500 * time.Millisecond, time.Second},
		{1000, false, 500 * time.Millisecond, time.Second},
		{1, true, 2500 * time.Millisecond, 5 * time.Second},
	} {
		if got := pause(timing, c.fails, c.refused, least); got != c.from {
			t.Errorf("pause after %d fails, refused %v, is at least %v, want %v", c.fails, c.refused, got, c.from)
		}
		if got := pause(timing, c.fails, c.refused, most); got != c.to_ {
			t.Errorf("pause after %d fails, refused %v, is at most %v, want %v", c.fails, c.refused, got, c.to_)
		}
	}
}

// A dialler waits longer after each attempt that ran out of time, up to a bound; an acceptor waits as long,
// unless many say nothing.
func TestConnectLimit(t *testing.T) {
	p := &poller{n: &Network{timing: transport.Timing{}.WithDefaults(), limits: Limits{}.withDefaults()}}
	second := nanos(time.Second)
	for _, c := range []struct {
		late, greeting int
		want           nanos // of the dialler
		inbound        nanos
	}{
		{0, 0, second, 8 * second},
		{1, 128, 2 * second, 8 * second},
		{3, 129, 8 * second, second},
		{100, 256, 8 * second, second},
	} {
		l := &link{}
		l.carriers[1].late, p.greeting = c.late, c.greeting
		if got := p.connectLimit(&endpoint{rail: &rail{shm: true}, link: l}); got != c.want {
			t.Errorf("after %d late attempts the dialler waits %d ns, want %d", c.late, got, c.want)
		}
		if got := p.connectLimit(&endpoint{rail: &rail{}}); got != c.inbound {
			t.Errorf("with %d strangers the acceptor waits %d ns, want %d", c.greeting, got, c.inbound)
		}
	}
	p.greeting = 0
	for workers, want := range map[int]nanos{32: 8 * second, 33: second} {
		p.shmRails = workers
		if got := p.connectLimit(&endpoint{rail: &rail{shm: true}}); got != want {
			t.Errorf("with %d workers the acceptor waits %d ns for a peer by shared memory, want %d", workers, got, want)
		}
	}
}

func TestParseLanes(t *testing.T) {
	const tcp = `
#               peer: <no debug data>
#                 lane[0]: cm rdmacm
#                 lane[1]:  0:tcp/lo.0 md[0]                -> md[0]/tcp/sysdev[255] rma_bw#0 am am_bw#0 wireup
`
	const shm = `
#                 lane[0]: cm rdmacm
#                 lane[1]:  1:sysv/memory.0 md[1]           -> md[1]/sysv/sysdev[255] am am_bw#0 keepalive
#                 lane[2]:  2:cma/memory.0 md[2]            -> md[2]/cma/sysdev[255] rma_bw#0
`
	for text, want := range map[string]string{tcp: "tcp/lo", shm: "sysv+cma", "": "unknown", "lane[1]: ->": "unknown", "lane[": "unknown"} {
		if got := parseLanes(text); got != want {
			t.Errorf("parseLanes(%q) = %q, want %q", text, got, want)
		}
	}
}
