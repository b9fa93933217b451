package main

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// warmup is part of each measurement's length, before it.
func warmup(length time.Duration) time.Duration { return length / 4 }

func (l *lab) shm() string {
	if l.transport == "shm" {
		return "on"
	}
	return "off"
}

// node starts a cluster of one.
func (l *lab) node() (*server, int, error) {
	return l.server("dramnode", 3, func(port int) (*server, error) {
		return startServer(nil, l.serving(port), l.dramnode, "serve", "--listen", loopback(port), "--shm", l.shm(), "--memory", "2GiB", "--log-level", "error")
	})
}

// serving asks the node whether it does.
func (l *lab) serving(port int) func(string) bool {
	addr := loopback(port)
	return func(string) bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := run(ctx, nil, l.dramnode, "ls", "--addr", addr, "--shm", l.shm(), "--timeout", "2s", "--limit", "1")
		return err == nil
	}
}

func (l *lab) ours(mode, verify string) func(context.Context, point, time.Duration) (sample, error) {
	return func(ctx context.Context, p point, length time.Duration) (sample, error) {
		_, port, err := l.node()
		if err != nil {
			return sample{}, err
		}
		out, err := run(ctx, nil, l.dramnode, "bench", "--json", "--addr", loopback(port), "--shm", l.shm(), "--op", p.Op,
			"--mode", mode, "--verify", verify, "--outstanding", strconv.Itoa(p.Outstanding), "--size", strconv.Itoa(p.Size),
			"--keys", strconv.Itoa(p.keys()), "--duration", length.String(), "--warmup", warmup(length).String())
		if err != nil {
			return sample{}, err
		}
		return parseJSON(out)
	}
}

// ucxEnv makes the tools over UCX use the transport as dramnode does.
func (l *lab) ucxEnv() []string {
	env := []string{"UCX_MAX_RNDV_RAILS=1", "UCX_TCP_CM_REUSEADDR=y", "UCX_WARN_UNUSED_ENV_VARS=n", "UCX_LOG_LEVEL=fatal", "UCX_NET_DEVICES=lo"}
	if l.transport == "tcp" {
		return append(env, "UCX_TLS=tcp")
	}
	// Shared memory is off with error handling unless it is asked for.
	return append(env, "UCX_TLS=tcp,posix,cma", "UCX_NET_DEVICES=all", "UCX_MM_ERROR_HANDLING=y", "UCX_CMA_MEMORY_INVALIDATE=y")
}

// eagerBelow is where dramnode begins to use rendezvous.
func (l *lab) eagerBelow() int {
	if l.transport == "tcp" {
		return 64 << 10
	}
	return 8<<10 + 1
}

func (l *lab) crefMeasure(ctx context.Context, p point, length time.Duration) (sample, error) {
	port, err := freePort(1)
	if err != nil {
		return sample{}, err
	}
	memory := strconv.Itoa(max(1<<20, p.Size*p.Outstanding))
	s, err := startServer(l.ucxEnv(), saysReady, l.tools.cref, "serve", host, strconv.Itoa(port), "-m", memory, "-e", strconv.Itoa(l.eagerBelow()))
	if err != nil {
		return sample{}, err
	}
	defer s.wait()
	out, err := run(ctx, l.ucxEnv(), l.tools.cref, p.Op, host, strconv.Itoa(port), "-m", memory, "-e", strconv.Itoa(l.eagerBelow()),
		"-s", strconv.Itoa(p.Size), "-w", strconv.Itoa(p.Outstanding),
		"-t", fmt.Sprint(length.Seconds()), "-u", fmt.Sprint(warmup(length).Seconds()))
	if err != nil {
		s.stop()
		return sample{}, err
	}
	return parseJSON(out)
}

// perftest knows no replies, so put and get are the same to it, and it does not wait for a window.
func (l *lab) perftest(ctx context.Context, p point, length time.Duration) (sample, error) {
	test, latency := "ucp_am_bw", p.Outstanding == 1
	if latency {
		test = "ucp_am_lat"
	}
	least := max(10, min(2000, keyBytes/p.Size))
	return l.counted(fmt.Sprint("perftest ", test, p.Size), least, length, func(n int) (sample, error) {
		port, err := freePort(1)
		if err != nil {
			return sample{}, err
		}
		common := []string{"-p", strconv.Itoa(port), "-t", test, "-s", strconv.Itoa(p.Size), "-n", strconv.Itoa(n), "-w", strconv.Itoa(max(1, n/10)), "-e"}
		s, err := startServer(l.ucxEnv(), listens(port), "ucx_perftest", common...)
		if err != nil {
			return sample{}, err
		}
		defer s.wait()
		out, err := run(ctx, l.ucxEnv(), "ucx_perftest", append([]string{host, "-f", "-v"}, common...)...)
		if err != nil {
			s.stop()
			return sample{}, err
		}
		return parsePerftest(out, p.Size, latency)
	})
}
