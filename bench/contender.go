package main

import (
	"context"
	"regexp"
	"slices"
	"time"
)

// A contender is one way to do what a point says.
type contender struct {
	given
	serves  func(p point) bool
	measure func(ctx context.Context, p point, length time.Duration) (sample, error)
}

// tools are the programs to measure; the others are looked for on the PATH.
type tools struct{ dramnode, cref, olric string }

// A lab holds the servers of one transport. Those that are not being measured idle, except the ones that
// poll without end: they are started for each measurement.
type lab struct {
	tools
	transport string
	servers   map[string]*server
	ports     map[string]int
	// counts remembers how many operations take about a second, for tools that cannot be told a time.
	counts map[string]float64
}

func newLab(t tools, transport string) *lab {
	return &lab{tools: t, transport: transport, servers: map[string]*server{}, ports: map[string]int{}, counts: map[string]float64{}}
}

// server returns the named server, started on first use on the first of n free ports.
func (l *lab) server(name string, n int, start func(port int) (*server, error)) (*server, int, error) {
	if s := l.servers[name]; s != nil {
		return s, l.ports[name], nil
	}
	port, err := freePort(n)
	if err != nil {
		return nil, 0, err
	}
	s, err := start(port)
	if err != nil {
		return nil, 0, err
	}
	l.servers[name], l.ports[name] = s, port
	return s, port, nil
}

func (l *lab) stop() {
	for _, s := range l.servers {
		s.stop()
	}
}

// contenders in the order of the columns. The first of ours that serves a point stands in the summary.
func (l *lab) contenders() []contender {
	any := func(point) bool { return true }
	one := point.inSeries
	relayed := func(p point) bool { return one(p) && (p.Size == 64 || p.Size == 4<<10 || p.Size == 1<<20) }
	few := func(p point) bool { return p.Outstanding*p.Connections <= 1024 }
	many := func(p point) bool { return p.Outstanding > 1 }
	tcp := func(serves func(point) bool) func(point) bool {
		return func(p point) bool { return p.Transport == "tcp" && serves(p) }
	}
	return []contender{
		{given{"dramnode async", true, "completion callbacks, checksums verified"}, many, l.ours("async", "on")},
		{given{"dramnode blocking", true, "as many callers per connection as operations under way, checksums verified"}, few, l.ours("blocking", "on")},
		{given{"dramnode batch", true, "1 caller per connection, MultiGet or MultiPut of as many keys as operations under way"},
			func(p point) bool { return many(p) && p.Size <= 4<<10 }, l.ours("batch", "on")},
		{given{"dramnode no verify", true, "as blocking, with `--verify off`: the client does not compare checksums"},
			func(p point) bool { return p.Op == "get" && p.Size >= 64<<10 }, l.ours("blocking", "off")},
		{given{"dramnode direct", true, "as blocking, with `--direct`: read from the memory of a node of this host"},
			func(p point) bool { return p.Transport == "shm" && p.Op == "get" && p.Outstanding <= 16 }, l.direct},
		{given{"dramnode via another", true, "a cluster of two, asked through the node that owns none of the keys (`--via`); async for many short values, else blocking"},
			tcp(relayed), l.via},
		{given{"C over UCX", false, "`bench/cref`: 1 endpoint, one active message each way per operation, both sides poll without pause; no store, no checksum, as many different values; eager and rendezvous as dramnode chooses"}, one, l.crefMeasure},
		{given{"C relay", false, "`bench/cref`: a third process passes every message on; all three yield when idle"}, tcp(relayed), l.crefRelay},
		{given{"ucx_perftest", false, "1 endpoint; one under way: half a round trip of `ucp_am_lat` with the value and half a one with 8 B; else `ucp_am_bw`, one way without replies"}, one, l.perftest},
		{given{"redis", false, "pipeline per connection of as many as operations under way (`redis-benchmark -c C -P N`), no persistence; its latencies end with the first part of a reply, so they are left out, and rates compared, where replies have more"}, tcp(any), l.redis},
		{given{"memcached", false, "1 connection, text protocol, batches of as many as operations under way, by a client of ours"}, tcp(one), l.memcached},
		{given{"memcslap", false, "memcached again, as many threads with a connection each as operations under way, values of memcslap's own of about 2.5 KB"},
			tcp(func(p point) bool { return p.Size == 4<<10 }), l.memcslap},
		{given{"Olric", false, "1 cluster client with as many callers, and connections, as operations under way; 7 partitions"}, tcp(one), l.olricCallers},
		{given{"Olric pipeline", false, "1 caller with its pipeline, in batches of as many as operations under way"},
			tcp(func(p point) bool { return one(p) && many(p) && p.Size <= 64<<10 }), l.olricPipeline},
	}
}

// counted measures with a tool that takes a number of operations: do is given one that should take about
// length, known from the last measurement under this name.
func (l *lab) counted(name string, least int, length time.Duration, do func(n int) (sample, error)) (sample, error) {
	perSecond := l.counts[name]
	if perSecond == 0 {
		s, err := do(least)
		if err != nil {
			return s, err
		}
		perSecond = s.OpsPerS
		// The first look was short; a second one at a tenth of the length is better.
		if s, err = do(max(least, int(perSecond*length.Seconds()/10))); err != nil {
			return s, err
		}
		perSecond = s.OpsPerS
	}
	s, err := do(max(least, int(perSecond*length.Seconds())))
	if err == nil {
		l.counts[name] = s.OpsPerS
	}
	return s, err
}

// withCPU adds the server's processor time for each of n operations, when do needed enough to be told.
func withCPU(s *server, n int, do func() (sample, error)) (sample, error) {
	before := s.cpu()
	r, err := do()
	if used := s.cpu() - before; err == nil && used >= 100*time.Millisecond && n > 0 {
		r.ServerCPU = float64(used) / float64(time.Microsecond) / float64(n)
	}
	return r, err
}

// chosen leaves out those whose names match.
func chosen(all []contender, without string) []contender {
	if without == "" {
		return all
	}
	re, err := regexp.Compile(without)
	if err != nil {
		return all
	}
	return slices.DeleteFunc(all, func(c contender) bool { return re.MatchString(c.Name) })
}
