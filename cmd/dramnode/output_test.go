package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
)

func TestDrawProgress(t *testing.T) {
	for _, c := range []struct {
		files, bytes, total int64
		want                string
	}{
		{0, 0, 0, "\r0 files, 0 B, 0.00 GB/s\x1b[K"}, // export does not know how much will come
		{1, 1 << 20, 2 << 20, "\r[############............] 1 files, 1.0 MiB of 2.0 MiB, "},
		{2, 2 << 20, 2 << 20, "\r[########################] 2 files, 2.0 MiB of 2.0 MiB, "},
		{3, 9 << 20, 2 << 20, "\r[########################] 3 files, 9.0 MiB of 2.0 MiB, "}, // the files grew
	} {
		var out bytes.Buffer
		drawProgress(&out, c.files, c.bytes, c.total, time.Second)
		if !strings.HasPrefix(out.String(), c.want) {
			t.Errorf("%d of %d bytes: %q, want %q", c.bytes, c.total, out.String(), c.want)
		}
	}
}

// What is drawn last is how it ended.
func TestEveryDrawsTheEnd(t *testing.T) {
	state, drawn := 0, -1
	stop := every(time.Hour, func() { drawn = state })
	state = 7
	if stop(); drawn != 7 {
		t.Errorf("drawn %d, want 7", drawn)
	}
}

func TestTerminalIsOne(t *testing.T) {
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals: %v", err)
	}
	defer pty.Close()
	t.Setenv("TERM", "xterm")
	if !terminal(pty) {
		t.Error("a terminal counts as none")
	}
	t.Setenv("TERM", "dumb")
	if terminal(pty) {
		t.Error("a dumb terminal counts as one")
	}
}
