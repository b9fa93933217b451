package resp

import (
	"bufio"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dramnode/dramnode/test/proc"
)

// startRedis runs a Redis server for the test and returns a connection to it.
func startRedis(t *testing.T) *user {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not installed (scripts/setup.sh --bench)")
	}
	_, port, _ := strings.Cut(proc.Address(t, nil), ":")
	cmd := exec.Command(path, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", t.TempDir())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // its exit code is of no interest
	})
	addr := "127.0.0.1:" + port
	for end := time.Now().Add(patience); ; <-time.After(10 * time.Millisecond) {
		out, err := exec.Command("redis-cli", "-p", port, "ping").Output()
		if err == nil && strings.HasPrefix(string(out), "PONG") {
			return dial(t, addr)
		}
		if time.Now().After(end) {
			t.Fatalf("redis-server does not answer: %s, %v", out, err)
		}
	}
}

// words splits a line of the script.
func words(t *testing.T, line string) []string {
	t.Helper()
	var list []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimLeft(line, " ") {
		word, rest, _ := strings.Cut(line, " ")
		if line[0] == '"' {
			quoted, err := strconv.QuotedPrefix(line)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if word, err = strconv.Unquote(quoted); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			rest = line[len(quoted):]
		}
		list, line = append(list, word), rest
	}
	return list
}

