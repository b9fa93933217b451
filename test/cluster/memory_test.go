package cluster

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/config"
	"github.com/dramnode/dramnode/test/proc"
)

// residentSlack is what a node's process may have beside 1.05 times --memory.
const residentSlack = 64 << 20

// A watch samples the resident memory of a process until it is stopped.
type watch struct {
	stop, done chan struct{}
	samples    int
	most       int64
	err        error
}

func watchResident(n *proc.Node) *watch {
	w := &watch{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for w.err == nil {
			var now int64
			now, w.err = resident(n.PID())
			w.most = max(w.most, now)
			w.samples++
			select {
			case <-tick.C:
			case <-w.stop:
				return
			}
		}
	}()
	return w
}

// resident is VmRSS in bytes.
func resident(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	rest, _, ok := strings.Cut(rest, "kB")
	if !ok {
		return 0, fmt.Errorf("no VmRSS of process %d", pid)
	}
	kb, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
	return kb << 10, err
}

func (w *watch) end(t *testing.T, memory int64) {
	t.Helper()
	close(w.stop)
	<-w.done
	limit := memory + memory/20 + residentSlack
	t.Logf("%d samples, at most %s resident with --memory %s, limit %s", w.samples, config.Bytes(w.most).Human(), config.Bytes(memory).Human(), config.Bytes(limit).Human())
	if w.err != nil {
		t.Error(w.err)
	}
	if w.most > limit {
		t.Errorf("at most %d bytes were resident, the limit is %d", w.most, limit)
	}
	if w.most < memory/2 {
		t.Errorf("at most %d bytes were resident: the node was never full", w.most)
	}
}

// A node stays within its memory, however many clients fill it with values of any size, delete and fill it again; and what
// was deleted is there for values of other sizes.
func TestResidentMemoryStaysWithinTheLimit(t *testing.T) {
	const memory = 96 << 20
	for _, eviction := range []string{"none", "s3fifo"} {
		t.Run(eviction, func(t *testing.T) {
			// Over tcp: each connection by shared memory takes 2 to 4 MB beside --memory (README, "Shared memory").
			s := newStory(t, "--max-value", "4MiB", "--memory", "96MiB", "--eviction", eviction, "--shm", "off")
			s.start(1)
			s.agree(s.nodes...)
			empty := s.state(s.nodes[0]).Memory.Used
			w := watchResident(s.nodes[0])
			full := 0
			for phase, load := range []workload{
				{Keys: 60, Bytes: 1_000_000, Workers: 24, Ops: 120},
				{Keys: 2500, Bytes: 24_000, Workers: 40, Ops: 2000},
				{Keys: 10, Bytes: 3_900_000, Workers: 6, Ops: 60, Large: true},
			} {
				load.Mode, load.Prefix, load.Seed, load.Deletes = "load", fmt.Sprint("phase", phase, "/"), uint64(phase), true
				load.Lossy = eviction != "none"
				r := s.drive(load).wait()
				full += r.Errors[dramnode.ErrNoMemory.Error()]
				if r.Written < load.Ops {
					t.Errorf("phase %d: %d writes", phase, r.Written)
				}
				info := s.state(s.nodes[0])
				t.Logf("phase %d: %d entries, %s of %s used, %d evictions", phase, info.Entries, config.Bytes(info.Memory.Used).Human(), config.Bytes(info.Memory.Limit).Human(), info.Memory.Evictions)
				if eviction == "none" {
					s.drive(workload{Mode: "clear", Prefix: load.Prefix}).wait()
					if used := s.state(s.nodes[0]).Memory.Used; used > empty+memory/100 {
						t.Errorf("phase %d: %d bytes are used after everything was deleted, %d before", phase, used, empty)
					}
				}
			}
			w.end(t, memory)
			evictions := s.state(s.nodes[0]).Memory.Evictions
			if eviction == "none" && (full == 0 || evictions > 0) || eviction != "none" && (full > 0 || evictions == 0) {
				t.Errorf("%d writes found no room, %d entries were evicted", full, evictions)
			}
		})
	}
}
