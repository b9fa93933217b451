package resp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/gateway/conformance"
	"github.com/dramnode/dramnode/gateway/gatewaytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// face is the adapter of the conformance suite: everything through RESP.
type face struct{ *user }

func (f face) Read(_ context.Context, r conformance.Read) (conformance.Result, error) {
	reply := ""
	switch {
	case r.Whole:
		reply = f.do("GET", r.Key)
	case f.do("EXISTS", r.Key) == ":0\r\n": // GETRANGE has no word for it
		reply = "$-1\r\n"
	case r.Last > 0:
		reply = f.do("GETRANGE", r.Key, strconv.FormatInt(-r.Last, 10), "-1")
	case r.End == r.Start:
		reply = f.do("GETRANGE", r.Key, strconv.FormatInt(math.MaxInt32, 10), "-1")
	case r.End == conformance.All:
		reply = f.do("GETRANGE", r.Key, strconv.FormatInt(r.Start, 10), "-1")
	default:
		reply = f.do("GETRANGE", r.Key, strconv.FormatInt(r.Start, 10), strconv.FormatInt(r.End-1, 10))
	}
	if reply == "$-1\r\n" {
		return conformance.Result{State: conformance.Missing, Generation: conformance.NoValue}, nil
	}
	_, rest, ok := strings.Cut(reply, "\r\n")
	if reply[0] != '$' || !ok {
		return conformance.Result{}, errors.New(reply)
	}
	return conformance.Result{State: conformance.Value, Bytes: []byte(strings.TrimSuffix(rest, "\r\n"))}, nil
}

const known conformance.Generation = "written"

func (f face) Write(_ context.Context, key string, value []byte, condition conformance.Generation) (conformance.Generation, error) {
	args := []string{"SET", key, string(value)}
	if condition == conformance.NoValue {
		args = append(args, "NX")
	}
	switch reply := f.do(args...); reply {
	case "+OK\r\n":
		return known, nil
	case "$-1\r\n":
		return conformance.Unknown, nil
	default:
		return conformance.Unknown, errors.New(reply)
	}
}

func (f face) Delete(_ context.Context, key string, _ conformance.Generation) (conformance.Generation, error) {
	if reply := f.do("DEL", key); reply[0] != ':' {
		return conformance.Unknown, errors.New(reply)
	}
	return known, nil
}

func (f face) DeleteRange(context.Context, string, string) error { return errors.ErrUnsupported }

func (f face) List(ctx context.Context, min, max string, yield func(conformance.Entry) bool) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	pattern := "*"
	if min != "" {
		pattern = min + "*"
	}
	lines := strings.Split(f.do("KEYS", pattern), "\r\n")
	for i := 2; i < len(lines); i += 2 {
		size, err := strconv.ParseInt(strings.Trim(f.do("STRLEN", lines[i]), ":\r\n"), 10, 64)
		if err != nil {
			return err
		}
		if !yield(conformance.Entry{Key: lines[i], Size: size}) {
			return nil
		}
	}
	return nil
}

func (f face) Foreign() conformance.Generation { return "foreign" }

func (f face) Lacks(feature conformance.Feature) string {
	switch feature {
	case conformance.Ranges, conformance.Lists, conformance.LargeValues, conformance.IfAbsent:
		return ""
	case conformance.OutOfRange:
		return "GETRANGE clips"
	case conformance.DeleteRanges:
		return "DEL takes keys"
	case conformance.ServerTime:
		return "a read does not tell the time"
	}
	return "Redis has no generations"
}

func TestConformance(t *testing.T) {
	addr, _, _ := serveNode(t, Config{})
	conformance.Run(t, face{dial(t, addr)})
}

func TestReplicatedConformance(t *testing.T) {
	addr, _ := serve(t, Config{}, gatewaytest.NewCluster(t, 3, 64<<20, gatewaytest.Replicated), 1)
	conformance.Run(t, face{dial(t, addr)})
}

// Keys of three nodes: pipelines are answered in order, and effects on one key follow each other.
func TestPipelineOfManyOwners(t *testing.T) {
	testPipelineOfManyOwners(t, gatewaytest.NewCluster(t, 3, 64<<20))
}

func TestReplicatedPipeline(t *testing.T) {
	testPipelineOfManyOwners(t, gatewaytest.NewCluster(t, 3, 64<<20, gatewaytest.Replicated))
}

