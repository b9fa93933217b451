package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/dramnode/dramnode/internal/cputime"
)

// A memcachedLoad speaks memcached's text protocol in batches: it sends as many requests as there are to
// be under way, reads their answers, and sends the next, as redis-benchmark -P does.
type memcachedLoad struct {
	point
	in    *bufio.Reader
	out   *bufio.Writer
	value []byte
	keys  [][]byte

	suffix string // of the line before a value
}

func newMemcachedLoad(c net.Conn, p point, keys int) *memcachedLoad {
	m := &memcachedLoad{point: p, in: bufio.NewReaderSize(c, 1<<16), out: bufio.NewWriterSize(c, 1<<16), value: make([]byte, p.Size), suffix: fmt.Sprintf(" %d\r\n", p.Size)}
	for i := range m.value {
		m.value[i] = 'x'
	}
	for i := range keys {
		m.keys = append(m.keys, fmt.Appendf(nil, "key:%012d", i))
	}
	return m
}

// fill puts every key once.
func (m *memcachedLoad) fill() error {
	for at := 0; at < len(m.keys); {
		n := min(m.Outstanding, len(m.keys)-at)
		for _, key := range m.keys[at : at+n] {
			m.set(key)
		}
		if err := m.answers(n, m.stored); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// run fills and measures; serverCPU is the server's processor time so far.
func (m *memcachedLoad) run(serverCPU func() time.Duration, length time.Duration) (sample, error) {
	if err := m.fill(); err != nil {
		return sample{}, err
	}
	if _, err := m.until(time.Now().Add(warmup(length))); err != nil {
		return sample{}, err
	}
	begin, client, server := time.Now(), cputime.Process(), serverCPU()
	latencies, err := m.until(begin.Add(length))
	if err != nil {
		return sample{}, err
	}
	took := time.Since(begin)
	client, server = cputime.Process()-client, serverCPU()-server
	n := float64(latencies.TotalCount())
	us := func(ns float64) float64 { return ns / 1e3 }
	return checked(sample{
		OpsPerS: n / took.Seconds(), GBPerS: n * float64(m.Size) / 1e9 / took.Seconds(),
		P50: us(float64(latencies.ValueAtQuantile(50))), P99: us(float64(latencies.ValueAtQuantile(99))),
		ClientCPU: us(float64(client)) / n, ServerCPU: us(float64(server)) / n,
	})
}

// until sends batches until then.
func (m *memcachedLoad) until(end time.Time) (*hdrhistogram.Histogram, error) {
	h := hdrhistogram.New(1, int64(time.Minute), 2)
	for before := time.Now(); before.Before(end); {
		answer := m.got
		if m.Op == "put" {
			answer = m.stored
		}
		for range m.Outstanding {
			key := m.keys[rand.IntN(len(m.keys))]
			if m.Op == "put" {
				m.set(key)
			} else {
				m.get(key)
			}
		}
		if err := m.answers(m.Outstanding, answer); err != nil {
			return h, err
		}
		now := time.Now()
		_ = h.RecordValues(min(int64(now.Sub(before)), int64(time.Minute)), int64(m.Outstanding)) // in range by min
		before = now
	}
	return h, nil
}

// The writer keeps its first error for Flush.
func (m *memcachedLoad) get(key []byte) {
	m.out.WriteString("get ")
	m.out.Write(key)
	m.out.WriteString("\r\n")
}

func (m *memcachedLoad) set(key []byte) {
	m.out.WriteString("set ")
	m.out.Write(key)
	fmt.Fprintf(m.out, " 0 0 %d\r\n", len(m.value))
	m.out.Write(m.value)
	m.out.WriteString("\r\n")
}

func (m *memcachedLoad) answers(n int, read func() error) error {
	if err := m.out.Flush(); err != nil {
		return err
	}
	for range n {
		if err := read(); err != nil {
			return err
		}
	}
	return nil
}

func (m *memcachedLoad) stored() error {
	line, err := m.in.ReadSlice('\n')
	if err == nil && string(line) != "STORED\r\n" {
		err = fmt.Errorf("%w: %q", errMemcached, line)
	}
	return err
}

// got reads VALUE key flags bytes, the bytes, and END.
func (m *memcachedLoad) got() error {
	line, err := m.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if want := m.suffix; len(line) < len("VALUE ")+len(want) || string(line[:6]) != "VALUE " || string(line[len(line)-len(want):]) != want {
		return fmt.Errorf("%w: %q, want VALUE ...%s", errMemcached, line, want)
	}
	if err := discard(m.in, len(m.value)); err != nil {
		return err
	}
	line, err = m.in.ReadSlice('\n')
	if err == nil && string(line) != "END\r\n" {
		err = fmt.Errorf("%w: %q", errMemcached, line)
	}
	return err
}
