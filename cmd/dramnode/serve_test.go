package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/node"
	"github.com/dramnode/dramnode/ring"
)

// configOf is the node configuration that a command line makes.
func configOf(t *testing.T, args ...string) (node.Config, error) {
	t.Helper()
	a := &app{stderr: os.Stderr, lookup: func(string) (string, bool) { return "", false }}
	serve, _, err := a.root().Find([]string{"serve"})
	if err != nil {
		t.Fatal(err)
	}
	if err := serve.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	if err := a.load(); err != nil {
		t.Fatal(err)
	}
	return a.nodeConfig()
}

func TestServeDefaults(t *testing.T) {
	c, err := configOf(t)
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:12345" || c.Gossip != "127.0.0.1:12346" || c.HTTP != "127.0.0.1:12347" || c.Advertise != c.Listen || c.Name != c.Listen {
		t.Errorf("addresses: %+v", c)
	}
	if c.MemoryBytes != 1<<30 || c.MaxValueBytes != 64<<20 || c.Settings.Partitions != 1031 || c.DrainTimeout != time.Minute || c.ClusterName != "default" || c.ClusterKey != nil || c.Replicas != 1 || c.Lease != time.Second {
		t.Errorf("limits: %+v", c)
	}
}

func TestServeFlags(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := configOf(t, "--listen", "0.0.0.0:7000", "--advertise", "node-1:7100", "--cluster-key-file", key,
		"--join", "node-2,node-3:9", "--join", "10.0.0.4", "--memory", "2g", "--max-value", "1MiB",
		"--routing", "explicit", "--rule", "a=b/=n1", "--rule", "c/=n2", "--partitions", "17")
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "node-1:7100" || c.Gossip != "0.0.0.0:7001" || c.GossipAdvertise != "node-1:7001" || c.HTTP != "0.0.0.0:7002" {
		t.Errorf("addresses: %+v", c)
	}
	if want := []string{"node-2:12346", "node-3:9", "10.0.0.4:12346"}; !slices.Equal(c.Join, want) {
		t.Errorf("join %q, want %q", c.Join, want)
	}
	if want := []ring.Rule{{Prefix: "a=b/", Node: "n1"}, {Prefix: "c/", Node: "n2"}}; !slices.Equal(c.Settings.Rules, want) || c.Settings.Partitions != 17 {
		t.Errorf("settings %+v", c.Settings)
	}
	if string(c.ClusterKey) != "0123456789abcdef" || c.MemoryBytes != 2<<30 || c.MaxValueBytes != 1<<20 {
		t.Errorf("%+v", c)
	}
	c, err = configOf(t, "--replicas", "3", "--min-sync", "2", "--lease", "3s", "--on-loss", "refuse", "--lost-after", "2m")
	if err != nil || c.Replicas != 3 || c.MinSync != 2 || c.Lease != 3*time.Second || c.OnLoss != state.Refuse || c.LostAfter != 2*time.Minute {
		t.Errorf("%+v, %v", c, err)
	}
	c, err = configOf(t, "--routing", "range", "--split", "g,n", "--split", "t")
	if err != nil || len(c.Settings.Splits) != 3 || string(c.Settings.Splits[2]) != "t" {
		t.Errorf("splits %q, %v", c.Settings.Splits, err)
	}
}

func TestServeFaults(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--listen localhost:1", `--listen "localhost:1": want IP:port`},
		{"--listen 127.0.0.1:65535", "leaves no port for"},
		{"--gossip nowhere", `--gossip "nowhere": want IP:port`},
		{"--listen 0.0.0.0:1 --insecure", "--advertise must say"},
		{"--listen 10.0.0.1:1", "give --cluster-key-file, or --insecure"},
		{"--gossip 10.0.0.1:1", "give --cluster-key-file, or --insecure"},
		{"--advertise host", `--advertise "host": want host:port`},
		{"--join host:0", `--join "host:0": want host:port`},
		{"--shm maybe", `"maybe"`},
		{"--routing random", `"random", want hash, range or explicit`},
		{"--rule prefix", `--rule "prefix", want PREFIX=NODE`},
		{"--split a", "strategy is hash"},
		{"--partitions 0", "--partitions 0"},
		{"--partitions 70000", "70000"},
		{"--memory 1KiB", "memory"},
		{"--memory 0", "--memory 0"},
		{"--max-value 0", "--max-value 0"},
		{"--drain-timeout 0s", "--drain-timeout 0"},
		{"--replicas 0", "--replicas 0"},
		{"--replicas 6", "replicas 6, at most 5"},
		{"--replicas 3 --min-sync 4", "min-sync 4, want 1 to replicas (3)"},
		{"--replicas 3 --lease 10ms", "lease of 10ms"},
		{"--replicas 3 --lease 0s", "--lease 0"},
		{"--replicas 3 --lost-after 0s", "--lost-after 0"},
		{"--replicas 3 --lost-after -1s", "lost-after of -1s"},
		{"--on-loss cry", `--on-loss: dramnode: invalid argument: on-loss "cry", want recreate or refuse`},
		{"--replicas 3 --eviction s3fifo", "eviction s3fifo with 3 replicas"},
		{"--name a\x1b[2J", `--name "a\x1b[2J"`},
		{"--zone " + strings.Repeat("z", 129), "--zone"},
		{"--log-level loud", "--log-level"},
		{"--log-format xml", "--log-format"},
		{"--cluster-key-file /does/not/exist", "no such file"},
		{"--log-level loud --partitions 0 --listen nowhere", "--partitions 0"}, // all faults at once
	} {
		_, err := configOf(t, strings.Fields(c.args)...)
		if !errors.Is(err, dramnode.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want ErrInvalid with %q", c.args, err, c.want)
		}
	}
	if _, err := configOf(t, "--listen", "10.0.0.1:1", "--insecure"); err != nil {
		t.Errorf("--insecure: %v", err)
	}
}

func TestServeJoinsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed, start := errors.New("out of ports"), time.Now()
		ends := []error{control.ErrRetired, fmt.Errorf("told so: %w", control.ErrRetired), failed}
		lives := 0
		err := serve(t.Context(), zerolog.Nop(), func(context.Context) error {
			lives++
			return ends[lives-1]
		})
		if !errors.Is(err, failed) || lives != 3 || time.Since(start) != 2*againAfter {
			t.Errorf("%d lives in %v, %v; want 3 with pauses", lives, time.Since(start), err)
		}
	})
}

// A signal during the pause ends the process; it must not join once more.
func TestServeEndsBetweenLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), againAfter/2)
		defer cancel()
		lives := 0
		err := serve(ctx, zerolog.Nop(), func(context.Context) error { lives++; return control.ErrRetired })
		if err != nil || lives != 1 {
			t.Errorf("%d lives, %v", lives, err)
		}
	})
}
