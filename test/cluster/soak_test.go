package cluster

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// A soakLoad is one load generator of the soak.
type soakLoad struct {
	name string
	args []string
}

var soakLoads = []soakLoad{
	{"64 B", []string{"--op", "mix", "--size", "64", "--keys", "100000", "--mode", "async", "--outstanding", "64"}},
	{"1 MiB", []string{"--op", "mix", "--size", "1MiB", "--keys", "200", "--outstanding", "2"}},
	{"64 B through one node", []string{"--op", "mix", "--size", "64", "--keys", "10000", "--outstanding", "16", "--via", "n2"}},
}

// soakFor is how long the soak lasts; set DRAMNODE_SOAK for more.
func soakFor(t *testing.T) (total, round time.Duration) {
	t.Helper()
	text := os.Getenv("DRAMNODE_SOAK")
	if text == "" {
		return 4 * time.Second, time.Second
	}
	total, err := time.ParseDuration(text)
	if err != nil || total < time.Minute {
		t.Fatalf("DRAMNODE_SOAK=%q: want a duration of 1m or more", text)
	}
	return total, max(total/60, 5*time.Second)
}

// Three nodes under everything that they can take, in rounds: no operation fails, and what a node uses is
// the same at the end as after the first rounds. Latencies are shown, not judged.
func TestSoak(t *testing.T) {
	total, round := soakFor(t)
	s := newStory(t, "--memory", "1GiB")
	s.start(3)
	s.agree(s.nodes...)
	var before [3]usage
	const settle = 2 // rounds after which arenas and pools are full
	for i := range int(total / round) {
		s.soakRound(i, round)
		if i+1 == settle {
			for n := range s.nodes {
				before[n] = s.usage(n)
			}
		}
	}
	for n := range s.nodes {
		s.grown(n, before[n])
	}
}

func (s *story) soakRound(i int, round time.Duration) {
	s.t.Helper()
	var wg sync.WaitGroup
	for _, l := range soakLoads {
		wg.Go(func() {
			r := s.bench(append(l.args, "--duration", round.String(), "--warmup", "200ms"))
			if r.Errors > 0 {
				s.t.Errorf("round %d, %s: %d of %d operations failed: %v", i, l.name, r.Errors, r.Ops, r.ByClass)
			}
			s.t.Logf("round %d, %s: %.0f op/s, p50 %.0f us, p99 %.0f us, max %.0f us", i, l.name, r.OpsPerS, r.P50, r.P99, r.Max)
		})
	}
	wg.Wait()
	for n := range s.nodes {
		u := s.usage(n)
		s.t.Logf("round %d, %s: %d MiB, %d descriptors, %d threads", i, s.nodes[n].Name(), u.RSS, u.FDs, u.Threads)
	}
}

// A benchResult is what "dramnode bench --json" prints, as far as it is looked at here.
type benchResult struct {
	Ops     int64            `json:"ops"`
	Errors  int64            `json:"errors"`
	ByClass map[string]int64 `json:"errors_by_class"`
	OpsPerS float64          `json:"ops_per_s"`
	P50     float64          `json:"p50_us"`
	P99     float64          `json:"p99_us"`
	Max     float64          `json:"max_us"`
}

func (s *story) bench(args []string) (r benchResult) {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), s.program, append([]string{"bench", "--json", "--addr", s.nodes[0].Addr(), "--cluster-name", s.name}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		s.t.Errorf("dramnode bench %v: %v: %s", args, err, stderr.String())
		return r
	}
	var results []benchResult
	if err := json.Unmarshal(stdout.Bytes(), &results); err != nil || len(results) != 1 {
		s.t.Errorf("dramnode bench %v printed %q: %v", args, stdout.String(), err)
		return r
	}
	return results[0]
}
