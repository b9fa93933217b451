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
		return l.load(ctx, port, p, length, "--mode", mode, "--verify", verify)
	}
}

// direct reads from the memory of a node that allows it.
func (l *lab) direct(ctx context.Context, p point, length time.Duration) (sample, error) {
	_, port, err := l.server("direct", 3, func(port int) (*server, error) {
		return startServer(nil, l.serving(port), l.dramnode, "serve", "--direct", "--listen", loopback(port), "--shm", l.shm(), "--memory", "2GiB", "--log-level", "error")
	})
	if err != nil {
		return sample{}, err
	}
	return l.load(ctx, port, p, length, "--direct", "--mode", "blocking")
}

func (l *lab) load(ctx context.Context, port int, p point, length time.Duration, more ...string) (sample, error) {
	args := append([]string{"bench", "--json", "--addr", loopback(port), "--shm", l.shm(), "--op", p.Op,
		"--outstanding", strconv.Itoa(p.Outstanding), "--connections", strconv.Itoa(p.Connections), "--size", strconv.Itoa(p.Size),
		"--keys", strconv.Itoa(p.keys()), "--duration", length.String(), "--warmup", warmup(length).String()}, more...)
	out, err := run(ctx, nil, l.dramnode, args...)
	if err != nil {
		return sample{}, err
	}
	return parseJSON(out)
}

// viaRule makes the node of that name the owner of all keys of the load.
const viaRule = "bench/=owner"

// pair starts a cluster of two: one owns the keys of the load, the other, whose port it returns, none.
func (l *lab) pair() (int, error) {
	start := func(name string, more ...string) func(port int) (*server, error) {
		return func(port int) (*server, error) {
			args := append([]string{"serve", "--name", name, "--listen", loopback(port), "--shm", l.shm(), "--memory", "1GiB",
				"--routing", "explicit", "--rule", viaRule, "--log-level", "error"}, more...)
			return startServer(nil, l.serving(port), l.dramnode, args...)
		}
	}
	_, port, err := l.server("owner", 3, start("owner"))
	if err != nil {
		return 0, err
	}
	const gossip = 1 // after the port that is listened on
	_, port, err = l.server("forwarder", 3, start("forwarder", "--join", loopback(port+gossip)))
	return port, err
}

func (l *lab) via(ctx context.Context, p point, length time.Duration) (sample, error) {
	port, err := l.pair()
	if err != nil {
		return sample{}, err
	}
	mode := "blocking"
	if p.Outstanding > 1 && p.Size <= 4<<10 {
		mode = "async"
	}
	return l.load(ctx, port, p, length, "--mode", mode, "--via", "forwarder")
}

// ucxEnv makes the tools over UCX use the transport as dramnode does.
func (l *lab) ucxEnv() []string {
	env := []string{"UCX_MAX_RNDV_RAILS=1", "UCX_TCP_CM_REUSEADDR=y", "UCX_WARN_UNUSED_ENV_VARS=n", "UCX_LOG_LEVEL=fatal", "UCX_NET_DEVICES=lo"}
	if l.transport == "tcp" {
		return append(env, "UCX_TLS=tcp")
	}
	// Shared memory is off with error handling unless it is asked for.
	return append(env, "UCX_TLS=tcp,sysv,cma", "UCX_NET_DEVICES=all", "UCX_MM_ERROR_HANDLING=y", "UCX_CMA_MEMORY_INVALIDATE=y")
}

// eagerBelow is the shortest value that dramnode sends by rendezvous.
func (l *lab) eagerBelow() int {
	if l.transport == "tcp" {
		return 64<<10 + 1
	}
	return 16<<10 + 1
}

func (l *lab) crefMeasure(ctx context.Context, p point, length time.Duration) (sample, error) {
	ports, stop, err := l.crefServers(p, false)
	if err != nil {
		return sample{}, err
	}
	return l.crefLoad(ctx, p, length, ports[0], stop)
}

