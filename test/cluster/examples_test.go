package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dramnode/dramnode/test/proc"
)

// example builds a program of the examples folder and returns how to run it.
func example(t *testing.T, name string) func(args ...string) *exec.Cmd {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", path, "github.com/dramnode/dramnode/examples/"+name).CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", name, err, out)
	}
	return func(args ...string) *exec.Cmd { return exec.CommandContext(t.Context(), path, args...) }
}

func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}

func TestExamplesOnThreeNodes(t *testing.T) {
	s := newStory(t)
	s.name = "default" // the examples know no other
	s.start(3)
	s.agree(s.nodes...)
	addrs := s.addrs()
	output(t, example(t, "writer")("-addrs", addrs[0]))
	if wrote := output(t, example(t, "multiwriter")("-addrs", addrs[1])); strings.Count(wrote, "\n") < 13 {
		t.Errorf("multiwriter stored less than 13 values:\n%s", wrote)
	}
	read := output(t, example(t, "reader")("-addrs", addrs[2]))
	for _, want := range []string{"user:1", "config:", "session:", "metrics:", "document:", "0.125", "not found"} {
		if !strings.Contains(read, want) {
			t.Errorf("reader does not show %q:\n%s", want, read)
		}
	}
	piped := output(t, example(t, "pipeline")("-addrs", strings.Join(addrs, ",")))
	t.Logf("pipeline:\n%s", piped)
}

func TestExampleServerServes(t *testing.T) {
	listen := proc.Address(t, nil)
	cmd := example(t, "server")("-listen", listen, "-gossip", gossipOf(listen))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write := example(t, "writer")
	deadline := time.Now().Add(settleLimit)
	for out, err := write("-addrs", listen).CombinedOutput(); err != nil; out, err = write("-addrs", listen).CombinedOutput() {
		if time.Now().After(deadline) {
			t.Fatalf("writer: %v\n%s", err, out)
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("server: %v", err)
	}
}
