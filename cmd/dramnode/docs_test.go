package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/dramnode/dramnode/test/proc"
)

// TestFaceDocs runs what docs/resp.md, docs/s3.md, docs/gcs.md and docs/tsgrpc.md tell people to type, on ports of the test.
func TestFaceDocs(t *testing.T) {
	for doc, c := range map[string]struct{ port, program string }{
		"resp": {"127.0.0.1:6379", "redis-cli"},
		"s3":   {"127.0.0.1:9000", "curl"},
		"gcs":  {"127.0.0.1:4443", "curl"},
		// The one that Debian's python3-grpcio belongs to.
		"tsgrpc": {"127.0.0.1:9833", "/usr/bin/python3"},
	} {
		t.Run(doc, func(t *testing.T) {
			needs(t, c.program)
			scripts, err := filepath.Abs(filepath.Join("..", "..", "scripts"))
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(filepath.Join("..", "..", "docs", doc+".md"))
			if err != nil {
				t.Fatal(err)
			}
			addr, face := netip.MustParseAddrPort(proc.Address(t, nil)), proc.Address(t, nil)
			_, facePort, _ := strings.Cut(face, ":")
			onTestPorts := strings.NewReplacer(c.port, face, "redis-cli ", "redis-cli --no-raw -p "+facePort+" ", "python3 scripts", "/usr/bin/python3 "+scripts)
			dir := t.TempDir()
			script := walkthrough(t, onTestPorts.Replace(string(text)))
			if err := os.WriteFile(filepath.Join(dir, doc+".txtar"), []byte(script), 0o600); err != nil {
				t.Fatal(err)
			}
			testscript.Run(t, testscript.Params{
				Dir: dir,
				Setup: func(env *testscript.Env) error {
					env.Setenv("DRAMNODE_LISTEN", addr.String())
					env.Setenv("DRAMNODE_ADDR", addr.String())
					env.Setenv("HTTP", netip.AddrPortFrom(addr.Addr(), addr.Port()+2).String())
					env.Setenv("FACE", face)
					return nil
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){"ready": ready, "accepts": accepts},
			})
		})
	}
}

// needs skips a test where a program is not installed, but in CI, where everything is.
func needs(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed (scripts/setup.sh --test)", program)
	}
	t.Skipf("%s is not installed (scripts/setup.sh --test)", program)
}

// A typed is a command in a console block, and the lines after it, which it must write.
type typed struct{ command, output string }

// console returns what the console blocks of a text say that one types, after "$ ".
func console(text string) (list []typed) {
	inside := false
	for line := range strings.Lines(text) {
		command, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case line == "```console\n":
			inside = true
		case line == "```\n":
			inside = false
		case inside && isCommand:
			list = append(list, typed{command: command})
		case inside && len(list) > 0:
			list[len(list)-1].output += line
		}
	}
	return list
}

// walkthrough makes a script of the console blocks of a text. A command that ends with & is a node: the next one
// waits until $HTTP says that it is ready, and $FACE takes connections.
func walkthrough(t *testing.T, text string) string {
	t.Helper()
	var script, files strings.Builder
	commands := console(text)
	if len(commands) < 5 {
		t.Fatalf("%d commands in the text", len(commands))
	}
	for i, c := range commands {
		if node, ok := strings.CutSuffix(c.command, " &\n"); ok {
			fmt.Fprintf(&script, "exec %s &\nready $HTTP\naccepts $FACE\n", node)
			continue
		}
		fmt.Fprintf(&script, "exec sh type-%d\ncmp stdout want-%d\n", i, i)
		fmt.Fprintf(&files, "-- type-%d --\n%s-- want-%d --\n%s", i, c.command, i, c.output)
	}
	return script.String() + files.String()
}

// accepts ADDR checks that somebody listens there.
func accepts(ts *testscript.TestScript, _ bool, args []string) {
	c, err := net.Dial("tcp", args[0])
	ts.Check(err)
	ts.Check(c.Close())
}