// crefRelay measures with a third process between the two, as a node that forwards is. All three yield
// when they have nothing to do, since there may be fewer cores.
func (l *lab) crefRelay(ctx context.Context, p point, length time.Duration) (sample, error) {
	ports, stop, err := l.crefServers(p, true)
	if err != nil {
		return sample{}, err
	}
	return l.crefLoad(ctx, p, length, ports[1], stop, "-y")
}

func (l *lab) crefArgs(p point) []string {
	return []string{"-m", strconv.Itoa(max(1<<20, p.Size*p.Outstanding)), "-e", strconv.Itoa(l.eagerBelow()), "-k", strconv.Itoa(p.keys())}
}

// crefServers starts a server, and maybe a relay. They end with their client; stop ends them early.
func (l *lab) crefServers(p point, relay bool) (ports []int, stop func(), err error) {
	var servers []*server
	stop = func() {
		for _, s := range servers {
			s.stop()
		}
	}
	start := func(what string, more ...string) error {
		port, err := freePort(1)
		if err != nil {
			return err
		}
		args := append(append([]string{what, host, strconv.Itoa(port)}, l.crefArgs(p)...), more...)
		s, err := startServer(l.ucxEnv(), saysReady, l.tools.cref, args...)
		if err == nil {
			servers, ports = append(servers, s), append(ports, port)
		}
		return err
	}
	if !relay {
		err = start("serve")
		return ports, stop, err
	}
	if err = start("serve", "-y"); err == nil {
		err = start("relay", "-y", "-r", strconv.Itoa(ports[0]))
	}
	if err != nil {
		stop()
	}
	return ports, stop, err
}

func (l *lab) crefLoad(ctx context.Context, p point, length time.Duration, port int, stop func(), more ...string) (sample, error) {
	defer stop() // they have gone, or go at once
	args := append([]string{p.Op, host, strconv.Itoa(port), "-s", strconv.Itoa(p.Size), "-w", strconv.Itoa(p.Outstanding),
		"-t", fmt.Sprint(length.Seconds()), "-u", fmt.Sprint(warmup(length).Seconds())}, append(l.crefArgs(p), more...)...)
	out, err := run(ctx, l.ucxEnv(), l.tools.cref, args...)
	if err != nil {
		return sample{}, err
	}
	return parseJSON(out)
}

// perftest knows no replies. The time of a get or put is half a round trip with the value, and half a one
// of a short message; the rate is that of messages in one direction.
func (l *lab) perftest(ctx context.Context, p point, length time.Duration) (sample, error) {
	if !p.single() {
		s, err := l.perftestRun(ctx, "ucp_am_bw", p.Size, length)
		s.P50 = 0 // of handing a message over, which says nothing
		return s, err
	}
	const short = 8
	there, err := l.perftestRun(ctx, "ucp_am_lat", p.Size, length/2)
	if err != nil {
		return sample{}, err
	}
	back, err := l.perftestRun(ctx, "ucp_am_lat", short, length/2)
	if err != nil {
		return sample{}, err
	}
	rate := 1 / (1/there.OpsPerS + 1/back.OpsPerS)
	return sample{OpsPerS: rate, GBPerS: rate * float64(p.Size) / 1e9, P50: there.P50 + back.P50}, nil
}

func (l *lab) perftestRun(ctx context.Context, test string, size int, length time.Duration) (sample, error) {
	least := max(10, min(2000, keyBytes/size))
	return l.counted(fmt.Sprint("perftest ", test, size), least, length, func(n int) (sample, error) {
		port, err := freePort(1)
		if err != nil {
			return sample{}, err
		}
		common := []string{"-p", strconv.Itoa(port), "-t", test, "-s", strconv.Itoa(size), "-n", strconv.Itoa(n), "-w", strconv.Itoa(max(1, n/10)), "-e"}
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
		return parsePerftest(out, size)
	})
}
