package main

import (
	"os"
	"runtime"
)

// limitProcs sets GOMAXPROCS for a process whose work is done by so many pollers, unless the user did.
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
