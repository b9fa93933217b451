package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProcs(t *testing.T) {
	for _, tt := range []struct{ cores, pollers, want int }{
		{1, 1, 1},
		{2, 1, 1}, // the other core is for who asks
		{4, 1, 2},
		{16, 1, 8},
		{64, 1, 8}, // one poller, and seven for what goes on beside it
		{64, 8, 15},
		{2, 8, 1},
	} {
		if got := procs(tt.cores, tt.pollers); got != tt.want {
			t.Errorf("procs(%d cores, %d pollers) = %d, want %d", tt.cores, tt.pollers, got, tt.want)
		}
	}
}

// The monitor is the one thread that wakes again and again although no goroutine waits for anything.
func TestMonitorIsFound(t *testing.T) {
	tid, err := monitor()
	if err != nil {
		t.Fatal(err)
	}
	first, n := wakeUps(t, tid), 0
	for wakeUps(t, tid) < first+5 {
		if n++; n > 1_000_000 {
			t.Fatalf("thread %d has not woken up", tid)
		}
	}
}

// wakeUps is how often a thread has gone to sleep.
func wakeUps(t *testing.T, tid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status", tid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "\nvoluntary_ctxt_switches:")
	count, _, _ := strings.Cut(after, "\n")
	n, err := strconv.Atoi(strings.TrimSpace(count))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestCalmMonitor runs in a process of its own, since there is no way back.
func TestCalmMonitor(t *testing.T) {
	if os.Getenv("DRAMNODE_TEST_CALM") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCalmMonitor$")
		cmd.Env = append(os.Environ(), "DRAMNODE_TEST_CALM=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	tid, err := monitor()
	if err != nil {
		t.Fatal(err)
	}
	runtime.GOMAXPROCS(1)
	if err := calmMonitor(); err != nil {
		t.Fatal(err)
	}
	attr, err := unix.SchedGetAttr(tid, 0)
	if err != nil || attr.Policy != unix.SCHED_BATCH {
		t.Fatalf("thread %d has policy %d (%v), want %d", tid, attr.Policy, err, unix.SCHED_BATCH)
	}
}
