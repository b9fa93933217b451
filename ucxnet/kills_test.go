package ucxnet

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dramnode/dramnode/transport"
)

// Kills under load over shared memory. A survivor serves a bystander, who must notice nothing, and
// clients that are killed; it has links to a node that is killed and comes back. Every byte of every
// value is checked at both ends, and memory is painted as soon as it is given back, so that whoever
// still reads or writes it is found out.
//
// KILLS is how many; "make kills" sets it.
func TestKills(t *testing.T) {
	kills := 6
	if s := os.Getenv("KILLS"); s != "" {
		var err error
		if kills, err = strconv.Atoi(s); err != nil {
			t.Fatalf("KILLS=%q: %v", s, err)
		}
	}
	k := newKillTest(t, transport.Timing{Dead: 5 * time.Second}) // this process may stand still as long: it is no victim
	for range 2 {                                                // what is allocated once
		k.killClient()
		k.killNode()
	}
	before := k.usage()
	for i := range kills / 2 {
		k.killClient()
		k.killNode()
		if i%25 == 24 {
			t.Logf("%d kills, %d of them in a copy; %v", 2*(i+1), k.inCopy, k.usage())
		}
	}
	k.end(before, kills)
}

const (
	checkSlot  = 1 << 20 // bytes of the longest value
	checkSlots = 96
)

// noise holds all values: that of a seed is the noise from there on. Copied and compared whole, so that the
// tests spend their time on the network, also when they are instrumented.
var noise = sync.OnceValue(func() []byte {
	b := make([]byte, 2*checkSlot)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(b) // never fails
	return b
})

func valueOf(seed uint64, n int) []byte {
	at := seed % checkSlot
	return noise()[at : at+uint64(n)]
}

func fill(b []byte, seed uint64) { copy(b, valueOf(seed, len(b))) }

// check reports where b is not the value of the seed.
func check(b []byte, seed uint64) error {
	want := valueOf(seed, len(b))
	if bytes.Equal(b, want) {
		return nil
	}
	for i := range b {
		if b[i] != want[i] {
			return fmt.Errorf("corrupt: byte %d of %d is %#x, want %#x", i, len(b), b[i], want[i])
		}
	}
	return errors.New("corrupt: the value changes while it is looked at")
}

var painted = bytes.Repeat([]byte{0xDD}, checkSlot)

func paint(b []byte) { copy(b, painted) }

// A checker answers requests of checkedCallers. Header: seed u64 | bytes u32 | op u32.
type checker struct {
	mem   []byte
	free  chan int
	wrong atomic.Value // the first error
	served,
	aborted atomic.Int64
}

const (
	opPut = iota
	opGet
)

func newChecker() *checker {
	c := &checker{free: make(chan int, checkSlots)}
	for i := range checkSlots {
		c.free <- i
	}
	return c
}

func (c *checker) slot(i int) []byte { return c.mem[i*checkSlot : (i+1)*checkSlot] }

func (c *checker) Release(slot uint64) {
	paint(c.slot(int(slot)))
	c.free <- int(slot)
}

func (c *checker) Place(r *transport.Request, n int) ([]byte, error) {
	select {
	case i := <-c.free:
		r.Cookie = uint64(i)
		return c.slot(i)[:n], nil
	default:
		return nil, transport.ErrRefused
	}
}

func (c *checker) Serve(r *transport.Request) {
	if r.Placed {
		defer c.Release(r.Cookie)
	}
	if r.Err != nil {
		c.aborted.Add(1)
		return
	}
	seed, n, op := binary.LittleEndian.Uint64(r.Header), int(binary.LittleEndian.Uint32(r.Header[8:])), binary.LittleEndian.Uint32(r.Header[12:])
	c.served.Add(1)
	if op == opPut {
		err := check(r.Body, seed)
		if len(r.Body) != n {
			err = fmt.Errorf("corrupt: %d bytes, want %d", len(r.Body), n)
		}
		if err != nil {
			c.wrong.CompareAndSwap(nil, err)
		}
		r.Reply(nil, transport.Body{})
		return
	}
	select {
	case i := <-c.free:
		fill(c.slot(i)[:n], seed)
		r.Reply(nil, transport.Body{Bytes: c.slot(i)[:n], Releaser: c, Token: uint64(i)})
	default:
		r.Reply([]byte("busy"), transport.Body{})
	}
}

