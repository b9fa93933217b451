package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"
)

// besideLimit is how much longer the 99th percentile of small gets may be beside bulk puts than beside a
// process that uses a processor and nothing of ours.
const besideLimit = 5

const (
	besideRounds = 3
	besideLength = 2 * time.Second
	besideStart  = time.Second // the puts have put their keys by then
)

// beside measures what bulk costs the small: 64 B gets one at a time, alone, while another client puts
// 16 MiB values four at a time, and while a process spins. It fails when the puts cost too much.
func (o *options) beside(ctx context.Context, out io.Writer) error {
	for _, transport := range transports {
		l := newLab(o.tools, transport)
		err := l.beside(ctx, out)
		l.stop()
		if err != nil {
			return fmt.Errorf("%s: %w", transport, err)
		}
	}
	return nil
}

func (l *lab) beside(ctx context.Context, out io.Writer) error {
	_, port, err := l.node()
	if err != nil {
		return err
	}
	get := func() (sample, error) { return l.load(ctx, port, newPoint(l.transport, "get", 64, 1), besideLength) }
	var ratios []float64
	for range besideRounds {
		alone, err := get()
		if err != nil {
			return err
		}
		puts, err := l.besidePuts(ctx, port, get)
		if err != nil {
			return err
		}
		spin, err := besideSpin(get)
		if err != nil {
			return err
		}
		ratios = append(ratios, puts.P99/spin.P99)
		fmt.Fprintf(out, "%s: p99 of 64 B gets alone %.0f us, beside 16 MiB puts %.0f us, beside a spinning process %.0f us: x%.1f\n",
			l.transport, alone.P99, puts.P99, spin.P99, puts.P99/spin.P99)
	}
	slices.Sort(ratios)
	if median := ratios[len(ratios)/2]; median > besideLimit {
		return fmt.Errorf("the median is x%.1f, want at most x%d", median, besideLimit)
	}
	return nil
}

// besidePuts measures while another client puts.
func (l *lab) besidePuts(ctx context.Context, port int, get func() (sample, error)) (sample, error) {
	ended := make(chan error, 1)
	go func() {
		_, err := l.load(ctx, port, newPoint(l.transport, "put", 16<<20, 4), 2*besideLength, "--verify", "off")
		ended <- err
	}()
	time.Sleep(besideStart)
	s, err := get()
	if putErr := <-ended; err == nil {
		err = putErr
	}
	return s, err
}

// besideSpin measures while a process of ours uses a processor.
func besideSpin(get func() (sample, error)) (sample, error) {
	self, err := os.Executable()
	if err != nil {
		return sample{}, err
	}
	cmd := exec.Command(self, "-spin")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return sample{}, err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // of course it was killed
	}()
	return get()
}

// spin uses one processor for a while.
func spin() {
	for end := time.Now().Add(4 * besideLength); time.Now().Before(end); {
	}
}
