package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A sample is one measurement. What a tool does not tell is 0.
type sample struct {
	OpsPerS   float64 `json:"ops_per_s"`
	GBPerS    float64 `json:"gb_per_s"`
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`
	ClientCPU float64 `json:"client_cpu_us_per_op"`
	ServerCPU float64 `json:"server_cpu_us_per_op"`
}

var errNoResult = errors.New("no result in the output")

// parseJSON reads what cref and olric print, one object, and what dramnode prints, an array of one.
func parseJSON(out []byte) (sample, error) {
	out = []byte(strings.TrimSpace(string(out)))
	var one struct {
		sample
		Errors int64 `json:"errors"`
	}
	var err error
	if strings.HasPrefix(string(out), "[") {
		rows := []json.RawMessage{}
		if err = json.Unmarshal(out, &rows); err == nil && len(rows) != 1 {
			err = fmt.Errorf("%w: %d rows, want 1", errNoResult, len(rows))
		}
		if err != nil {
			return sample{}, err
		}
		out = rows[0]
	}
	if err = json.Unmarshal(out, &one); err != nil {
		return sample{}, err
	}
	if one.Errors > 0 {
		return sample{}, fmt.Errorf("%d operations failed", one.Errors)
	}
	return checked(one.sample)
}

// checked refuses a measurement of nothing.
func checked(s sample) (sample, error) {
	if s.OpsPerS <= 0 {
		return s, fmt.Errorf("%w: no operations", errNoResult)
	}
	return s, nil
}

// firstReadBytes is how much of a reply redis-benchmark reads at once. Its latencies end with that read:
// they hold for single short replies only.
const firstReadBytes = 16 << 10

// parseRedisBenchmark reads redis-benchmark --csv.
func parseRedisBenchmark(out []byte, p point) (sample, error) {
	// It warns on the same stream; the table begins with its header.
	text := string(out)
	at := strings.Index(text, `"test",`)
	if at < 0 {
		return sample{}, errNoResult
	}
	rows, err := csv.NewReader(strings.NewReader(text[at:])).ReadAll()
	if err != nil {
		return sample{}, err
	}
	if len(rows) != 2 {
		return sample{}, fmt.Errorf("%w: %d rows, want 2", errNoResult, len(rows))
	}
	field := func(name string) float64 {
		i := slices.Index(rows[0], name)
		if i < 0 {
			err = fmt.Errorf("%w: no column %s", errNoResult, name)
			return 0
		}
		v, parseErr := strconv.ParseFloat(rows[1][i], 64)
		err = errors.Join(err, parseErr)
		return v
	}
	s := sample{OpsPerS: field("rps"), P50: 1e3 * field("p50_latency_ms"), P99: 1e3 * field("p99_latency_ms")}
	if err != nil {
		return sample{}, err
	}
	if p.Outstanding > 1 || p.Op == "get" && p.Size >= firstReadBytes {
		s.P50, s.P99 = 0, 0
	}
	s.GBPerS = s.OpsPerS * float64(p.Size) / 1e9
	return checked(s)
}

var memcslapTotal = regexp.MustCompile(`Time to (?:get|set)\s+(\d+) keys by\s+\d+ threads:\s+([0-9.]+) seconds`)

// parseMemcslap reads memcslap's only figure, the time that all took.
func parseMemcslap(out []byte) (sample, error) {
	m := memcslapTotal.FindSubmatch(out)
	if m == nil {
		return sample{}, errNoResult
	}
	n, err := strconv.ParseFloat(string(m[1]), 64)
	seconds, secondsErr := strconv.ParseFloat(string(m[2]), 64)
	if err := errors.Join(err, secondsErr); err != nil {
		return sample{}, err
	}
	if seconds <= 0 {
		return sample{}, fmt.Errorf("%w: too short to be timed", errNoResult)
	}
	return checked(sample{OpsPerS: n / seconds})
}

// parsePerftest reads ucx_perftest -v: the median time of a message, which in a latency test is half a
// round trip, and the overall rate.
func parsePerftest(out []byte, size int) (sample, error) {
	text := string(out)
	at := strings.Index(text, "iterations,")
	if at < 0 {
		return sample{}, errNoResult
	}
	rows, err := csv.NewReader(strings.NewReader(text[at:])).ReadAll()
	if err != nil {
		return sample{}, err
	}
	if len(rows) < 2 || len(rows[0]) != len(rows[len(rows)-1]) {
		return sample{}, fmt.Errorf("%w: %d rows", errNoResult, len(rows))
	}
	last := rows[len(rows)-1] // earlier ones are interim
	field := func(name string) float64 {
		i := slices.Index(rows[0], name)
		if i < 0 {
			err = fmt.Errorf("%w: no column %s", errNoResult, name)
			return 0
		}
		v, parseErr := strconv.ParseFloat(last[i], 64)
		err = errors.Join(err, parseErr)
		return v
	}
	s := sample{OpsPerS: field("overall_mr"), P50: field("50.0_percentile_lat")}
	if err != nil {
		return sample{}, err
	}
	s.GBPerS = s.OpsPerS * float64(size) / 1e9
	return checked(s)
}