// A checkedLoad makes calls of all sizes until it is stopped.
type checkedLoad struct {
	load
	longest atomic.Int64 // of a call that succeeded, in nanoseconds
	wrong   atomic.Value
}

var checkedSizes = []int{8, 64, 1000, 4096, 8000, 8000, 8000, 64 << 10, 300 << 10, 1 << 20}

func startCheckedLoad(l transport.Link, mem []byte, callers int) *checkedLoad {
	x := &checkedLoad{load: load{stop: make(chan struct{})}}
	for g := range callers {
		x.callers.Go(func() {
			source, place := mem[2*g<<20:(2*g+1)<<20], mem[(2*g+1)<<20:(2*g+2)<<20]
			for {
				select {
				case <-x.stop:
					return
				default:
				}
				if err := x.call(l, source, place); err != nil {
					<-time.After(time.Millisecond)
				}
			}
		})
	}
	return x
}

func (x *checkedLoad) call(l transport.Link, source, place []byte) error {
	n, seed, op := checkedSizes[rand.IntN(len(checkedSizes))], rand.Uint64(), rand.IntN(2)
	header := binary.LittleEndian.AppendUint64(nil, seed)
	header = binary.LittleEndian.AppendUint32(header, uint32(n))
	header = binary.LittleEndian.AppendUint32(header, uint32(op))
	w := newWaiter(place)
	back := make(gaveBack)
	var body transport.Body
	if op == opPut {
		fill(source[:n], seed)
		body = transport.Body{Bytes: source[:n], Releaser: back}
	}
	began := time.Now()
	err := w.do(l, header, body, 5*time.Second)
	took := time.Since(began)
	x.count(err)
	if op == opPut {
		select {
		case <-back:
		case <-time.After(20 * time.Second):
			x.wrong.CompareAndSwap(nil, errors.New("a body was not given back"))
			<-back
		}
		paint(source[:n])
	}
	if err == nil && op == opGet && len(w.header) == 0 {
		bad := check(w.body, seed)
		if len(w.body) != n {
			bad = fmt.Errorf("corrupt: %d bytes, want %d", len(w.body), n)
		}
		if bad != nil {
			x.wrong.CompareAndSwap(nil, bad)
		}
	}
	if err == nil {
		for old := x.longest.Load(); int64(took) > old && !x.longest.CompareAndSwap(old, int64(took)); old = x.longest.Load() {
		}
	}
	paint(place)
	return err
}

// gaveBack tells of a body's release.
type gaveBack chan struct{}

func (g gaveBack) Release(uint64) { close(g) }

// killTest is the survivor and those around it.
type killTest struct {
	t                           *testing.T
	server, client, other       *Network
	store                       *checker
	node                        *child
	toNode, toServer            transport.Link
	nodeLoad, bystander         *checkedLoad
	bare                        int // segments of shared memory without a connection
	inCopy                      int
	clientsKilled, nodesKilled  int
	longestReturn, longestClean time.Duration
}

func newKillTest(t *testing.T, timing transport.Timing) *killTest {
	k := &killTest{t: t, store: newChecker()}
	t.Setenv("UCXNET_TEST_CHECK", "1")
	sc := testConfig(transport.RoleNode)
	sc.Listen, sc.Handler, sc.Shm = "127.0.0.1:0", k.store, ShmOn
	sc.Timing = timing
	k.server = start(t, sc)
	k.store.mem = region(t, k.server, checkSlots*checkSlot)
	k.node = startChild(t, fixedAddr(t), ShmOn)
	var mem []byte
	k.client, mem = client(t, ShmOn)
	k.bare = segments(t)
	k.toNode = dialOpen(t, k.client, k.node.addr)
	awaitTransport(t, k.toNode, ShmOn)
	k.nodeLoad = startCheckedLoad(k.toNode, mem, 4)
	oc := testConfig(transport.RoleClient)
	oc.Shm, oc.Timing = ShmOn, timing
	k.other = start(t, oc)
	mem = region(t, k.other, 64<<20)
	k.toServer = dialOpen(t, k.other, k.server.Addr())
	awaitTransport(t, k.toServer, ShmOn)
	k.bystander = startCheckedLoad(k.toServer, mem, 2)
	return k
}

