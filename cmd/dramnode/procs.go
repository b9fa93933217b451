package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// limitProcs sets GOMAXPROCS for a process whose work is done by so many pollers, unless the user did. One that serves other
// protocols keeps all cores, since their connections are goroutines.
//
// A poller is one goroutine, and it never blocks. Every further processor that Go may use is a thread that
// looks for work whenever a poller yields or wakes a caller. On few cores these threads take the time of
// the pollers at the other end: measured with client and node on 2 cores, 1 is up to twice as fast as 2.
func limitProcs(pollers int) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(procs(runtime.GOMAXPROCS(0), pollers))
	}
}

// procs is half of the cores, and no more than the pollers and some goroutines beside them keep busy.
func procs(cores, pollers int) int { return max(1, min(cores/2, pollers+besidePollers)) }

// besidePollers is for callers, moves, listings and the garbage collector.
const besidePollers = 7

// calmMonitor keeps Go's monitor from interrupting the one thread that runs Go code, where there is but one (GOMAXPROCS 1).
//
// The monitor takes the one P from a thread that it finds in the same call of C twice, 20 us apart, and wakes another
// thread for it, which finds nothing to do; and it goes on looking every 20 us for as long as it finds such calls. The
// poller's calls of C last longer when bodies travel, which cost a fifth of their speed (docs/transfers.md). With
// SCHED_BATCH its waking up interrupts nobody: it waits for its turn, so it looks every few milliseconds while the
// processors are busy, which is early enough for what it is there for: threads that block, and goroutines that do not yield.
//
// It must get its turn. SCHED_IDLE was as fast, but on a machine with more work than processors the monitor starved, and
// with it all that waits for it: sixteen nodes on two cores suspected each other for ever (TestSixteenNodesAgree).
func calmMonitor() error {
	if runtime.GOMAXPROCS(0) > 1 {
		return nil
	}
	tid, err := monitor()
	if err != nil {
		return err
	}
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_BATCH}
	if err := unix.SchedSetAttr(tid, &attr, 0); err != nil {
		return fmt.Errorf("sched_setattr of thread %d: %w", tid, err)
	}
	return nil
}

// monitor finds the thread of Go's monitor. No other thread of ours sleeps by nanosleep, and this one does nearly always
// while a goroutine runs.
func monitor() (tid int, err error) {
	const tasks, looks = "/proc/self/task", 100
	nanosleep := fmt.Sprintf("%d ", unix.SYS_NANOSLEEP)
	for range looks {
		entries, err := os.ReadDir(tasks)
		if err != nil {
			return 0, err
		}
		for _, e := range entries {
			call, err := os.ReadFile(tasks + "/" + e.Name() + "/syscall")
			if err == nil && strings.HasPrefix(string(call), nanosleep) {
				return strconv.Atoi(e.Name())
			}
		}
	}
	return 0, errors.New("the thread of Go's monitor was not found")
}
