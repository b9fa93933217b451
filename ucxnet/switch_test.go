package ucxnet

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/dramnode/dramnode/transport"
)

// The ways that a body can go, whatever its length.
const (
	asInline     = "inline"
	asEager      = "eager"
	asRendezvous = "rendezvous"
)

// force makes all bodies of a network that does not run yet go one way; "": as their lengths say.
func force(n *Network, way string) {
	for _, x := range n.contexts {
		switch l := &x.lengths; way {
		case asInline:
			l.inline = 1 << 20
		case asEager:
			l.inline, l.eager, l.piece = 0, wholeBytes, wholeBytes
		case asRendezvous:
			l.inline, l.eager = 0, 0
		}
	}
	for _, r := range n.rails {
		r.lengths = n.contexts[0].lengths
		if r.shm {
			r.lengths = n.contexts[1].lengths
		}
	}
}

// longestInline is what fits a message of several frames.
func longestInline(shm ShmMode) int {
	if shm == ShmOff {
		return 16 << 10
	}
	return 4 << 10
}

// BenchmarkSwitch gets and puts bodies of one length by each way that they can go, in both directions: where the lines of a
// table cross is where the lengths belong. One body under way at a time, or sixteen.
func BenchmarkSwitch(b *testing.B) {
	for _, shm := range []ShmMode{ShmOff, ShmOn} {
		for _, way := range []string{asInline, asEager, asRendezvous} {
			rail := map[ShmMode]string{ShmOff: "tcp", ShmOn: "shm"}[shm]
			b.Run(rail+"/"+way, func(b *testing.B) { benchWay(b, shm, way) })
		}
	}
}

func benchWay(b *testing.B, shm ShmMode, way string) {
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "UCXNET_TEST_SERVER=127.0.0.1:0", "UCXNET_TEST_SHM="+shm.String(), "UCXNET_TEST_WAY="+way, "GOMAXPROCS=1") // as dramnode has it on few cores
	child := runChild(b, cmd)
	c := testConfig(transport.RoleClient)
	c.Shm = shm
	n, err := New(c)
	if err != nil {
		b.Fatal(err)
	}
	force(n, way)
	run(b, n)
	mem := region(b, n, 64<<20)
	l := dialOpen(b, n, child.addr)
	awaitTransport(b, l, shm)
	for range 48 { // every place that the store has for a body is touched
		c := newBenchCaller(mem, 0, 1<<10)
		c.put()
		l.Call(&c.call)
		if <-c.done; c.err != nil {
			b.Fatal(c.err)
		}
	}
	for _, op := range []string{"get", "put"} {
		for _, size := range []int{64, 1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20} {
			if way == asInline && size > longestInline(shm) || way == asRendezvous && size < 1<<10 {
				continue
			}
			for _, calls := range []int{1, 16} {
				b.Run(fmt.Sprintf("%s/%d/x%d", op, size, calls), func(b *testing.B) {
					callers := make([]*benchCaller, calls)
					for i := range callers {
						if callers[i] = newBenchCaller(mem, i, size); op == "put" {
							callers[i].put()
						}
					}
					asyncCalls(b, l, callers)
				})
			}
		}
	}
}
