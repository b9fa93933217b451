package transporttest

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"sync"
	"testing"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
)

// longBytes is a length that no network sends in one go.
const longBytes = 5<<20 + 4097

func crcOf(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// testSums checks the sums of placed bodies of both directions, several at a time: each is that of its own body, and
// there is none for whom none was asked.
func testSums(t *testing.T, open Open) {
	const callers = 3
	h := &scripted{}
	h.place = func(r *transport.Request, n int) ([]byte, error) {
		r.Sum.Wanted = r.Header[0] == 1
		return echo{h.pool}.Place(r, n)
	}
	serve := &checkedEcho{scripted: h, check: func(r *transport.Request) {
		checkSum(t, "request", r.Sum, r.Header[0] == 1, r.Body)
	}}
	_, client, l := pair(t, open, serve, longBytes, 2*callers)
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i, n := range []int{100 << 10, 512 << 10, 512<<10 + 1, 1 << 20, longBytes} {
				want := (caller+i)%2 == 0
				header := []byte{0}
				if want {
					header[0] = 1
				}
				seed := uint64(caller)
				c := client.newCall(header, client.pool.body(n, seed, false), 0)
				c.Sum.Wanted = want
				c.start(l)
				o := c.wait()
				checkEcho(t, o, header, pattern(n, seed))
				checkSum(t, "reply", c.Sum, want, pattern(n, seed))
			}
		})
	}
	wg.Wait()
}

func checkSum(t *testing.T, what string, s transport.Sum, want bool, body []byte) {
	t.Helper()
	if s.Done != want || want && s.CRC != crcOf(body) {
		t.Errorf("%s of %d bytes, sum wanted %v: got %+v, want the CRC %#x", what, len(body), want, s, crcOf(body))
	}
}

// A checkedEcho echoes what it has looked at.
type checkedEcho struct {
	*scripted
	check func(r *transport.Request)
}

func (c *checkedEcho) Serve(r *transport.Request) {
	if r.Err == nil {
		c.check(r)
	}
	echo{c.pool}.Serve(r)
}

// testCutOff ends connections while long bodies are on their way to and from the server. Each call ends once, each placed
// body is served once, and what is served without an error is the whole body.
func testCutOff(t *testing.T, open Open) {
	const callers, rounds = 3, 6
	h := &scripted{}
	begun := make(chan struct{}, callers*rounds)
	h.place = func(r *transport.Request, n int) ([]byte, error) {
		begun <- struct{}{}
		return echo{h.pool}.Place(r, n)
	}
	serve := &checkedEcho{scripted: h, check: func(r *transport.Request) {
		if seed := binary.LittleEndian.Uint64(r.Header); !bytes.Equal(r.Body, pattern(longBytes, seed)) {
			t.Errorf("body %d is served without an error and differs from %d on", seed, difference(r.Body, pattern(longBytes, seed)))
		}
	}}
	_, client, l := pair(t, open, serve, longBytes, 2*callers)
	for round := range rounds {
		var calls []*call
		for i := range callers {
			seed := uint64(round*callers + i)
			c := client.newCall(binary.LittleEndian.AppendUint64(nil, seed), client.pool.body(longBytes, seed, false), 0)
			c.start(l)
			calls = append(calls, c)
		}
		await(t, begun, "placed body")
		l.Close()
		for i, c := range calls {
			o := c.wait()
			if o.err == nil {
				checkEcho(t, o, binary.LittleEndian.AppendUint64(nil, uint64(round*callers+i)), pattern(longBytes, uint64(round*callers+i)))
				continue
			}
			wantError(t, o.err, dramnode.ErrUnavailable, dramnode.ErrUnknownOutcome)
		}
		for len(begun) > 0 {
			<-begun
		}
		for _, p := range []*pool{h.pool, client.pool} { // by shared memory what was cut off rests for a while
			eventually(t, p.lent)
		}
		l = client.dial(l.Info().Addr)
	}
}

// lent reports what is still in use.
func (p *pool) lent() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if in := len(p.memory)/p.slotBytes - len(p.free); in > 0 {
		return "slots are in use"
	}
	return ""
}
