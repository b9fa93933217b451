package ucxnet

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dramnode/dramnode/transport"
)

// BenchmarkGet reads values from a server in another process:
//
//	one     one call outstanding; p50 and p99 are reported
//	callers 64 goroutines with one blocking call each
//	async   64 calls outstanding, each completion starts the next
func BenchmarkGet(b *testing.B) {
	for _, shm := range []ShmMode{ShmOff, ShmAuto} {
		rail := map[ShmMode]string{ShmOff: "tcp", ShmAuto: "shm"}[shm]
		for _, size := range []int{8, 64, 4096, 64 << 10, 1 << 20} {
			for _, mode := range []string{"one", "callers", "async"} {
				b.Run(fmt.Sprintf("%s/%d/%s", rail, size, mode), func(b *testing.B) { benchGet(b, shm, size, mode) })
			}
		}
	}
}

func benchGet(b *testing.B, shm ShmMode, size int, mode string) {
	c := startChild(b, "127.0.0.1:0", shm)
	n, mem := client(b, shm)
	l := dialOpen(b, n, c.addr)
	awaitTransport(b, l, shm)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	switch mode {
	case "one":
		oneCaller(b, l, mem, size)
	case "callers":
		manyCallers(b, l, mem, size)
	case "async":
		async(b, l, mem, size)
	}
	b.StopTimer()
	if s := n.Stats(); s.MessagesSent > 0 {
		b.ReportMetric(float64(s.FramesSent)/float64(s.MessagesSent), "frames/message")
	}
}

// A benchCaller makes the same get again and again, without allocating.
type benchCaller struct {
	call  transport.Call
	place []byte
	size  int
	done  chan struct{}
	then  func(*benchCaller) // async: instead of done
	err   error
}

func newBenchCaller(mem []byte, i, size int) *benchCaller {
	c := &benchCaller{place: mem[i%32*size:][:size], size: size, done: make(chan struct{}, 1)}
	c.call.Header = binary.LittleEndian.AppendUint64(nil, uint64(size))
	c.call.Completer = c
	return c
}

// put makes the caller put its place instead.
func (c *benchCaller) put() { c.call.Header, c.call.Body.Bytes, c.size = nil, c.place, 0 }

func (c *benchCaller) PlaceReply(*transport.Call, []byte, int) ([]byte, error) { return c.place, nil }

func (c *benchCaller) Complete(_ *transport.Call, _, body []byte, err error) {
	if err == nil && len(body) != c.size {
		err = fmt.Errorf("got %d bytes, want %d", len(body), c.size)
	}
	if len(body) > 0 && &body[0] != &c.place[0] {
		copy(c.place, body)
	}
	c.err = err
	if c.then != nil {
		c.then(c)
		return
	}
	c.done <- struct{}{}
}

func oneCaller(b *testing.B, l transport.Link, mem []byte, size int) {
	c := newBenchCaller(mem, 0, size)
	took := make([]time.Duration, 0, b.N)
	for range b.N {
		began := time.Now()
		l.Call(&c.call)
		<-c.done
		if c.err != nil {
			b.Fatal(c.err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
}

func manyCallers(b *testing.B, l transport.Link, mem []byte, size int) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var callers sync.WaitGroup
	for i := range 64 {
		callers.Go(func() {
			c := newBenchCaller(mem, i, size)
			for left.Add(-1) >= 0 {
				l.Call(&c.call)
				<-c.done
				if c.err != nil {
					b.Error(c.err)
					return
				}
			}
		})
	}
	callers.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}

func async(b *testing.B, l transport.Link, mem []byte, size int) {
	callers := make([]*benchCaller, 64)
	for i := range callers {
		callers[i] = newBenchCaller(mem, i, size)
	}
	asyncCalls(b, l, callers)
}

// asyncCalls lets each completion start the next call.
func asyncCalls(b *testing.B, l transport.Link, callers []*benchCaller) {
	var left, running atomic.Int64
	left.Store(int64(b.N))
	running.Store(int64(len(callers)))
	done := make(chan struct{})
	next := func(c *benchCaller) {
		if c.err != nil {
			b.Error(c.err)
		} else if left.Add(-1) >= 0 {
			l.Call(&c.call)
			return
		}
		if running.Add(-1) == 0 {
			close(done)
		}
	}
	for _, c := range callers {
		c.then = next
		next(c)
	}
	<-done
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}
