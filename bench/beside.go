package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// besideLimit is how much longer the 99th percentile of small gets may be beside bulk puts than beside a
// process that uses as much processor time as these and nothing of ours.
const besideLimit = 5

const (
	besideRounds = 3
	besideLength = 2 * time.Second
	besideStart  = time.Second // the puts have put their keys by then
)

// beside measures what bulk costs the small: 64 B gets one at a time, alone, while another client puts
// 16 MiB values four at a time, and while a process spins that is as hungry as client and node are with these
// puts. It fails when the puts cost too much.
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
		puts, processors, err := l.besidePuts(ctx, port, get)
		if err != nil {
			return err
		}
		spin, err := besideSpin(processors, get)
		if err != nil {
			return err
		}
		ratios = append(ratios, puts.P99/spin.P99)
		fmt.Fprintf(out, "%s: p99 of 64 B gets alone %.0f us, beside 16 MiB puts %.0f us, beside a process that spins on %.2f processors %.0f us: x%.1f\n",
			l.transport, alone.P99, puts.P99, processors, spin.P99, puts.P99/spin.P99)
	}
	slices.Sort(ratios)
	if median := ratios[len(ratios)/2]; median > besideLimit {
		return fmt.Errorf("the median is x%.1f, want at most x%d", median, besideLimit)
	}
	return nil
}

// besidePuts measures while another client puts, and says how many processors client and node used for the puts.
func (l *lab) besidePuts(ctx context.Context, port int, get func() (sample, error)) (gets sample, processors float64, err error) {
	type result struct {
		sample
		err error
	}
	ended := make(chan result, 1)
	go func() {
		s, err := l.load(ctx, port, newPoint(l.transport, "put", 16<<20, 4), 2*besideLength, "--verify", "off")
		ended <- result{s, err}
	}()
	time.Sleep(besideStart)
	gets, err = get()
	puts := <-ended
	if err == nil {
		err = puts.err
	}
	return gets, puts.OpsPerS * (puts.ClientCPU + puts.ServerCPU) * 1e-6, err
}

// besideSpin measures while a process of ours uses so many processors.
func besideSpin(processors float64, get func() (sample, error)) (sample, error) {
	self, err := os.Executable()
	if err != nil {
		return sample{}, err
	}
	cmd := exec.Command(self, "-spin", strconv.FormatFloat(processors, 'f', 3, 64))
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

// spin uses so many processors for a while, the last of them for a share of each spinSlot.
func spin(processors float64) {
	var threads sync.WaitGroup
	end := time.Now().Add(4 * besideLength)
	for ; processors > 0; processors-- {
		busy := time.Duration(min(processors, 1) * float64(spinSlot))
		threads.Go(func() {
			for slot := time.Now(); slot.Before(end); slot = slot.Add(spinSlot) {
				for time.Since(slot) < busy {
				}
				time.Sleep(time.Until(slot.Add(spinSlot)))
			}
		})
	}
	threads.Wait()
}

const spinSlot = 10 * time.Millisecond // about what a transfer of 16 MiB takes