func testPipelineOfManyOwners(t *testing.T, cluster *gatewaytest.Cluster) {
	addr, _ := serve(t, Config{}, cluster, 1)
	u := dial(t, addr)
	const n = 3000
	var pipeline []byte
	var want strings.Builder
	long := strings.Repeat("0123456789", 3000)
	for i := range n {
		key := fmt.Sprintf("key%d", i%100)
		value := fmt.Sprint(i)
		if i%50 == 0 {
			value += long
		}
		pipeline = append(pipeline, encode("SET", key, value)...)
		pipeline = append(pipeline, encode("GET", key)...)
		pipeline = append(pipeline, encode("STRLEN", key)...)
		want.WriteString("+OK\r\n" + bulk(value) + fmt.Sprintf(":%d\r\n", len(value)))
	}
	done := make(chan error, 1)
	go func() {
		_, err := u.nc.Write(pipeline)
		done <- err
	}()
	got := make([]byte, want.Len())
	if _, err := io.ReadFull(u.r, got); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if string(got) != want.String() {
		t.Error("the replies differ from those of the commands in order")
	}
	u.want(":0\r\n", "DEL none")
	if got := u.do("DBSIZE"); got != ":100\r\n" {
		t.Errorf("DBSIZE %q", got)
	}
}

func TestCommandsOfManyKeys(t *testing.T) {
	addr, _, _ := serveNode(t, Config{})
	u := dial(t, addr)
	const n = 3000
	mset, mget, count := []string{"MSET"}, []string{"MGET"}, []string{"EXISTS"}
	want := fmt.Sprintf("*%d\r\n", n+1)
	for i := range n {
		key, value := fmt.Sprintf("k%d", i), fmt.Sprint(i)
		if i%500 == 0 {
			value = strings.Repeat("v", 50_000)
		}
		mset = append(mset, key, "before", key, value) // the last one counts
		mget, count = append(mget, key), append(count, key)
		want += bulk(value)
	}
	if got := u.do(mset...); got != "+OK\r\n" {
		t.Fatalf("MSET: %.100q", got)
	}
	if got := u.do(append(mget, "none")...); got != want+"$-1\r\n" {
		t.Errorf("MGET: %d bytes, want %d", len(got), len(want)+5)
	}
	if got := u.do(append(count, "none", "k1")...); got != fmt.Sprintf(":%d\r\n", n+1) {
		t.Errorf("EXISTS: %q", got)
	}
	count[0] = "DEL"
	if got := u.do(append(count, "k1")...); got != fmt.Sprintf(":%d\r\n", n) {
		t.Errorf("DEL: %q", got)
	}
}

// What changes a value by what it was is atomic: no increase is lost, whichever node it goes through.
func TestUpdatesAreAtomic(t *testing.T) {
	testUpdatesAreAtomic(t, gatewaytest.NewCluster(t, 2, 64<<20))
}

func TestReplicatedUpdatesAreAtomic(t *testing.T) {
	testUpdatesAreAtomic(t, gatewaytest.NewCluster(t, 3, 64<<20, gatewaytest.Replicated))
}

