package gossip

import (
	"bytes"
	"context"
	"fmt"
	"runtime/pprof"
	"time"
)

// labelKey marks memberlist's goroutines in profiles too.
const labelKey = "gossip"

// setLabel labels this goroutine and those that it starts from now on.
func setLabel(label string) {
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels(labelKey, label)))
}

// awaitLabelled waits, for at most limit, until no goroutine has the label, and returns how many have
// it still. memberlist's Shutdown does not wait for its goroutines and hands out nothing to wait on;
// but labels are inherited, so those are exactly the goroutines that it started. A profile is cheap
// enough for the end of a process's gossip.
func awaitLabelled(label string, limit time.Duration) int {
	deadline := time.Now().Add(limit)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		n := labelled(label)
		if n == 0 || time.Now().After(deadline) {
			return n
		}
		time.Sleep(pause)
	}
}

// labelled counts the stacks, each of one or more goroutines, with the label.
func labelled(label string) int {
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		return 0
	}
	return bytes.Count(profile.Bytes(), fmt.Appendf(nil, "# labels: {%q:%q}", labelKey, label))
}
