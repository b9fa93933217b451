package gcs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/gateway/gatewaytest"
	"github.com/dramnode/dramnode/gateway/object"
)

const uploadOf = "/upload/storage/v1/b/b/o?uploadType=media&name="

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return b
}

// talk sends the beginning of a request over a connection of its own.
func (b *bench) talk(text string) net.Conn {
	b.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil { // a failure shows in what is read
		b.t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		b.t.Fatal(err)
	}
	return conn
}

func closeWrite(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

func TestBadInput(t *testing.T) {
	b := setup(t, gatewaytest.NewCluster(t, 2, 64<<20), 0, nil)
	for name, test := range map[string]func(*testing.T, bench){
		"long lines": longLines, "inexpressible names": inexpressibleNames, "broken uploads": brokenUploads, "half closed": halfClosed,
	} {
		t.Run(name, func(t *testing.T) {
			inner := *b
			inner.t = t
			test(t, inner)
		})
	}
}

// What no request can be is answered, and ends the connection.
func longLines(t *testing.T, b bench) {
	long := strings.Repeat("x", 1<<20)
	for name, text := range map[string]string{
		"a line of 1 MB":   "GET " + object1(long) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"a header of 1 MB": "GET " + object1("k") + " HTTP/1.1\r\nHost: x\r\nX-Long: " + long + "\r\n\r\n",
	} {
		conn := b.talk("")
		go func() { _, _ = io.WriteString(conn, text) }() // the face need not read all
		if reply, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || reply.StatusCode != 431 || !reply.Close {
			t.Errorf("%s: %+v, %v", name, reply, err)
		}
	}
}

// Names that the protocol cannot say are refused, and left out of lists, aloud.
func inexpressibleNames(t *testing.T, b bench) {
	for _, key := range []string{"odd/ok", "odd/\xff", "odd/zero\x00", "odd/control\x01", "plain"} {
		if _, err := b.inner.Put(context.Background(), []byte(key), []byte("v")); err != nil {
			t.Fatal(err)
		}
	}
	a := b.do("GET", "/storage/v1/b/odd/o", nil, nil).want(t, 200)
	var list struct{ Items []objectJSON }
	if err := json.Unmarshal(a.body, &list); err != nil || len(list.Items) != 2 || list.Items[0].Name != "control\x01" || a.Header.Get("x-dramnode-skipped-keys") != "2" {
		t.Errorf("%q skipped, %s, %v", a.Header.Get("x-dramnode-skipped-keys"), a.body, err)
	}
	for _, name := range []string{"%FF", "zero%00", strings.Repeat("k", 1025)} {
		b.do("GET", "/storage/v1/b/b/o/"+name+"?alt=media", nil, nil).want(t, 400)
		b.do("POST", uploadOf+name, nil, []byte("x")).want(t, 400)
		b.do("DELETE", "/storage/v1/b/b/o/"+name, nil, nil).want(t, 400)
	}
	if a := b.do("GET", "/storage/v1/b/odd/o/control%01?alt=media", nil, nil).want(t, 200); string(a.body) != "v" {
		t.Errorf("got %q", a.body)
	}
}

// A heard is a log that passes on what it is told, as far as anybody listens.
type heard chan string

func (h heard) Write(line []byte) (int, error) {
	select {
	case h <- string(line):
	default:
	}
	return len(line), nil
}

// A client that asks for a long object and does not take it loses its connection, and what was lent comes back.
func TestSlowReader(t *testing.T) {
	c, log := gatewaytest.NewCluster(t, 1, 128<<20), make(heard, 100)
	value := random(40 << 20) // more than the kernel's buffers
	setup(t, c, 0, nil).put("long", "", value).want(t, 200)
	b := setup(t, c, 0, func(c *Config) { c.Objects.Stall, c.Log = 100*time.Millisecond, zerolog.New(log) })
	deaf := b.talk("GET " + object1("long") + "?alt=media HTTP/1.1\r\nHost: x\r\n\r\n")
	for line := range log {
		if strings.Contains(line, "read not finished") {
			break
		}
	}
	if got, _ := io.ReadAll(deaf); len(got) >= len(value) {
		t.Errorf("%d bytes were sent to somebody who took none", len(got))
	}
	b.await("nothing is leased", func() bool { return c.Node(0).Info().Memory.Leased == 0 })
}

// When a node dies in the middle of requests, those that need it say so, a long answer is cut and never wrong,
// and a long upload changes nothing. The others go on.
func TestNodeDies(t *testing.T) {
	c := gatewaytest.NewCluster(t, 3, 128<<20)
	c.Timeout = 2 * time.Second
	b := setup(t, c, 0, nil)
	name := func(node int) string { return strings.TrimPrefix(string(c.Owned(node, b.inner, "b/k")), "b/") }
	mine, theirs, long := name(0), name(2), random(24<<20)
	for key, value := range map[string][]byte{mine: []byte("old"), theirs: []byte("old"), "long": long} {
		b.put(key, "", value).want(t, 200)
	}
	get, err := b.http.Get(b.url + object1("long") + "?alt=media")
	if err != nil {
		t.Fatal(err)
	}
	defer get.Body.Close()
	if _, err := io.ReadFull(get.Body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	upload := b.talk(fmt.Sprintf("POST "+uploadOf+"%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", mine, len(long), long[:1<<20]))
	c.Kill(2)
	var wg sync.WaitGroup // each takes as long as it may
	wg.Go(func() {
		rest, err := io.ReadAll(get.Body)
		if !bytes.HasPrefix(long[100:], rest) || err == nil && len(rest) != len(long)-100 {
			t.Errorf("a read goes on with %d bytes, %v", len(rest), err)
		}
	})
	refused := func(what string, status int, body []byte) {
		unknown := status == 500 && bytes.Contains(body, []byte(dramnode.ErrUnknownOutcome.Error()))
		if status != 503 && !(unknown && what != "GET") {
			t.Errorf("%s with a dead node: %d %s", what, status, body)
		}
	}
	wg.Go(func() {
		go func() { _, _ = upload.Write(long[1<<20:]) }() // the face need not read all
		reply, err := http.ReadResponse(bufio.NewReader(upload), nil)
		if err != nil {
			t.Errorf("a long upload: %v", err)
			return
		}
		text, _ := io.ReadAll(reply.Body)
		refused("a long upload", reply.StatusCode, text)
	})
	for _, r := range [][2]string{{"GET", object1(theirs) + "?alt=media"}, {"POST", uploadOf + theirs}, {"DELETE", object1(theirs)}, {"GET", "/storage/v1/b/b/o"}} {
		wg.Go(func() {
			a := b.do(r[0], r[1], nil, nil)
			refused(r[0], a.StatusCode, a.body)
		})
	}
	wg.Wait()
	if a := b.do("GET", object1(mine)+"?alt=media", nil, nil).want(t, 200); string(a.body) != "old" {
		t.Errorf("after a broken upload the object is %d bytes", len(a.body))
	}
}

// An upload whose connection ends before its body changes nothing, and leaves nothing.
func brokenUploads(t *testing.T, b bench) {
	b.put("k", "", []byte("old")).want(t, 200)
	long := gatewaytest.MaxValueBytes + 1
	for name, text := range map[string]string{
		"truncated":      "POST " + uploadOf + "k HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly this",
		"truncated long": fmt.Sprintf("POST "+uploadOf+"k HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", long, random(3<<20)),
		"chunked":        "POST " + uploadOf + "k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"malformed":      "POST " + uploadOf + "k HTTP/1.1\r\nHost: x\r\nContent-Length: a\r\n\r\n",
		"negative":       "POST " + uploadOf + "k HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\nhello",
	} {
		conn := b.talk(text)
		closeWrite(t, conn)
		reply, err := io.ReadAll(conn)
		if err != nil || !bytes.HasPrefix(reply, []byte("HTTP/1.1 4")) {
			t.Errorf("%s: %s, %v", name, reply, err)
		}
	}
	conn := b.talk(fmt.Sprintf("POST "+uploadOf+"k HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", long, random(3<<20)))
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil { // reset
		t.Fatal(err)
	}
	conn.Close()
	if a := b.do("GET", object1("k")+"?alt=media", nil, nil).want(t, 200); string(a.body) != "old" {
		t.Errorf("the object is %d bytes", len(a.body))
	}
	b.await("no chunk is left", func() bool { return len(b.keys(object.Hidden+"c/b/k\x00")) == 0 })
}

func (b *bench) keys(prefix string) (keys []string) {
	b.t.Helper()
	for e, err := range b.inner.List(context.Background(), client.Query{Prefix: []byte(prefix)}) {
		if err != nil {
			b.t.Fatal(err)
		}
		keys = append(keys, string(e.Key))
	}
	return keys
}

func (b *bench) await(what string, good func() bool) {
	b.t.Helper()
	for end := time.Now().Add(30 * time.Second); !good(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("not yet: %s", what)
		}
	}
}

// A client that has said all it wants to, and closes its side, gets its answers.
func halfClosed(t *testing.T, b bench) {
	value := random(gatewaytest.MaxValueBytes + 1000)
	for _, key := range []string{"a", "b", "c", "d"} { // of both nodes
		conn := b.talk(fmt.Sprintf("POST "+uploadOf+"%s HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", key))
		closeWrite(t, conn)
		if reply, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || reply.StatusCode != 200 {
			t.Errorf("POST %s: %+v, %v", key, reply, err)
		}
		b.put("long"+key, "", value).want(t, 200)
		for key, want := range map[string][]byte{key: []byte("hello"), "long" + key: value} {
			conn := b.talk("GET " + object1(key) + "?alt=media HTTP/1.1\r\nHost: x\r\n\r\n")
			closeWrite(t, conn)
			reply, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(reply.Body); err != nil || reply.StatusCode != 200 || !bytes.Equal(got, want) {
				t.Errorf("GET %s: %d with %d bytes, %v", key, reply.StatusCode, len(got), err)
			}
		}
	}
}
