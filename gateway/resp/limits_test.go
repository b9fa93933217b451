package resp

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// What cannot be a command is answered once, and ends the connection.
func TestBadInput(t *testing.T) {
	addr, _, _ := serveNode(t, Config{})
	for _, c := range []struct{ name, sent, reply string }{
		{"a line of 1 MB", strings.Repeat("x", 1<<20) + "\r\n", "-ERR Protocol error: too big inline request\r\n"},
		{"a line without an end", strings.Repeat("x", 1<<20), "-ERR Protocol error: too big inline request\r\n"},
		{"too many arguments", "*131073\r\n", "-ERR Protocol error: invalid multibulk length\r\n"},
		{"a bulk of 512 MB", "*2\r\n$3\r\nGET\r\n$536870912\r\n", "-ERR Protocol error: invalid bulk length\r\n"},
		{"a bulk of negative length", "*2\r\n$3\r\nGET\r\n$-100\r\n", "-ERR Protocol error: invalid bulk length\r\n"},
		{"no bulk", "*1\r\n:1\r\n", "-ERR Protocol error: expected '$', got ':'\r\n"},
		{"an open quote", "GET \"k\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"},
		{"another protocol", "$3\r\nGET\r\n", "-ERR Protocol error: expected '*', got '$'\r\n"},
		{"a web browser", "POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := dial(t, addr)
			go func() { _, _ = u.nc.Write(append(encode("SET", "k", "v"), c.sent...)) }() // the server may not read all
			if got := u.reply(); got != "+OK\r\n" {
				t.Errorf("what came before: %q", got)
			}
			if c.reply != "" {
				if got := u.reply(); got != c.reply {
					t.Errorf("%q", got)
				}
			}
			u.ends()
		})
	}
}

// What a client may send, and no key can be, is answered and changes nothing.
func TestBadKeys(t *testing.T) {
	addr, _, _ := serveNode(t, Config{})
	u := dial(t, addr)
	for _, key := range []string{"", strings.Repeat("k", 4097), strings.Repeat("k", 1<<20)} {
		for _, args := range [][]string{{"GET", key}, {"SET", key, "v"}, {"SET", key, "v", "GET"}, {"INCR", key}, {"DEL", "a", key}, {"MGET", key}, {"EXPIRE", key, "1"}, {"TYPE", key}} {
			if got := u.do(args...); !strings.HasPrefix(got, "-ERR dramnode: invalid argument: the key ") {
				t.Errorf("%s of a key of %d bytes: %.100q", args[0], len(key), got)
			}
		}
		u.want("*0\r\n", "KEYS "+strings.Repeat("k", 5000)+"*")
	}
	u.want(":0\r\n", "DBSIZE")
}

// 100,000 commands in one pipeline are answered in order, with the buffers of a few.
func TestLongPipeline(t *testing.T) {
	addr, s, _ := serveNode(t, Config{})
	u := dial(t, addr)
	const n = 100_000
	go func() {
		var b []byte
		for i := range n {
			if i%2 == 0 {
				b = append(b, fmt.Sprintf("SET k%d %d\r\n", i%1000, i)...)
			} else {
				b = append(b, encode("GET", fmt.Sprintf("k%d", (i-1)%1000))...)
			}
		}
		_, _ = u.nc.Write(b) // a failure shows as a missing reply
	}()
	for i := range n {
		want := "+OK\r\n"
		if i%2 == 1 {
			want = bulk(fmt.Sprint(i - 1))
		}
		if got := u.reply(); got != want {
			t.Fatalf("reply %d: %q, want %q", i, got, want)
		}
	}
	if used := s.budget.used.Load(); used > readBytes {
		t.Errorf("%d bytes of buffers beyond each connection's own", used)
	}
}

// A client that asks and does not read holds up nobody else, and no more memory than the kernel's buffers and
// one portion of replies.
func TestSlowReader(t *testing.T) {
	addr, _, cluster := serveNode(t, Config{})
	u := dial(t, addr)
	value := strings.Repeat("v", 4<<20)
	if got := u.do("SET", "k", value); got != "+OK\r\n" {
		t.Fatal(got)
	}
	before := cluster.Node(0).Info().Memory
	slow := dial(t, addr)
	slow.send(bytes.Repeat(encode("GET", "k"), 200)) // 800 MiB of replies
	u.want("+PONG\r\n", "PING")
	for range 20 {
		u.want(":4194304\r\n", "STRLEN k")
	}
	if leased := cluster.Node(0).Info().Memory.Leased; leased > before.Leased+8<<20 {
		t.Errorf("%d bytes are leased for one slow reader", leased)
	}
	for range 3 { // and it gets what it asked for
		if got := slow.reply(); got != bulk(value) {
			t.Fatalf("%d bytes", len(got))
		}
	}
}

// A client that has said all it wants to, and closes its side, gets the answers.
func TestHalfClosed(t *testing.T) {
	addr, _, _ := serveNode(t, Config{})
	u := dial(t, addr)
	u.send(append(encode("SET", "k", "v"), "GET k\r\n*2\r\n$3\r\nGET\r\n$1"...)) // the last one is cut off
	if err := u.nc.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(u.r)
	if err != nil || string(got) != "+OK\r\n"+bulk("v") {
		t.Errorf("%q, %v", got, err)
	}
}

