package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// Stop asks the node to leave (SIGTERM) and fails the test unless it ends with exit code 0.
func (n *Node) Stop() {
	n.t.Helper()
	if err := n.stop(stopLimit); err != nil {
		n.t.Error(err)
	}
}

func (n *Node) stop(limit time.Duration) error {
	if err := n.signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := n.await(limit); err != nil {
		return err
	}
	if n.waitErr != nil {
		return fmt.Errorf("proc: %s stopped with %w, want exit code 0", n.name, n.waitErr)
	}
	return nil
}

// Kill ends the process at once (SIGKILL), as a crash of the machine would, and returns when it is
// gone. Killing a process that has ended does nothing.
func (n *Node) Kill() {
	n.t.Helper()
	if err := n.kill(); err != nil {
		n.t.Error(err)
	}
}

func (n *Node) kill() error {
	if err := n.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("proc: kill %s: %w", n.name, err)
	}
	return n.await(killLimit)
}

// Signal sends any signal and fails the test if the process has ended.
func (n *Node) Signal(s syscall.Signal) {
	n.t.Helper()
	if err := n.signal(s); err != nil {
		n.t.Error(err)
	}
}

// Pause freezes the process (SIGSTOP) and returns when the kernel has stopped all its threads: its
// peers see silence on open connections.
func (n *Node) Pause() {
	n.t.Helper()
	if err := n.freeze(syscall.SIGSTOP, true); err != nil {
		n.t.Error(err)
	}
}

// Resume continues a paused process (SIGCONT).
func (n *Node) Resume() {
	n.t.Helper()
	if err := n.freeze(syscall.SIGCONT, false); err != nil {
		n.t.Error(err)
	}
}

func (n *Node) freeze(s syscall.Signal, frozen bool) error {
	if err := n.signal(s); err != nil {
		return err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(killLimit)
	for {
		stopped, err := n.stopped()
		if !frozen && errors.Is(err, fs.ErrNotExist) {
			return nil // what it had been sent while it was frozen has ended it
		}
		if err != nil || stopped == frozen {
			return err
		}
		select {
		case <-tick.C:
		case <-deadline:
			return fmt.Errorf("proc: %s did not react to %v within %v", n.name, s, killLimit)
		}
	}
}

func (n *Node) signal(s syscall.Signal) error {
	if err := n.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("proc: %v to %s: %w", s, n.name, err)
	}
	return nil
}

// await waits until the process has ended.
func (n *Node) await(limit time.Duration) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-n.exited:
		return nil
	case <-timer.C:
		return fmt.Errorf("proc: %s still runs after %v", n.name, limit)
	}
}
