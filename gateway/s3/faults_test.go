package s3

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/gateway/gatewaytest"
)

func closeWrite(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

// A line that no request can have is answered, and ends the connection.
func TestLongLines(t *testing.T) {
	b := setup(t, 1, nil)
	long := strings.Repeat("x", 1<<20)
	for name, text := range map[string]string{
		"a line of 1 MB":   "GET /b/" + long + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"a header of 1 MB": "GET /b/k HTTP/1.1\r\nHost: x\r\nX-Amz-Meta-Long: " + long + "\r\n\r\n",
	} {
		conn := b.talk("")
		go func() { _, _ = io.WriteString(conn, text) }() // the face need not read all
		if reply, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || reply.StatusCode != 431 || !reply.Close {
			t.Errorf("%s: %+v, %v", name, reply, err)
		}
	}
}

// When a node dies in the middle of requests, those that need it say so, a long read is cut and never wrong, and a
// long write changes nothing. The others go on.
func TestNodeDies(t *testing.T) {
	c := gatewaytest.NewCluster(t, 3, 128<<20)
	c.Timeout = 2 * time.Second
	b := setupOn(t, c, 0, nil)
	mine, theirs, long := string(c.Owned(0, b.inner, "b/k")), string(c.Owned(2, b.inner, "b/k")), random(24<<20)
	for key, value := range map[string][]byte{mine: []byte("old"), theirs: []byte("old"), "b/long": long} {
		b.do("PUT", "/"+key, nil, value).want(t, 200, "")
	}
	get, err := b.http.Get("http://" + b.addr + "/b/long")
	if err != nil {
		t.Fatal(err)
	}
	defer get.Body.Close()
	if _, err := io.ReadFull(get.Body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	put := b.talk(fmt.Sprintf("PUT /%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", mine, len(long), long[:1<<20]))
	c.Kill(2)
	var wg sync.WaitGroup // each takes as long as it may
	wg.Go(func() {
		rest, err := io.ReadAll(get.Body)
		if !bytes.HasPrefix(long[100:], rest) || err == nil && len(rest) != len(long)-100 {
			t.Errorf("the read goes on with %d bytes, %v", len(rest), err)
		}
	})
	wg.Go(func() {
		go func() { _, _ = put.Write(long[1<<20:]) }() // the face need not read all
		reply, err := http.ReadResponse(bufio.NewReader(put), nil)
		if err != nil || reply.StatusCode/100 != 5 {
			t.Errorf("the write: %+v, %v", reply, err)
		}
	})
	for _, r := range [][2]string{{"GET", "/" + theirs}, {"PUT", "/" + theirs}, {"DELETE", "/" + theirs}, {"GET", "/b?list-type=2"}} {
		wg.Go(func() {
			a := b.do(r[0], r[1], nil, nil)
			unknown := a.StatusCode == 500 && r[0] != "GET" && bytes.Contains(a.body, []byte(dramnode.ErrUnknownOutcome.Error()))
			if !unknown && (a.StatusCode != 503 || a.Header.Get("Retry-After") == "") {
				t.Errorf("%v with a dead node: %d %s", r, a.StatusCode, a.body)
			}
		})
	}
	wg.Wait()
	if a := b.do("GET", "/"+mine, nil, nil).want(t, 200, ""); string(a.body) != "old" {
		t.Errorf("after a broken write the object is %d bytes", len(a.body))
	}
}

// Clients that ask for a long object and take nothing of it hold one window each, whatever the object's length, and hold up
// nobody else; and each gets what it asked for when it reads on.
func TestSlowReaders(t *testing.T) {
	const readers = 8
	c := gatewaytest.NewCluster(t, 1, 128<<20)
	b := setupOn(t, c, 0, nil)
	value := random(40 << 20) // in chunks, and more than the kernel's buffers
	b.do("PUT", "/b/long", nil, value).want(t, 200, "")
	var slow []*bufio.Reader
	for range readers {
		slow = append(slow, bufio.NewReader(b.talk("GET /b/long HTTP/1.1\r\nHost: x\r\n\r\n")))
	}
	for _, r := range slow {
		if _, err := r.Peek(1); err != nil { // it is being answered
			t.Fatal(err)
		}
	}
	for range 20 {
		b.do("HEAD", "/b/long", nil, nil).want(t, 200, "")
		if leased := c.Node(0).Info().Memory.Leased; leased > readers*8<<20 {
			t.Fatalf("%d bytes are leased for %d slow readers", leased, readers)
		}
	}
	reply, err := http.ReadResponse(slow[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(reply.Body); err != nil || !bytes.Equal(got, value) {
		t.Errorf("%d bytes of %d, %v", len(got), len(value), err)
	}
}

// A client that has said all it wants to, and closes its side, gets its answers.
func TestHalfClosed(t *testing.T) {
	b := setup(t, 2, nil)
	value := random(gatewaytest.MaxValueBytes + 1000)
	for _, key := range []string{"a", "b", "c", "d"} { // of both nodes
		conn := b.talk(fmt.Sprintf("PUT /b/%s HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", key))
		closeWrite(t, conn)
		if reply, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || reply.StatusCode != 200 {
			t.Errorf("PUT %s: %+v, %v", key, reply, err)
		}
		b.do("PUT", "/b/long"+key, nil, value).want(t, 200, "")
		for key, want := range map[string][]byte{key: []byte("hello"), "long" + key: value} {
			conn := b.talk("GET /b/" + key + " HTTP/1.1\r\nHost: x\r\n\r\n")
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
