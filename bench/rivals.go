package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// olricVersion is what bench/olric/go.mod has.
const olricVersion = "0.7.4"

func (l *lab) redisServer() (*server, int, error) {
	return l.server("redis", 1, func(port int) (*server, error) {
		return startServer(nil, accepts(loopback(port)), "redis-server", "--bind", host, "--port", strconv.Itoa(port), "--save", "", "--appendonly", "no", "--dir", "/")
	})
}

func (l *lab) redis(ctx context.Context, p point, length time.Duration) (sample, error) {
	s, port, err := l.redisServer()
	if err != nil {
		return sample{}, err
	}
	if err := fillRedis(loopback(port), p.keys(), p.Size); err != nil {
		return sample{}, err
	}
	return l.counted("redis "+p.String(), max(p.Outstanding*p.Connections, min(2000, keyBytes/p.Size)), length, func(n int) (sample, error) {
		n -= n % p.Outstanding
		return withCPU(s, n, func() (sample, error) {
			op := map[string]string{"get": "get", "put": "set"}[p.Op]
			out, err := run(ctx, nil, "redis-benchmark", "-h", host, "-p", strconv.Itoa(port), "-t", op, "-c", strconv.Itoa(p.Connections), "-P", strconv.Itoa(p.Outstanding),
				"-n", strconv.Itoa(n), "-d", strconv.Itoa(p.Size), "-r", strconv.Itoa(p.keys()), "--csv", "--precision", "3")
			if err != nil {
				return sample{}, err
			}
			return parseRedisBenchmark(out, p)
		})
	})
}

// fillRedis puts the keys that redis-benchmark -r reads, and nothing else.
func fillRedis(addr string, keys, size int) (err error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.SetDeadline(time.Now().Add(runTimeout)); err != nil {
		return err
	}
	in, out := bufio.NewReader(c), bufio.NewWriterSize(c, 1<<16)
	value := strings.Repeat("x", size)
	replies := func(n int) error {
		if err := out.Flush(); err != nil {
			return err
		}
		for range n {
			if line, err := in.ReadString('\n'); err != nil || line != "+OK\r\n" {
				return fmt.Errorf("redis: %q: %w", line, errors.Join(err, errNotStored))
			}
		}
		return nil
	}
	fmt.Fprint(out, "FLUSHALL\r\n")
	sent := 1
	for i := range keys {
		fmt.Fprintf(out, "*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$%d\r\n%s\r\n", i, size, value)
		if sent++; sent >= fillBatch {
			if err := replies(sent); err != nil {
				return err
			}
			sent = 0
		}
	}
	return replies(sent)
}

// fillBatch bounds the replies that wait to be read.
const fillBatch = 1000

var errNotStored = errors.New("the value was not stored")

func (l *lab) memcachedServer() (*server, int, error) {
	return l.server("memcached", 1, func(port int) (*server, error) {
		return startServer(nil, accepts(loopback(port)), "memcached", "-l", host, "-p", strconv.Itoa(port), "-U", "0", "-m", "2048", "-I", "32m", "-u", "nobody")
	})
}

// memcslap does nothing else than its own load, for a number of operations per thread.
func (l *lab) memcslap(ctx context.Context, p point, length time.Duration) (sample, error) {
	_, port, err := l.memcachedServer()
	if err != nil {
		return sample{}, err
	}
	op := map[string]string{"get": "get", "put": "set"}[p.Op]
	return l.counted("memcslap "+p.String(), 100*p.Outstanding, length, func(n int) (sample, error) {
		// Each thread's keys are made, and for gets put, before; that limits the number.
		each := min(20_000, max(100, n/p.Outstanding))
		out, err := run(ctx, nil, "memcslap", "--servers", loopback(port), "--test", op, "--concurrency", strconv.Itoa(p.Outstanding), "--execute-number", strconv.Itoa(each), "--flush")
		if err != nil {
			return sample{}, err
		}
		return parseMemcslap(out)
	})
}

func (l *lab) memcached(ctx context.Context, p point, length time.Duration) (sample, error) {
	s, port, err := l.memcachedServer()
	if err != nil {
		return sample{}, err
	}
	c, err := net.Dial("tcp", loopback(port))
	if err != nil {
		return sample{}, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(runTimeout)); err != nil {
		return sample{}, err
	}
	defer context.AfterFunc(ctx, func() { c.Close() })()
	return newMemcachedLoad(c, p, p.keys()).run(s.cpu, length)
}

func (l *lab) olricCallers(ctx context.Context, p point, length time.Duration) (sample, error) {
	return l.olric(ctx, p, length)
}

func (l *lab) olricPipeline(ctx context.Context, p point, length time.Duration) (sample, error) {
	return l.olric(ctx, p, length, "-pipeline")
}

func (l *lab) olric(ctx context.Context, p point, length time.Duration, more ...string) (sample, error) {
	_, port, err := l.server("olric", 2, func(port int) (*server, error) {
		return startServer(nil, saysReady, l.tools.olric, "serve", host, strconv.Itoa(port))
	})
	if err != nil {
		return sample{}, err
	}
	args := append([]string{p.Op, host, strconv.Itoa(port), "-s", strconv.Itoa(p.Size), "-k", strconv.Itoa(p.keys()), "-w", strconv.Itoa(p.Outstanding),
		"-t", length.String(), "-u", warmup(length).String()}, more...)
	out, err := run(ctx, nil, l.tools.olric, args...)
	if err != nil {
		return sample{}, err
	}
	return parseJSON(out)
}

// listens waits until a socket listens on that port, without connecting to it: ucx_perftest serves only
// the first who does.
func listens(port int) func(string) bool {
	want := fmt.Sprintf(":%04X ", port)
	return func(string) bool {
		for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
			for line := range strings.Lines(readFile(table)) {
				fields := strings.Fields(line)
				const local, state, listening = 1, 3, "0A"
				if len(fields) > state && fields[state] == listening && strings.HasSuffix(fields[local]+" ", want) {
					return true
				}
			}
		}
		return false
	}
}

var errMemcached = errors.New("memcached")

// discard reads n bytes and a line end.
func discard(in *bufio.Reader, n int) error {
	if _, err := io.CopyN(io.Discard, in, int64(n)); err != nil {
		return err
	}
	end, err := in.ReadString('\n')
	if err == nil && end != "\r\n" {
		err = fmt.Errorf("%w: %q after a value of %d bytes", errMemcached, end, n)
	}
	return err
}