// A value that does not arrive whole is not written.
func TestCutOffWrite(t *testing.T) {
	addr, s, _ := serveNode(t, Config{})
	u, cut := dial(t, addr), dial(t, addr)
	u.want("+OK\r\n", "SET k old")
	cut.want(bulk("old"), "GET k") // now the server counts it: before, one connection may mean that it has not come yet
	cut.send(encode("SET", "k", strings.Repeat("n", 1<<20))[:1<<19])
	cut.nc.Close()
	for end := time.Now().Add(patience); s.connections() > 1; <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the connection that ended is still there")
		}
	}
	u.want(bulk("old"), "GET k")
	if used := s.budget.used.Load(); used != 0 {
		t.Errorf("%d bytes of buffers are in use", used)
	}
}

// An idle connection keeps no buffer that others may need.
func TestIdleGivesBufferBack(t *testing.T) {
	addr, s, _ := serveNode(t, Config{})
	u := dial(t, addr)
	if got := u.do("SET", "k", strings.Repeat("v", 256<<10)); got != "+OK\r\n" {
		t.Fatal(got)
	}
	for end := time.Now().Add(patience); s.budget.used.Load() > 0; <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d bytes of buffers are in use", s.budget.used.Load())
		}
	}
	u.want(":262144\r\n", "STRLEN k")
}

// The buffers of all connections have one limit, and who would exceed it gets an answer.
func TestBudget(t *testing.T) {
	addr, s, _ := serveNode(t, Config{BufferBytes: 3 << 20})
	first := dial(t, addr)
	first.send([]byte("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2097152\r\n"))
	for end := time.Now().Add(patience); s.budget.used.Load() == 0; <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no buffer is taken")
		}
	}
	second := dial(t, addr)
	second.send([]byte("*3\r\n$3\r\nSET\r\n$1\r\nj\r\n$2097152\r\n"))
	if got := second.reply(); !strings.HasPrefix(got, "-OOM no buffer of ") {
		t.Errorf("%q", got)
	}
	second.ends()
	first.send(append(bytes.Repeat([]byte{'v'}, 2<<20), "\r\n"...))
	if got := first.reply(); got != "+OK\r\n" {
		t.Errorf("%q", got)
	}
	third := dial(t, addr)
	third.want("$-1\r\n", "GET j")
}

// Who keeps back the rest of a command, or takes nothing of the replies, is not waited for; who has nothing to say is.
func TestStalls(t *testing.T) {
	addr, s, cluster := serveNode(t, Config{Stall: 100 * time.Millisecond})
	patientAddr, _ := serve(t, Config{}, cluster, 0)
	if got := dial(t, patientAddr).do("SET", "k", strings.Repeat("v", 256<<10)); got != "+OK\r\n" {
		t.Fatal(got)
	}
	idle := dial(t, addr)
	idle.want("+PONG\r\n", "PING")
	half := []byte("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\n")

	silent := dial(t, addr)
	silent.send(half)
	silent.ends()

	// A byte now and then is as good as none.
	slow := dial(t, addr)
	slow.send(half)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for _, err := slow.nc.Write([]byte("v")); err == nil; _, err = slow.nc.Write([]byte("v")) {
			<-time.After(5 * time.Millisecond)
		}
	}()
	slow.ends()
	slow.nc.Close()
	<-ended

	deaf := dial(t, addr)
	deaf.want("+PONG\r\n", "PING")
	go func() { _, _ = deaf.nc.Write(bytes.Repeat(encode("GET", "k"), 400)) }() // 100 MiB of replies
	for end := time.Now().Add(patience); s.connections() > 1 || s.budget.used.Load() > 0; <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d connections are left, %d bytes of buffers are in use", s.connections(), s.budget.used.Load())
		}
	}
	if leased := cluster.Node(0).Info().Memory.Leased; leased != 0 {
		t.Errorf("%d bytes are leased", leased)
	}
	idle.want("+PONG\r\n", "PING")
}

func TestMaxConns(t *testing.T) {
	addr, _, _ := serveNode(t, Config{MaxConns: 2})
	a, b := dial(t, addr), dial(t, addr)
	a.want("+PONG\r\n", "PING")
	b.want("+PONG\r\n", "PING")
	c := dial(t, addr)
	if got := c.reply(); got != "-ERR max number of clients reached\r\n" {
		t.Errorf("%q", got)
	}
	c.ends()
	a.want("+OK\r\n", "QUIT")
	a.ends()
	for end := time.Now().Add(patience); ; <-time.After(time.Millisecond) {
		d := dial(t, addr)
		d.send(encode("PING"))
		if got := d.reply(); got == "+PONG\r\n" {
			break
		}
		d.nc.Close()
		if time.Now().After(end) {
			t.Fatal("no place is free after a connection ended")
		}
	}
}
