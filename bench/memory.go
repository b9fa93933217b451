package main

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"time"
)

// What an entry costs is measured with many small ones.
const (
	memoryEntries    = 1_000_000
	memoryKeyBytes   = 16
	memoryValueBytes = 64
)

// A memoryResult is the memory that a server took for entries.
type memoryResult struct {
	Contender string  `json:"contender"`
	Entries   int     `json:"entries"`
	RSSBytes  int64   `json:"rss_bytes"` // more than before
	Overhead  float64 `json:"overhead_bytes_per_entry"`
}

// overheadOf is what entries take beside keys and values.
func overheadOf(name string, entries int, before, after int64) memoryResult {
	grown := after - before
	return memoryResult{name, entries, grown, float64(grown)/float64(entries) - memoryKeyBytes - memoryValueBytes}
}

// measureMemory fills each server with entries. Those of l are fresh.
func (r *report) measureMemory(ctx context.Context, l *lab, entries int) {
	for _, m := range []struct {
		name string
		fill func(context.Context, *lab, int) (before, after int64, err error)
	}{{"dramnode", memoryOfNode}, {"redis", memoryOfRedis}, {"memcached", memoryOfMemcached}} {
		if ctx.Err() != nil {
			return
		}
		before, after, err := m.fill(ctx, l, entries)
		if err != nil {
			r.Failures = append(r.Failures, fmt.Sprintf("memory, %s: %v", m.name, err))
			continue
		}
		r.Memory = append(r.Memory, overheadOf(m.name, entries, before, after))
	}
}

// memoryOfNode takes the most that the node had while the load, which deletes its keys, went on.
func memoryOfNode(ctx context.Context, l *lab, entries int) (before, after int64, err error) {
	s, port, err := l.node()
	if err != nil {
		return 0, 0, err
	}
	before = s.rss()
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			after = max(after, s.rss())
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
	_, err = run(ctx, nil, l.dramnode, "bench", "--json", "--addr", loopback(port), "--shm", l.shm(), "--op", "get", "--keys", strconv.Itoa(entries),
		"--size", strconv.Itoa(memoryValueBytes), "--duration", "500ms", "--warmup", "0s")
	close(stop)
	<-ended
	return before, after, err
}

func memoryOfRedis(_ context.Context, l *lab, entries int) (before, after int64, err error) {
	s, port, err := l.redisServer()
	if err != nil {
		return 0, 0, err
	}
	before = s.rss()
	err = fillRedis(loopback(port), entries, memoryValueBytes)
	return before, s.rss(), err
}

func memoryOfMemcached(_ context.Context, l *lab, entries int) (before, after int64, err error) {
	s, port, err := l.memcachedServer()
	if err != nil {
		return 0, 0, err
	}
	c, err := net.Dial("tcp", loopback(port))
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(runTimeout)); err != nil {
		return 0, 0, err
	}
	before = s.rss()
	err = newMemcachedLoad(c, newPoint("tcp", "put", memoryValueBytes, deep), entries).fill()
	return before, s.rss(), err
}

var vmRSS = regexp.MustCompile(`(?m)^VmRSS:\s+(\d+) kB$`)

// rss is the server's resident memory in bytes; 0 when the system does not tell.
func (s *server) rss() int64 {
	return statusRSS(readFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid)))
}

func statusRSS(status string) int64 {
	m := vmRSS.FindStringSubmatch(status)
	if m == nil {
		return 0
	}
	kb, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return 0
	}
	return kb << 10
}