// strike kills c at a random moment, in half of the cases one at which a thread of it is in a copy: it is
// stopped again and again until that is so.
func (k *killTest) strike(c *child) {
	k.t.Helper()
	<-time.After(time.Duration(rand.IntN(20_000)) * time.Microsecond)
	for range rand.IntN(2) * 300 {
		signal(k.t, c, syscall.SIGSTOP)
		if copies(c.cmd.Process.Pid) {
			k.inCopy++
			break
		}
		signal(k.t, c, syscall.SIGCONT)
		<-time.After(time.Duration(rand.IntN(200)) * time.Microsecond)
	}
	c.kill(k.t)
	if s, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
		k.t.Fatalf("a process to be killed ended with %v", c.cmd.ProcessState)
	}
}

// copies reports whether a thread of the stopped process is at an instruction of UCX's transports or of
// libc, where a poller is only to copy.
func copies(pid int) bool {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return false
	}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		for range 100 { // the signal is on its way
			if err != nil || !strings.HasPrefix(string(b), "running") {
				break
			}
			b, err = os.ReadFile(task)
		}
		var at, sp, pc uint64
		if err != nil || !strings.HasPrefix(string(b), "-1 ") { // in a system call
			continue
		}
		if _, err := fmt.Sscanf(string(b), "-%d 0x%x 0x%x", &at, &sp, &pc); err != nil {
			continue
		}
		for line := range strings.Lines(string(maps)) {
			var from, to uint64
			if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err == nil && pc >= from && pc < to &&
				(strings.Contains(line, "/libc.so") || strings.Contains(line, "/libuct")) {
				return true
			}
		}
	}
	return false
}

func (k *killTest) startClient() *child {
	k.t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "UCXNET_TEST_CLIENT="+k.server.Addr())
	return runChild(k.t, cmd)
}

// killClient kills a client of the survivor. The bystander goes on, and what the client held is given back.
func (k *killTest) killClient() {
	k.t.Helper()
	c := k.startClient()
	k.strike(c)
	k.clientsKilled++
	killed := time.Now()
	k.awaitSurvivors()
	eventually(k.t, func() error {
		if s := k.server.Stats(); s.Inbound > 2 || s.ShmRails > 1 {
			return fmt.Errorf("the survivor holds %d endpoints and %d workers after a client's death", s.Inbound, s.ShmRails)
		}
		return nil
	})
	k.longestClean = max(k.longestClean, time.Since(killed))
}

// killNode kills the node to which the survivor has a link, and starts it again.
func (k *killTest) killNode() {
	k.t.Helper()
	before := k.toNode.Info().Opened
	k.nodeLoad.awaitMoreOK(k.t, 20)
	k.strike(k.node)
	k.nodesKilled++
	k.awaitSurvivors()
	eventually(k.t, func() error {
		if i := k.toNode.Info(); i.State == transport.LinkOpen && i.Opened == before {
			return errors.New("the link to the killed node stays open")
		}
		return nil
	})
	killed := time.Now()
	k.node = startChild(k.t, k.node.addr, ShmOn)
	awaitTransport(k.t, k.toNode, ShmOn)
	k.nodeLoad.awaitMoreOK(k.t, 20)
	k.longestReturn = max(k.longestReturn, time.Since(killed))
}

// awaitSurvivors waits until the bystander has been served after the kill.
func (k *killTest) awaitSurvivors() {
	k.t.Helper()
	k.bystander.awaitMoreOK(k.t, 50)
	for _, wrong := range []*atomic.Value{&k.store.wrong, &k.bystander.wrong, &k.nodeLoad.wrong} {
		if err := wrong.Load(); err != nil {
			k.t.Fatal(err)
		}
	}
}

// A client that stands still in the middle of a copy, for so long that the survivor gives it up and reuses the
// memory that it was reading, must not take what it reads then for its value; and it must find back.
func TestStoppedInCopy(t *testing.T) {
	k := newKillTest(t, transport.Timing{})
	c := k.startClient()
	rounds := 1
	if os.Getenv("KILLS") != "" {
		rounds = 5
	}
	for range rounds {
		stopped := false
		for range 2000 {
			signal(t, c, syscall.SIGSTOP)
			if stopped = copies(c.cmd.Process.Pid); stopped {
				break
			}
			signal(t, c, syscall.SIGCONT)
			<-time.After(time.Duration(rand.IntN(200)) * time.Microsecond)
		}
		t.Logf("in a copy: %v", stopped)
		if !stopped {
			signal(t, c, syscall.SIGSTOP)
		}
		eventually(t, func() error {
			if s := k.server.Stats(); s.ShmRails > 1 {
				return fmt.Errorf("the survivor holds %d workers while a client stands still", s.ShmRails)
			}
			return nil
		})
		k.awaitSurvivors()
		<-time.After(2 * k.server.timing.Dead) // what the client was reading is given back after this rest
		k.awaitSurvivors()
		signal(t, c, syscall.SIGCONT)
		eventually(t, func() error {
			if s := k.server.Stats(); s.ShmRails != 2 {
				return errors.New("the client does not come back by shared memory")
			}
			return nil
		})
		k.awaitSurvivors()
	}
	c.stop() // says so if it found a byte wrong
	if !c.cmd.ProcessState.Success() {
		t.Errorf("the client ended with %v", c.cmd.ProcessState)
	}
	k.nodeLoad.end(t)
	k.bystander.end(t)
}

