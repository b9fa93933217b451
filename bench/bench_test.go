package main

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseJSON(t *testing.T) {
	for name, tc := range map[string]struct {
		out  string
		want sample
		fail bool
	}{
		"cref":      {`{"ops": 28, "ops_per_s": 54.2, "gb_per_s": 0.5, "p50_us": 15.5, "p99_us": 36.7, "client_cpu_us_per_op": 3.25}`, sample{54.2, 0.5, 15.5, 36.7, 3.25, 0}, false},
		"dramnode":  {`[{"op":"get","errors":0,"ops_per_s":10,"gb_per_s":1,"p50_us":2,"p99_us":3,"server_cpu_us_per_op":4}]` + "\n", sample{10, 1, 2, 3, 0, 4}, false},
		"failed":    {`[{"op":"get","errors":3,"ops_per_s":10}]`, sample{}, true},
		"no ops":    {`{"ops_per_s": 0}`, sample{}, true},
		"two rows":  {`[{"ops_per_s":1},{"ops_per_s":1}]`, sample{}, true},
		"no row":    {`[]`, sample{}, true},
		"nothing":   {``, sample{}, true},
		"truncated": {`{"ops_per_s": 5`, sample{}, true},
	} {
		got, err := parseJSON([]byte(tc.out))
		if (err != nil) != tc.fail || !tc.fail && got != tc.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestParseRedisBenchmark(t *testing.T) {
	const out = `WARNING: Could not fetch server CONFIG
"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"GET","1430857.12","0.038","0.032","0.039","0.047","0.103","0.183"
`
	got, err := parseRedisBenchmark([]byte(out), newPoint("tcp", "get", 1000, 1))
	if err != nil || got.OpsPerS != 1430857.12 || got.P50 != 39 || got.P99 != 103 || !near(got.GBPerS, 1.43085712) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, p := range []point{newPoint("tcp", "get", 64<<10, 1), newPoint("tcp", "put", 8, 64)} {
		if got, err := parseRedisBenchmark([]byte(out), p); err != nil || got.OpsPerS == 0 || got.P50 != 0 || got.P99 != 0 {
			t.Errorf("%s: %+v, %v; latencies that end with the first read are none", p, got, err)
		}
	}
	for name, bad := range map[string]string{
		"nothing":       "",
		"only a header": strings.SplitAfter(out, "max_latency_ms\"\n")[0],
		"no such field": strings.Replace(out, `"rps"`, `"x"`, 1),
		"no number":     strings.Replace(out, "1430857.12", "nan?", 1),
		"no rate":       strings.Replace(out, "1430857.12", "0", 1),
	} {
		if got, err := parseRedisBenchmark([]byte(bad), newPoint("tcp", "get", 1, 1)); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestParseMemcslap(t *testing.T) {
	const out = `Time to generate       5000 test keys:                0.013 seconds.
Time to set            5000 keys:                     0.388 seconds.
Time to start             2 threads:                  0.000 seconds.
--------------------------------------------------------------------
Time to get           10000 keys by    2 threads:     0.250 seconds.
--------------------------------------------------------------------
Time total:                                           0.577 seconds.
`
	if got, err := parseMemcslap([]byte(out)); err != nil || got.OpsPerS != 40_000 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", strings.Replace(out, "0.250", "0.000", 1), strings.Replace(out, "by ", "at ", 1)} {
		if got, err := parseMemcslap([]byte(bad)); !errors.Is(err, errNoResult) {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

func TestParsePerftest(t *testing.T) {
	const out = `iterations,50.0_percentile_lat,avg_lat,overall_lat,avg_bw,overall_bw,avg_mr,overall_mr
3000,9.0,9.1,9.1,1,1,111111,111111
5000,7.931,6.249,6.249,9.77,9.77,160031,160000
`
	if got, err := parsePerftest([]byte(out), 1000); err != nil || got.P50 != 7.931 || got.OpsPerS != 160_000 || !near(got.GBPerS, 0.16) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "iterations,overall_mr\n", "no,table\n"} {
		if got, err := parsePerftest([]byte(bad), 1); !errors.Is(err, errNoResult) {
			t.Errorf("%q: %+v, %v", bad, got, err)
		}
	}
}

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*math.Abs(b) }

func TestSpread(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		want   spread
	}{
		{nil, spread{}},
		{[]float64{3}, spread{3, 3, 3, 1}},
		{[]float64{3, 1, 2}, spread{2, 1, 3, 3}},
		{[]float64{4, 1, 2, 3}, spread{2.5, 1, 4, 4}},
	} {
		if got := spreadOf(tc.values); got != tc.want {
			t.Errorf("%v: %+v, want %+v", tc.values, got, tc.want)
		}
	}
}

func TestFasterBy(t *testing.T) {
	a, b := sample{OpsPerS: 100, P50: 10}, sample{OpsPerS: 400, P50: 30}
	if times, ok := fasterBy(a, b, true); !ok || times != 3 {
		t.Errorf("one at a time: %v, want 3 times as fast by latency", times)
	}
	if times, ok := fasterBy(a, b, false); !ok || times != 0.25 {
		t.Errorf("many: %v, want 0.25 by rate", times)
	}
	if times, ok := fasterBy(a, sample{OpsPerS: 200}, true); !ok || times != 0.5 {
		t.Errorf("a rival without latencies: %v, want 0.5 by rate", times)
	}
	if _, ok := fasterBy(a, sample{}, false); ok {
		t.Error("compared with nothing")
	}
}

func TestStatCPU(t *testing.T) {
	const stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 9 0 100 0 0"
	if got := statCPU(stat); got != 2*time.Second {
		t.Errorf("%v, want 2s", got)
	}
	for _, bad := range []string{"", "42 (a) S", "42 (a) S 1 2 3 4 5 6 7 8 9 10 x y 1 2"} {
		if got := statCPU(bad); got != 0 {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func TestMemory(t *testing.T) {
	if got := statusRSS("Name:\tx\nVmHWM:\t  9 kB\nVmRSS:\t    1024 kB\nRssAnon: 5 kB\n"); got != 1<<20 {
		t.Errorf("%d, want 1 MiB", got)
	}
	if got := statusRSS("VmHWM: 9 kB"); got != 0 {
		t.Errorf("%d of nothing", got)
	}
	m := overheadOf("x", 1000, 1_000_000, 1_180_000)
	if m.Overhead != 100 || m.RSSBytes != 180_000 {
		t.Errorf("%+v, want 100 B for each", m)
	}
	r := testReport()
	r.Memory = []memoryResult{m}
	if text := r.markdown(); !strings.Contains(text, "| x | 1000 | 0.2 | 100.0 |") {
		t.Error(text)
	}
}

func TestPoints(t *testing.T) {
	all := allPoints()
	names := map[string]bool{}
	for _, p := range all {
		if names[p.String()] {
			t.Errorf("%s comes twice", p)
		}
		names[p.String()] = true
		if p.Outstanding*p.Size > inFlightBytes || p.Outstanding < 1 || p.Outstanding > deep && !p.inGrid() || p.keys() < p.Outstanding && p.Size < 1<<20 {
			t.Errorf("%s: %d keys", p, p.keys())
		}
	}
	for _, want := range []string{"tcp/get/8B/x1", "shm/put/16MiB/x4", "tcp/get/64KiB/x64", "tcp/get/64KiB/x16", "shm/get/1MiB/x4", "tcp/put/64B/x256/c50", "tcp/get/64B/x16"} {
		if !names[want] {
			t.Errorf("no point %s", want)
		}
	}
	if some, err := matching(all, "^tcp/get/64B/"); err != nil || len(some) != 12 {
		t.Errorf("%v, %v", some, err)
	}
	for _, bad := range []string{"(", "^nothing$"} {
		if _, err := matching(all, bad); err == nil {
			t.Errorf("%q matches", bad)
		}
	}
}

func TestEveryPointHasOursAndALimit(t *testing.T) {
	for _, transport := range transports {
		contenders := newLab(tools{}, transport).contenders()
		for _, p := range append(allPoints(), shortPoints()...) {
			if p.Transport != transport {
				continue
			}
			ours, limits := 0, 0
			for _, c := range contenders {
				if c.serves(p) && c.Ours {
					ours++
				} else if c.serves(p) {
					limits++
				}
			}
			if ours == 0 || limits < 1 || transport == "tcp" && p.inSeries() && limits < 5 {
				t.Errorf("%s: %d of ours, %d others", p, ours, limits)
			}
		}
	}
}

func TestLengthKeepsTheBudget(t *testing.T) {
	if got := length(20*time.Minute, 1000); got+overhead > 1200*time.Millisecond || got < 500*time.Millisecond {
		t.Errorf("%v for 1000 measurements in 20 minutes", got)
	}
	if got := length(time.Second, 1000); got != minLength {
		t.Errorf("%v, want the least", got)
	}
	if got := length(time.Hour, 1); got != maxLength {
		t.Errorf("%v, want the most", got)
	}
}

// testReport has two rounds of one point by four contenders.
func testReport() *report {
	r := &report{
		Machine: machine{CPU: "a <CPU>", Cores: 2, Kernel: "6.1", Versions: map[string]string{"UCX": "1.13.1"}},
		Given:   []given{{"dramnode async", true, "x"}, {"dramnode blocking", true, "y"}, {"C over UCX", false, "c"}, {"redis", false, "z"}},
		Rounds:  2, Seconds: 0.5,
	}
	many, one, wide := newPoint("tcp", "get", 64, 64), newPoint("tcp", "get", 64, 1), point{"tcp", "get", 64, 16, 8}
	for round := range 2 {
		k := float64(round + 1)
		r.Results = append(r.Results,
			result{many, "dramnode async", round, sample{OpsPerS: 1000 * k, P50: 64}},
			result{many, "dramnode blocking", round, sample{OpsPerS: 500, P50: 128}},
			result{many, "C over UCX", round, sample{OpsPerS: 250, P50: 256}},
			result{many, "redis", round, sample{OpsPerS: 2000}},
			result{one, "dramnode blocking", round, sample{OpsPerS: 100, P50: 10}},
			result{one, "C over UCX", round, sample{OpsPerS: 125, P50: 8}},
			result{wide, "dramnode async", round, sample{OpsPerS: 9000}},
			result{wide, "redis", round, sample{OpsPerS: 3000}},
		)
	}
	return r
}

func TestMarkdown(t *testing.T) {
	text := testReport().markdown()
	for _, want := range []string{
		"| 64B x 64 | async | **6.00** (4.00-8.00) | **0.75** (0.50-1.00) |",
		"| 64B x 64 | blocking | **2.00** (2.00-2.00) | **0.25** (0.25-0.25) |",
		"| 64B | blocking | **0.80** (0.80-0.80) |\n",
		"| 64B x 64 | dramnode async | 1500 |",
		"## Get, tcp, one at a time",
		"performance-tcp-get-many.svg",
		"| redis | z |",
		"## Get, tcp, 64 B over connections and pipelines",
		"| 8 x 16 | async |  | **3.00** (3.00-3.00) |",
		"| 1 x 64 | async | **6.00** (4.00-8.00) | **0.75** (0.50-1.00) |",
		"- dramnode async is best with 8 x 16: 9000 operations/s.",
		"- redis is best with 8 x 16: 3000 operations/s.",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestDocsAreWrittenAndReadBack(t *testing.T) {
	dir := t.TempDir()
	r := testReport()
	file := filepath.Join(dir, "results.json")
	if err := r.write(file); err != nil {
		t.Fatal(err)
	}
	again, err := readReport(file)
	if err != nil || again.markdown() != r.markdown() {
		t.Fatalf("%v: the documents differ after a round trip", err)
	}
	if err := writeDocs(filepath.Join(dir, "docs"), again); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"performance.md", "performance-tcp-get-1.svg", "performance-tcp-get-many.svg", "performance-tcp-get-grid.svg"} {
		if b, err := os.ReadFile(filepath.Join(dir, "docs", name)); err != nil || len(b) < 500 {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
}

func TestPlotsAreXML(t *testing.T) {
	for _, p := range []plot{
		{title: "a < b", axis: "x & y"},
		{title: "t", places: []string{"8B", "64B"}, lines: []line{
			{"ours", true, []spread{{100, 90, 110, 3}, {20, 20, 20, 1}}}, {"gap", false, []spread{{}, {5e6, 4e6, 6e6, 3}}},
		}},
	} {
		svg := p.svg()
		if strings.Contains(svg, "%!") || strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
			t.Errorf("%s", svg)
		}
		d := xml.NewDecoder(strings.NewReader(svg))
		for {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%v in\n%s", err, svg)
			}
		}
		if got := strings.Count(svg, "<circle"); got != 3*len(p.lines)/2 {
			t.Errorf("%d points are drawn of %d lines", got, len(p.lines))
		}
	}
}

// TestMemcachedLoad speaks with a server that answers as memcached does.
func TestMemcachedLoad(t *testing.T) {
	for _, op := range ops {
		client, server := net.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- fakeMemcached(server) }()
		// The pipe has no buffer, so a batch must not be longer than what the other side reads at once.
		m := newMemcachedLoad(client, newPoint("tcp", op, 100, 1), 5)
		s, err := m.run(func() time.Duration { return 0 }, 20*time.Millisecond)
		if err != nil || s.OpsPerS <= 0 || s.P50 <= 0 {
			t.Errorf("%s: %+v, %v", op, s, err)
		}
		client.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestMemcachedLoadRefusesWrongAnswers(t *testing.T) {
	for _, answer := range []string{"SERVER_ERROR out of memory\r\n", "END\r\n", "VALUE k 0 3\r\nabc\r\nEND\r\n", "VALUE k 0 2\r\nabEND\r\n", "VALUE k 0 2\r\nab\r\nVALUE\r\n"} {
		m := &memcachedLoad{in: bufio.NewReader(strings.NewReader(answer)), value: []byte("ab"), suffix: " 2\r\n"}
		if err := m.got(); err == nil {
			t.Errorf("%q passes for a value of 2 bytes", answer)
		}
		m.in = bufio.NewReader(strings.NewReader(answer))
		if err := m.stored(); !errors.Is(err, errMemcached) {
			t.Errorf("%q: %v", answer, err)
		}
	}
}

func fakeMemcached(c net.Conn) error {
	in := bufio.NewReader(c)
	value := bytes.Repeat([]byte("x"), 100)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return nil // closed
		}
		answer := "VALUE k 0 100\r\n" + string(value) + "\r\nEND\r\n"
		if strings.HasPrefix(line, "set ") {
			if err := discard(in, 100); err != nil {
				return err
			}
			answer = "STORED\r\n"
		}
		if _, err := io.WriteString(c, answer); err != nil {
			return err
		}
	}
}