func TestAnswersAsRedis(t *testing.T) {
	redis := startRedis(t)
	addr, _, _ := serveNode(t, Config{})
	face := dial(t, addr)
	f, err := os.Open(filepath.Join("testdata", "compare.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	n, compared := 0, map[string]bool{"quit": true, "info": true, "command": true} // these tell of themselves, or end the script
	for lines.Scan() {
		line, about := strings.CutPrefix(lines.Text(), "~")
		if line == "" || line[0] == '#' {
			continue
		}
		n++
		args := words(t, line)
		compared[strings.ToLower(args[0])] = true
		want, got := redis.do(args...), face.do(args...)
		if about && near(got, want) {
			continue
		}
		if got != want {
			t.Errorf("%s\n face %q\nredis %q", line, got, want)
		}
	}
	if err := lines.Err(); err != nil || n < 200 {
		t.Fatalf("%d commands, %v", n, err)
	}
	compared["dbsize"] = true // in TestScanAsRedis
	for _, c := range table() {
		if !compared[c.name] {
			t.Errorf("%s is compared nowhere", c.name)
		}
	}
}

// near compares two integers that are times in seconds or milliseconds.
func near(got, want string) bool {
	a, err := strconv.ParseInt(strings.TrimSpace(got[1:]), 10, 64)
	b, err2 := strconv.ParseInt(strings.TrimSpace(want[1:]), 10, 64)
	limit := 1.0
	if b > 20_000 {
		limit = 1000
	}
	return err == nil && err2 == nil && a > 0 && math.Abs(float64(a-b)) <= limit
}

// TestRandomCommandsAsRedis sends pipelines of random commands on a few keys.
func TestRandomCommandsAsRedis(t *testing.T) {
	redis := startRedis(t)
	addr, _, _ := serveNode(t, Config{})
	face := dial(t, addr)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	key := func() string { return fmt.Sprintf("k%d", random.IntN(6)) }
	value := func() string {
		return []string{"", "1", "-7", "abc", "9223372036854775807", strings.Repeat("x", random.IntN(40_000))}[random.IntN(6)]
	}
	number := func() string { return strconv.Itoa(random.IntN(13) - 6) }
	makers := []func() []string{
		func() []string { return []string{"GET", key()} },
		func() []string { return []string{"SET", key(), value()} },
		func() []string { return []string{"SET", key(), value(), "NX"} },
		func() []string { return []string{"SET", key(), value(), "XX", "GET"} },
		func() []string { return []string{"SET", key(), value(), "KEEPTTL"} },
		func() []string { return []string{"SET", key(), value(), "EX", "1000"} },
		func() []string { return []string{"MGET", key(), key(), key()} },
		func() []string { return []string{"MSET", key(), value(), key(), value()} },
		func() []string { return []string{"DEL", key(), key()} },
		func() []string { return []string{"EXISTS", key(), key()} },
		func() []string { return []string{"TTL", key()} },
		func() []string { return []string{"EXPIRE", key(), "1000"} },
		func() []string { return []string{"EXPIRE", key(), number()} },
		func() []string { return []string{"PERSIST", key()} },
		func() []string { return []string{"STRLEN", key()} },
		func() []string { return []string{"GETRANGE", key(), number(), number()} },
		func() []string { return []string{"INCRBY", key(), number()} },
		func() []string { return []string{"DECR", key()} },
		func() []string { return []string{"APPEND", key(), "y"} },
		func() []string { return []string{"GETDEL", key()} },
		func() []string { return []string{"GETEX", key(), "PERSIST"} },
		func() []string { return []string{"TYPE", key()} },
		func() []string { return []string{"KEYS", key()} },
		func() []string { return []string{"NONSENSE", key()} },
	}
	for range 150 {
		var pipeline []byte
		var sent [][]string
		for range 1 + random.IntN(40) {
			args := makers[random.IntN(len(makers))]()
			// Lives of a few seconds would end at different moments.
			if args[0] == "EXPIRE" && args[2][0] != '-' && args[2] != "0" {
				args[2] = "1000"
			}
			sent, pipeline = append(sent, args), append(pipeline, encode(args...)...)
		}
		done := make(chan struct{})
		go func() { // large replies must be read while the commands are written
			defer close(done)
			_, _ = redis.nc.Write(pipeline) // a failure shows as a missing reply
			_, _ = face.nc.Write(pipeline)
		}()
		for i, args := range sent {
			want, got := redis.reply(), face.reply()
			if want != got && !(args[0] == "TTL" && near(got, want)) {
				t.Fatalf("seed %d, command %d, %.80q\n face %.200q\nredis %.200q\nbefore: %.80q", seed, i, args, got, want, sent[max(0, i-10):i])
			}
		}
		<-done
	}
}

// TestScanAsRedis compares the keys of whole scans, which come in another order.
func TestScanAsRedis(t *testing.T) {
	redis := startRedis(t)
	addr, _, _ := serveNode(t, Config{})
	face := dial(t, addr)
	for i := range 500 {
		for _, u := range []*user{redis, face} {
			u.want("+OK\r\n", fmt.Sprintf("SET key:%d:%d v", i%7, i))
		}
	}
	for _, options := range []string{"", "MATCH key:3:*", "MATCH key:[1-3]:?1 COUNT 3", "COUNT 100 TYPE string", "COUNT 1000 TYPE zset"} {
		want, got := scanAll(t, redis, options), scanAll(t, face, options)
		if !slices.Equal(want, got) {
			t.Errorf("SCAN %s: %d keys, want %d", options, len(got), len(want))
		}
	}
	for _, pattern := range []string{"*", "key:*", "key:3:*", "*:3:*", "key:?:1?", "key:[^3]:*", "none"} {
		want, got := strings.Split(redis.do("KEYS", pattern), "\r\n"), strings.Split(face.do("KEYS", pattern), "\r\n")
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(want, got) {
			t.Errorf("KEYS %s: %d lines, want %d", pattern, len(got), len(want))
		}
	}
	if want, got := redis.do("DBSIZE"), face.do("DBSIZE"); want != got {
		t.Errorf("DBSIZE %q, want %q", got, want)
	}
}

// scanAll scans to the end and returns the keys in order, each once.
func scanAll(t *testing.T, u *user, options string) []string {
	t.Helper()
	var found []string
	cursor := "0"
	for range 2000 {
		lines := strings.Split(u.do(append([]string{"SCAN", cursor}, strings.Fields(options)...)...), "\r\n")
		if lines[0] != "*2" {
			t.Fatalf("SCAN %s %s: %q", cursor, options, lines)
		}
		for i := 5; i < len(lines); i += 2 {
			found = append(found, lines[i])
		}
		if cursor = lines[2]; cursor == "0" {
			slices.Sort(found)
			return slices.Compact(found)
		}
	}
	t.Fatalf("SCAN %s does not end", options)
	return nil
}