func testUpdatesAreAtomic(t *testing.T, cluster *gatewaytest.Cluster) {
	const users, rounds = 4, 100
	var wg sync.WaitGroup
	for i := range users {
		addr, _ := serve(t, Config{}, cluster, i%2)
		u := dial(t, addr)
		wg.Go(func() {
			for range rounds {
				for _, command := range []string{"INCR n", "APPEND a x", "INCRBY n 2"} {
					if _, err := u.nc.Write(encode(strings.Fields(command)...)); err != nil {
						t.Error(err)
						return
					}
					if reply, err := readReply(u.r, nil); err != nil || reply[0] != ':' {
						t.Errorf("%s: %q, %v", command, reply, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	addr, _ := serve(t, Config{}, cluster, 0)
	u := dial(t, addr)
	u.want(bulk(fmt.Sprint(3*users*rounds)), "GET n")
	u.want(fmt.Sprintf(":%d\r\n", users*rounds), "STRLEN a")
}

// What reads and writes in one is one step for everybody: of many who ask at once, through any node, one gets its wish.
func TestOneWinner(t *testing.T) {
	cluster := gatewaytest.NewCluster(t, 2, 64<<20)
	const users, rounds = 8, 20
	var faces [users]*user
	for i := range 2 {
		addr, _ := serve(t, Config{}, cluster, i)
		for j := i; j < users; j += 2 {
			faces[j] = dial(t, addr)
		}
	}
	for name, c := range map[string]struct{ before, command, won string }{
		"GETDEL":     {"SET k v", "GETDEL k", bulk("v")},
		"SET NX":     {"DEL k", "SET k v NX", "+OK\r\n"},
		"SETNX":      {"DEL k", "SETNX k v", ":1\r\n"},
		"SET IFEQ":   {"SET k v", "SET k w IFEQ v", "+OK\r\n"},
		"SET GET":    {"SET k v", "SET k w GET", bulk("v")},
		"GETSET":     {"SET k v", "GETSET k w", bulk("v")},
		"INCR":       {"SET k 6", "INCR k", ":7\r\n"},
		"PERSIST":    {"SET k v EX 100", "PERSIST k", ":1\r\n"},
		"EXPIRE NX":  {"SET k v", "EXPIRE k 100 NX", ":1\r\n"},
		"GETEX PXAT": {"SET k v", "GETEX k PXAT 1", bulk("v")},
		"DEL":        {"SET k v", "DEL k", ":1\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			for range rounds {
				faces[0].do(strings.Fields(c.before)...)
				for _, u := range faces {
					u.send(encode(strings.Fields(c.command)...))
				}
				won := 0
				for _, u := range faces {
					if u.reply() == c.won {
						won++
					}
				}
				if won != 1 {
					t.Errorf("%d of %d users won", won, users)
				}
			}
		})
	}
}

func TestIfEqual(t *testing.T) {
	addr, _, _ := serveNode(t, Config{})
	u := dial(t, addr)
	u.want("$-1\r\n", "SET k v IFEQ x")
	u.want(":0\r\n", "EXISTS k")
	u.want("+OK\r\n", "SET k v")
	u.want("$-1\r\n", "SET k w IFEQ x")
	u.want(bulk("v"), "SET k w IFEQ x GET")
	u.want("+OK\r\n", "SET k w IFEQ v EX 100")
	u.want(bulk("w"), "SET k x IFEQ w GET KEEPTTL")
	u.want(":100\r\n", "TTL k")
	u.want("-"+syntaxError+"\r\n", "SET k x IFEQ w NX")
	u.want("-"+syntaxError+"\r\n", "SET k x XX IFEQ w")
	u.want("-"+syntaxError+"\r\n", "SET k x IFEQ")
}

func TestPassword(t *testing.T) {
	addr, _, _ := serveNode(t, Config{Password: "open sesame"})
	u := dial(t, addr)
	u.want("-"+noAuth+"\r\n", "GET k")
	u.want("-"+noAuth+"\r\n", "WHAT k")
	u.want("-"+wrongPassword+"\r\n", "AUTH open")
	u.want("-"+helloFirst+"\r\n", "HELLO 2")
	if got := u.do("AUTH", "somebody", "open sesame"); got != "-"+wrongPassword+"\r\n" {
		t.Errorf("another user: %q", got)
	}
	if got := u.do("HELLO", "2", "AUTH", "default", "open sesame", "SETNAME", "me"); !strings.HasPrefix(got, "*14\r\n") {
		t.Errorf("HELLO: %q", got)
	}
	u.want(bulk("me"), "CLIENT GETNAME")
	u.want("$-1\r\n", "GET k")
	u.want("+RESET\r\n", "RESET")
	u.want("-"+noAuth+"\r\n", "GET k")
	if got := u.do("AUTH", "open sesame"); got != "+OK\r\n" {
		t.Errorf("AUTH: %q", got)
	}
	u.want("+OK\r\n", "SET k v")

	for sent, want := range map[string]string{
		"*11\r\n":                       "-ERR Protocol error: unauthenticated multibulk length\r\n",
		"*2\r\n$3\r\nGET\r\n$16385\r\n": "-ERR Protocol error: unauthenticated bulk length\r\n",
	} {
		stranger := dial(t, addr)
		stranger.send([]byte(sent))
		if got := stranger.reply(); got != want {
			t.Errorf("%q: %q", sent, got)
		}
		stranger.ends()
	}
}

func TestHello(t *testing.T) {
	addr, _, _ := serveNode(t, Config{})
	u := dial(t, addr)
	u.want("-NOPROTO unsupported protocol version\r\n", "HELLO 3")
	for _, command := range []string{"HELLO", "HELLO 2"} {
		if got := u.do(strings.Fields(command)...); !strings.HasPrefix(got, "*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n") || !strings.Contains(got, "$5\r\nproto\r\n:2\r\n") {
			t.Errorf("%s: %q", command, got)
		}
	}
	u.want("+OK\r\n", "QUIT")
	u.ends()
}

func TestCursors(t *testing.T) {
	addr, _, _ := serveNode(t, Config{})
	u := dial(t, addr)
	for _, cursor := range []string{"1", "-1", "x", "18446744073709551616", ""} {
		if got := u.do("SCAN", cursor); got != "-ERR invalid cursor\r\n" {
			t.Errorf("cursor %q: %q", cursor, got)
		}
	}
	var table cursors
	for i := range maxCursors + 10 {
		if c := table.add(fmt.Append(nil, i)); c != uint64(i)+1 {
			t.Fatalf("cursor %d", c)
		}
	}
	for cursor, known := range map[uint64]bool{0: false, 1: false, 10: false, 11: true, maxCursors + 10: true, maxCursors + 11: false} {
		if after, ok := table.get(cursor); ok != known || ok && string(after) != fmt.Sprint(cursor-1) {
			t.Errorf("cursor %d: %q, %v", cursor, after, ok)
		}
	}
	if len(table.after) != maxCursors {
		t.Errorf("%d cursors are kept", len(table.after))
	}
}

// Long values are sent from the store's memory, which is given back.
func TestLongValues(t *testing.T) {
	addr, s, cluster := serveNode(t, Config{})
	u := dial(t, addr)
	value := strings.Repeat("0123456789abcdef", 1<<16)
	for range 3 {
		if got := u.do("SET", "k", value); got != "+OK\r\n" {
			t.Fatal(got)
		}
		if got := u.do("GET", "k"); got != bulk(value) {
			t.Fatalf("%d bytes", len(got))
		}
		if got := u.do("GETRANGE", "k", "-100000", "-2"); got != bulk(value[len(value)-100000:len(value)-1]) {
			t.Fatalf("%d bytes", len(got))
		}
		if got := u.do("GETDEL", "k"); got != bulk(value) {
			t.Fatalf("%d bytes", len(got))
		}
	}
	u.want("$-1\r\n", "GET k")
	if leased := cluster.Node(0).Info().Memory.Leased; leased != 0 {
		t.Errorf("%d bytes are leased", leased)
	}
	if got := u.do("SET", "k", strings.Repeat("v", gatewaytest.MaxValueBytes+1)); got != "-"+tooLong+"\r\n" {
		t.Errorf("a value that is too long: %q", got)
	}
	if got := u.do("APPEND", "k", strings.Repeat("v", gatewaytest.MaxValueBytes)); got != fmt.Sprintf(":%d\r\n", gatewaytest.MaxValueBytes) {
		t.Errorf("the longest value: %q", got)
	}
	if got := u.do("APPEND", "k", "v"); got != "-"+tooLong+"\r\n" {
		t.Errorf("one byte more: %q", got)
	}
	u.nc.Close()
	for end := time.Now().Add(patience); s.budget.used.Load() != 0 || s.connections() != 0; <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d bytes of buffers and %d connections are left", s.budget.used.Load(), s.connections())
		}
	}
}

// When the owner of a key is gone, commands on its keys fail with a word that says that nothing happened, and
// the others go on.
func TestOwnerDies(t *testing.T) {
	cluster := gatewaytest.NewCluster(t, 3, 64<<20)
	inside := cluster.Inside(0)
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	addr := gatewaytest.Serve(t, s.Serve, inside)
	u := dial(t, addr)
	mine, theirs := string(cluster.Owned(0, inside, "k")), string(cluster.Owned(2, inside, "k"))
	u.want("+OK\r\n", "MSET "+mine+" 1 "+theirs+" 1")
	cluster.Kill(2)
	u.want(":2\r\n", "INCR "+mine)
	reads := map[string]bool{"GET": true, "MGET": true, "KEYS": true, "DBSIZE": true}
	var wg sync.WaitGroup // each takes as long as it may
	for _, command := range []string{"GET " + theirs, "SET " + theirs + " 2", "INCR " + theirs, "MGET " + mine + " " + theirs, "DEL " + theirs, "KEYS *", "DBSIZE"} {
		v := dial(t, addr)
		v.send(encode(strings.Fields(command)...))
		wg.Go(func() {
			got, err := readReply(v.r, nil)
			down := strings.HasPrefix(string(got), "-CLUSTERDOWN ")
			// A write that was on its way when the owner died may have been applied.
			unknown := strings.HasPrefix(string(got), "-ERR ") && strings.Contains(string(got), dramnode.ErrUnknownOutcome.Error())
			if err != nil || !down && (reads[strings.Fields(command)[0]] || !unknown) {
				t.Errorf("%s: %q, %v", command, got, err)
			}
		})
	}
	wg.Wait()
	u.want(bulk("2"), "GET "+mine)
}

// When an owner dies in the middle of a pipeline, of which some is answered, some is under way and one command has come
// by half, every command gets its reply in its place, and keys of other owners are as their writers were told.
func TestOwnerDiesInPipeline(t *testing.T) {
	cluster := gatewaytest.NewCluster(t, 3, 128<<20)
	cluster.Timeout = time.Second // for each of the few commands that need the dead one
	addr, _ := serve(t, Config{}, cluster, 0)
	inside := cluster.Inside(0)
	mine, theirs := string(cluster.Owned(0, inside, "k")), string(cluster.Owned(2, inside, "k"))
	const n = 600 // 38 MiB of replies, far more than the buffers between the face and its client
	const every = 150
	value := func(i int) string { return strings.Repeat(strconv.Itoa(i%10), 64<<10) + strconv.Itoa(i) }
	u := dial(t, addr)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := range n {
			commands := slices.Concat(encode("SET", mine, value(i)), encode("GET", mine))
			if i%every == 0 {
				commands = append(commands, encode("SET", theirs, value(i))...)
			}
			if _, err := u.nc.Write(commands); err != nil {
				return // a missing reply shows it
			}
		}
		last := encode("SET", theirs, strings.Repeat("x", 1<<20))
		_, _ = u.nc.Write(last[:1<<19])
		_, _ = u.nc.Write(append(last[1<<19:], encode("PING")...))
	}()
	fails := 0
	failed := func(got string) bool {
		return strings.HasPrefix(got, "-CLUSTERDOWN ") || strings.HasPrefix(got, "-TRYAGAIN ") || strings.Contains(got, dramnode.ErrUnknownOutcome.Error())
	}
	for i := range n {
		if i == n/20 {
			cluster.Kill(2)
		}
		if got := u.reply(); got != "+OK\r\n" {
			t.Fatalf("write %d of a living owner: %.200q", i, got)
		}
		if got := u.reply(); got != bulk(value(i)) {
			t.Fatalf("read %d: %.200q", i, got)
		}
		if i%every != 0 {
			continue
		}
		if got := u.reply(); got != "+OK\r\n" && !failed(got) {
			t.Fatalf("write %d of a dead owner: %.200q", i, got)
		} else if got != "+OK\r\n" {
			fails++
		}
	}
	<-sent
	if got := u.reply(); !failed(got) {
		t.Errorf("the write that was cut in two: %.200q", got)
	}
	if got := u.reply(); got != "+PONG\r\n" || fails == 0 {
		t.Errorf("behind it: %q, after %d errors", got, fails)
	}
}

func TestFaultOf(t *testing.T) {
	for err, code := range map[error]string{
		dramnode.ErrUnavailable: "CLUSTERDOWN", dramnode.ErrNoQuorum: "CLUSTERDOWN", dramnode.ErrBusy: "TRYAGAIN", dramnode.ErrNoMemory: "OOM",
		dramnode.ErrUnknownOutcome: "ERR", dramnode.ErrInvalid: "ERR", dramnode.ErrTooLarge: "ERR", dramnode.ErrCorrupt: "ERR",
		fmt.Errorf("%w: %w", dramnode.ErrUnknownOutcome, dramnode.ErrUnavailable): "ERR",
	} {
		if got, _, _ := strings.Cut(faultOf(err), " "); got != code {
			t.Errorf("%v: %s, want %s", err, got, code)
		}
	}
}

func TestNew(t *testing.T) {
	for _, cfg := range []Config{{MaxConns: -1}, {BufferBytes: 1}, {Password: strings.Repeat("p", maxPasswordBytes+1)}} {
		if _, err := New(cfg); !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}