// A killUsage is what this process holds.
type killUsage struct{ fds, segments, goroutines, kib int }

func (u killUsage) String() string {
	return fmt.Sprintf("%d descriptors, %d segments of shared memory, %d goroutines, %d KiB resident", u.fds, u.segments, u.goroutines, u.kib)
}

func (k *killTest) usage() killUsage {
	k.t.Helper()
	eventually(k.t, func() error {
		if s := k.server.Stats(); s.Resting > 0 {
			return fmt.Errorf("%d descriptor numbers rest", s.Resting)
		}
		return nil
	})
	return killUsage{len(openFDs()), segments(k.t), runtime.NumGoroutine(), residentKB(k.t)}
}

// segments counts UCX's shared memory in this process. A worker has one more from when its owner lagged, so
// only the number without any connection is always the same.
func segments(t *testing.T) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(maps), "/SYSV")
}

func (k *killTest) end(before killUsage, kills int) {
	t := k.t
	after := k.usage()
	if after.fds > before.fds+4 || after.goroutines > before.goroutines+2 || after.kib > before.kib+32<<10 {
		t.Errorf("after the kills %v, before %v", after, before)
	}
	k.nodeLoad.end(t)
	k.bystander.end(t)
	if i := k.toServer.Info(); i.Opened != 1 || k.bystander.unavailable.Load()+k.bystander.unknown.Load() > 0 {
		t.Errorf("the bystander noticed: its link was opened %d times, %d calls failed", i.Opened, k.bystander.unavailable.Load()+k.bystander.unknown.Load())
	}
	k.toNode.Close()
	k.toServer.Close()
	eventually(t, func() error {
		if got := segments(t); got != k.bare {
			return fmt.Errorf("%d segments of shared memory are left without a connection, want %d", got, k.bare)
		}
		return nil
	})
	eventually(t, func() error {
		if n := len(k.store.free); n != checkSlots {
			return fmt.Errorf("%d of %d slots were given back", n, checkSlots)
		}
		return nil
	})
	s, c := k.server.Stats(), k.client.Stats()
	t.Logf("%d clients and %d nodes killed, %d in a copy; bodies cut off %d, transfers given up %d and %d, workers made %d and %d",
		k.clientsKilled, k.nodesKilled, k.inCopy, k.store.aborted.Load(), s.GivenUp, c.GivenUp, s.ShmRailsMade, c.ShmRailsMade)
	t.Logf("longest: call of the bystander %v, clean-up after a client %v, return of a node %v",
		time.Duration(k.bystander.longest.Load()), k.longestClean, k.longestReturn)
	t.Logf("at the end %v; at the begin %v", after, before)
}

// childClient loads the server at addr until it is killed or orphaned.
func childClient(addr string) {
	fail := func(err error) {
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(3)
		}
	}
	c := testConfig(transport.RoleClient)
	c.Identity.Incarnation = rand.Uint64() | 1
	c.Shm = ShmOn
	n, err := New(c)
	fail(err)
	r, err := n.Alloc(16 << 20)
	fail(err)
	l, err := n.Dial(addr)
	fail(err)
	go func() {
		var b [1]byte
		_, _ = os.Stdin.Read(b[:])
		os.Exit(0)
	}()
	x := startCheckedLoad(l, r.Bytes(), 8)
	var once sync.Once
	go func() {
		for range time.Tick(time.Millisecond) {
			if err := x.wrong.Load(); err != nil {
				fmt.Fprintln(os.Stderr, "error:", err)
				os.Exit(3)
			}
			if x.ok.Load() > 20 {
				once.Do(func() { fmt.Println(l.Info().Peer.Transport) })
			}
		}
	}()
	fail(n.Run(context.Background()))
}
