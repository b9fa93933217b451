package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/test/proc"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"dramnode": main})
}

// Each script runs real processes. $ADDR, and $ADDR2 to $ADDR4, are listen addresses whose next two ports, $GOSSIP and
// $HTTP, are free too, $LONGEST is the longest key, $TOOLONG one byte more.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			for _, node := range []string{"", "2", "3", "4"} {
				addr := netip.MustParseAddrPort(proc.Address(t, nil))
				env.Setenv("ADDR"+node, addr.String())
				env.Setenv("GOSSIP"+node, netip.AddrPortFrom(addr.Addr(), addr.Port()+1).String())
				env.Setenv("HTTP"+node, netip.AddrPortFrom(addr.Addr(), addr.Port()+2).String())
			}
			env.Setenv("LONGEST", strings.Repeat("k", dramnode.MaxKeyBytes))
			env.Setenv("TOOLONG", strings.Repeat("k", dramnode.MaxKeyBytes+1))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits,
			"ready": ready,
			"until": until,
			"hold":  hold,
			"fill":  fill,
		},
	})
}

// exits CODE COMMAND... checks how a command ends.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got, err := 0, ts.Exec(args[1], args[2:]...)
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v: %v", args[1:], err)
	}
	if got != want {
		ts.Fatalf("%v ends with exit code %d, want %d", args[1:], got, want)
	}
}

// until PATTERN COMMAND... repeats a command until what it writes matches.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until PATTERN COMMAND...")
	}
	wanted := regexp.MustCompile(args[0])
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if ts.Exec(args[1], args[2:]...) == nil && wanted.MatchString(ts.ReadFile("stdout")) {
			return
		}
		<-time.After(100 * time.Millisecond) // between two looks
	}
	ts.Fatalf("%v never writes %s", args[1:], args[0])
}

// ready HTTP waits until a node serves.
func ready(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: ready HTTP")
	}
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	last := error(nil)
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		resp, err := client.Get("http://" + args[0] + "/readyz")
		if last = err; err == nil {
			if err := resp.Body.Close(); err != nil {
				ts.Fatalf("%v", err)
			}
			if resp.StatusCode == http.StatusOK {
				return
			}
			last = fmt.Errorf("/readyz answers %s", resp.Status)
		}
		<-time.After(20 * time.Millisecond) // between two questions, not instead of one
	}
	ts.Fatalf("%s is not ready: %v", args[0], last)
}

// hold ADDR listens on an address until the script ends.
func hold(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", args[0])
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
}

// fill FILE BYTES makes a file of that size.
func fill(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), bytes.Repeat([]byte("0123456789abcde\n"), n/16+1)[:n], 0o600))
}

// The scripts see what is written to the terminal's place: files and pipes are none.
func TestTerminal(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if terminal(null) || terminal(file) {
		t.Error("a file or the null device counts as a terminal")
	}
}
