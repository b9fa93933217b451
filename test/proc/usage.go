package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// RSSBytes is the memory the process has in RAM now.
func (n *Node) RSSBytes() int64 { return n.statusField("VmRSS") * 1024 }

// Threads is the number of the process's threads.
func (n *Node) Threads() int { return int(n.statusField("Threads")) }

// FDs is the number of the process's open file descriptors.
func (n *Node) FDs() int {
	n.t.Helper()
	entries, err := os.ReadDir(n.procFile("fd"))
	if err != nil {
		n.t.Errorf("proc: %s: %v", n.name, err)
	}
	return len(entries)
}

// statusField reads a number from /proc/PID/status; the test fails if the process has ended.
func (n *Node) statusField(field string) int64 {
	n.t.Helper()
	text, err := n.statusText(field)
	if err != nil {
		n.t.Error(err)
		return 0
	}
	number, err := strconv.ParseInt(strings.TrimSuffix(text, " kB"), 10, 64)
	if err != nil {
		n.t.Errorf("proc: %s: %s: %v", n.name, field, err)
	}
	return number
}

// stopped reports whether a signal has stopped the process.
func (n *Node) stopped() (bool, error) {
	state, err := n.statusText("State")
	return strings.HasPrefix(state, "T"), err
}

func (n *Node) statusText(field string) (string, error) {
	text, err := os.ReadFile(n.procFile("status"))
	if err != nil {
		return "", fmt.Errorf("proc: %s: %w", n.name, err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("proc: %s: no %s in its status; the process has ended", n.name, field)
}

func (n *Node) procFile(name string) string {
	return filepath.Join("/proc", strconv.Itoa(n.PID()), name)
}
