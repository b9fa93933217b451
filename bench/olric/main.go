// Command olric runs Olric, a distributed map in Go, for the comparisons of dramnode, which cannot have
// it in its own module.
//
//	olric serve HOST PORT                one node until SIGTERM; prints "ready"
//	olric get|put HOST PORT [flags]      fills, warms up and measures; prints one line of JSON
//
// Callers are goroutines that share one cluster client; with -pipeline one caller sends batches instead.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/olric-data/olric"
	"github.com/olric-data/olric/config"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "olric:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 3 {
		return errors.New("usage: olric serve|get|put HOST PORT [flags]")
	}
	port, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if args[0] == "serve" {
		return serve(ctx, args[1], port)
	}
	return bench(ctx, args[0], net.JoinHostPort(args[1], args[2]), args[3:])
}

// Few partitions are in favour of Olric's pipeline, which makes one request to each; and a value must
// fit a table.
const (
	partitions = 7
	tableBytes = 64 << 20
)

func serve(ctx context.Context, host string, port int) error {
	c := config.New("local")
	c.BindAddr, c.BindPort, c.PartitionCount = host, port, partitions
	c.MemberlistConfig.BindAddr, c.MemberlistConfig.BindPort, c.MemberlistConfig.AdvertisePort = host, port+1, port+1
	c.LogOutput, c.Logger = io.Discard, log.New(io.Discard, "", 0)
	c.DMaps.Engine = config.NewEngine()
	c.DMaps.Engine.Config["tableSize"] = uint64(tableBytes)
	c.Started = func() { fmt.Println("ready") }
	db, err := olric.New(c)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- db.Start() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(db.Shutdown(stop), <-ended)
}

type load struct {
	put      bool
	keys     []string
	value    []byte
	callers  int
	pipeline bool
	warm     time.Duration
	duration time.Duration
	dmap     olric.DMap
}

func bench(ctx context.Context, op, addr string, args []string) error {
	l := load{put: op == "put"}
	flags := flag.NewFlagSet("olric", flag.ContinueOnError)
	size := flags.Int("s", 64, "bytes of a value")
	keys := flags.Int("k", 1000, "keys")
	flags.IntVar(&l.callers, "w", 1, "operations under way")
	flags.BoolVar(&l.pipeline, "pipeline", false, "one caller with batches of -w")
	flags.DurationVar(&l.warm, "u", 200*time.Millisecond, "warm-up")
	flags.DurationVar(&l.duration, "t", time.Second, "measured")
	if err := flags.Parse(args); err != nil {
		return err
	}
	client := config.NewClient()
	client.PoolSize = max(10, l.callers)
	c, err := olric.NewClusterClient([]string{addr}, olric.WithConfig(client), olric.WithLogger(log.New(io.Discard, "", 0)))
	if err != nil {
		return err
	}
	defer c.Close(context.Background())
	if l.dmap, err = c.NewDMap("bench"); err != nil {
		return err
	}
	defer l.dmap.Destroy(context.Background())
	l.value = make([]byte, *size)
	for i := range l.value {
		l.value[i] = byte(rand.Uint32())
	}
	for i := range *keys {
		l.keys = append(l.keys, fmt.Sprintf("key:%012d", i))
		if err := l.dmap.Put(ctx, l.keys[i], l.value); err != nil {
			return err
		}
	}
	return l.run(ctx)
}

func (l *load) key() string { return l.keys[rand.IntN(len(l.keys))] }

// once does one operation.
func (l *load) once(ctx context.Context) (int, error) {
	if l.put {
		return 1, l.dmap.Put(ctx, l.key(), l.value)
	}
	r, err := l.dmap.Get(ctx, l.key())
	if err != nil {
		return 0, err
	}
	b, err := r.Byte()
	if err == nil && len(b) != len(l.value) {
		err = fmt.Errorf("a value of %d bytes, want %d", len(b), len(l.value))
	}
	return 1, err
}

// many does as many operations as there would be callers.
func (l *load) many(ctx context.Context) (int, error) {
	p, err := l.dmap.Pipeline()
	if err != nil {
		return 0, err
	}
	defer p.Close()
	gets := make([]*olric.FutureGet, 0, l.callers)
	puts := make([]*olric.FuturePut, 0, l.callers)
	for range l.callers {
		if !l.put {
			gets = append(gets, p.Get(ctx, l.key()))
			continue
		}
		f, err := p.Put(ctx, l.key(), l.value)
		if err != nil {
			return 0, err
		}
		puts = append(puts, f)
	}
	if err := p.Exec(ctx); err != nil {
		return 0, err
	}
	for _, f := range gets {
		r, err := f.Result()
		if err == nil {
			_, err = r.Byte()
		}
		if err != nil {
			return 0, err
		}
	}
	for _, f := range puts {
		if err := f.Result(); err != nil {
			return 0, err
		}
	}
	return l.callers, nil
}

func (l *load) run(ctx context.Context) error {
	callers, do := l.callers, l.once
	if l.pipeline {
		callers, do = 1, l.many
	}
	from := time.Now().Add(l.warm)
	until := from.Add(l.duration)
	total := hdrhistogram.New(1, int64(time.Minute), 2)
	var mu sync.Mutex
	var firstErr error
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			h := hdrhistogram.New(1, int64(time.Minute), 2)
			var err error
			for before := time.Now(); before.Before(until) && ctx.Err() == nil && err == nil; {
				var n int
				n, err = do(ctx)
				now := time.Now()
				if err == nil && !now.Before(from) && !now.After(until) {
					_ = h.RecordValues(min(int64(now.Sub(before)), int64(time.Minute)), int64(n)) // in range by min
				}
				before = now
			}
			mu.Lock()
			defer mu.Unlock()
			total.Merge(h)
			firstErr = errors.Join(firstErr, err)
		})
	}
	time.Sleep(time.Until(from))
	cpu := processorTime()
	time.Sleep(time.Until(until))
	cpu = processorTime() - cpu
	wg.Wait()
	if firstErr != nil {
		return firstErr
	}
	us := func(ns int64) float64 { return float64(ns) / 1e3 }
	ops := total.TotalCount()
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"ops": ops, "seconds": l.duration.Seconds(),
		"ops_per_s": float64(ops) / l.duration.Seconds(),
		"gb_per_s":  float64(ops) * float64(len(l.value)) / 1e9 / l.duration.Seconds(),
		"p50_us":    us(total.ValueAtQuantile(50)), "p99_us": us(total.ValueAtQuantile(99)),
		"p99_9_us": us(total.ValueAtQuantile(99.9)), "max_us": us(total.Max()),
		"client_cpu_us_per_op": us(int64(cpu)) / float64(max(ops, 1)),
	})
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
