package resp

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// program returns the path of an installed program, or skips the test.
func program(t *testing.T, name, hint string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed (%s)", name, hint)
	}
	return path
}

func TestGoRedis(t *testing.T) {
	addr, _, _ := serveNode(t, Config{Password: "secret"})
	ctx := t.Context()
	for _, protocol := range []int{3, 2} { // it asks for 3 first, and makes do
		c := redis.NewClient(&redis.Options{Addr: addr, Protocol: protocol, Password: "secret"})
		if err := c.Set(ctx, "k", "v", time.Minute).Err(); err != nil {
			t.Fatal(err)
		}
		if v, err := c.Get(ctx, "k").Result(); err != nil || v != "v" {
			t.Errorf("%q, %v", v, err)
		}
		if err := c.Get(ctx, "none").Err(); !errors.Is(err, redis.Nil) {
			t.Errorf("a missing key: %v", err)
		}
		if life, err := c.TTL(ctx, "k").Result(); err != nil || life <= 0 || life > time.Minute {
			t.Errorf("%v, %v", life, err)
		}
		if ok, err := c.SetNX(ctx, "k", "w", 0).Result(); err != nil || ok {
			t.Errorf("%v, %v", ok, err)
		}
		pipe := c.Pipeline()
		var gets []*redis.StringCmd
		for i := range 500 {
			pipe.Set(ctx, fmt.Sprint("p", i), i, 0)
			gets = append(gets, pipe.Get(ctx, fmt.Sprint("p", i)))
		}
		if _, err := pipe.Exec(ctx); err != nil {
			t.Fatal(err)
		}
		for i, get := range gets {
			if get.Val() != fmt.Sprint(i) {
				t.Errorf("p%d is %q", i, get.Val())
			}
		}
		var keys []string
		for it := c.Scan(ctx, 0, "p*", 100).Iterator(); it.Next(ctx); {
			keys = append(keys, it.Val())
		}
		if len(keys) != 500 || !slices.IsSorted(keys) {
			t.Errorf("%d keys", len(keys))
		}
		if n, err := c.Del(ctx, keys...).Result(); err != nil || n != 500 {
			t.Errorf("%d, %v", n, err)
		}
		if err := c.LPush(ctx, "list", 1).Err(); err == nil || !strings.Contains(err.Error(), "unknown command 'lpush'") {
			t.Errorf("LPUSH: %v", err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// runProgram runs a client to its end and returns what it wrote.
func runProgram(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func TestRedisCLI(t *testing.T) {
	cli := program(t, "redis-cli", "scripts/setup.sh --bench")
	addr, _, _ := serveNode(t, Config{})
	_, port, _ := strings.Cut(addr, ":")
	for _, c := range []struct{ args, want string }{
		{"ping", "PONG\n"}, {"set k v", "OK\n"}, {"get k", "v\n"}, {"-2 get k", "v\n"}, {"incr n", "1\n"}, {"--scan", "k\nn\n"}, {"what", "ERR unknown command 'what'"},
		{"-3 get k", "v\n"}, {"lpush l 1", "ERR unknown command 'lpush'"}, {"command count", ""}, {"info server", "redis_version:"},
	} {
		if got := runProgram(t, cli, append([]string{"-p", port}, strings.Fields(c.args)...)...); !strings.Contains(got, c.want) {
			t.Errorf("redis-cli %s: %q, want %q", c.args, got, c.want)
		}
	}
	// redis-cli --pipe sends everything before it reads.
	cmd := exec.Command(cli, "-p", port, "--pipe")
	var script strings.Builder
	for i := range 10_000 {
		script.Write(encode("SET", fmt.Sprint("pipe", i), "v"))
	}
	cmd.Stdin = strings.NewReader(script.String())
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "errors: 0, replies: 10000") {
		t.Errorf("--pipe: %s, %v", out, err)
	}
}

func TestRedisBenchmark(t *testing.T) {
	benchmark := program(t, "redis-benchmark", "scripts/setup.sh --bench")
	addr, _, cluster := serveNode(t, Config{})
	_, port, _ := strings.Cut(addr, ":")
	for _, args := range []string{"-t ping,set,get,incr,mset -n 2000 -c 20", "-t set,get -n 20000 -c 20 -P 64 -r 1000", "-t set,get -n 50 -c 4 -d 1048576"} {
		out := runProgram(t, benchmark, append([]string{"-p", port, "-q"}, strings.Fields(args)...)...)
		if !strings.Contains(out, "GET: ") || strings.Contains(out, "ERR") || strings.Contains(strings.ToLower(out), "warning") {
			t.Errorf("redis-benchmark %s: %s", args, out)
		}
	}
	if n := cluster.Node(0).Info().Entries; n < 1000 {
		t.Errorf("%d keys are left by the benchmark", n)
	}
}

// TestPythonClients runs redis-py, zarr and xarray, as Debian has them.
func TestPythonClients(t *testing.T) {
	const python = "/usr/bin/python3" // the one that Debian's packages belong to
	if out, err := exec.Command(python, "-c", "import redis, xarray, zarr").CombinedOutput(); err != nil {
		t.Skipf("python3-redis, python3-zarr and python3-xarray are not installed: %s", out)
	}
	addr, _, _ := serveNode(t, Config{})
	_, port, _ := strings.Cut(addr, ":")
	if out := runProgram(t, python, "-W", "ignore", filepath.Join("testdata", "clients.py"), port); !strings.HasSuffix(out, "ok\n") {
		t.Error(out)
	}
}
