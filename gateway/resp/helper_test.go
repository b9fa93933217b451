package resp

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dramnode/dramnode/gateway/gatewaytest"
)

// patience is the deadline of a test's connection: reaching it is a failure.
const patience = 30 * time.Second

// A user is a connection of a test, which sees the bytes of each reply.
type user struct {
	t  testing.TB
	nc net.Conn
	r  *bufio.Reader
}

func dial(t testing.TB, addr string) *user {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &user{t, nc, bufio.NewReader(nc)}
}

// encode is one command as clients send it.
func encode(args ...string) []byte {
	b := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, a := range args {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(a), a)
	}
	return b
}

func (u *user) send(b []byte) {
	u.t.Helper()
	if _, err := u.nc.Write(b); err != nil {
		u.t.Fatal(err)
	}
}

// reply returns the bytes of the next reply.
func (u *user) reply() string {
	u.t.Helper()
	b, err := readReply(u.r, nil)
	if err != nil {
		u.t.Fatalf("reading a reply after %q: %v", b, err)
	}
	return string(b)
}

func readReply(r *bufio.Reader, b []byte) ([]byte, error) {
	line, err := r.ReadBytes('\n')
	b = append(b, line...)
	if err != nil {
		return b, err
	}
	if !bytes.HasSuffix(line, []byte("\r\n")) {
		return b, fmt.Errorf("a line ends without \\r: %q", line)
	}
	n := 0
	if line[0] == '$' || line[0] == '*' {
		if n, err = strconv.Atoi(string(line[1 : len(line)-2])); err != nil {
			return b, err
		}
	}
	switch line[0] {
	case '+', '-', ':':
	case '$':
		if n < 0 {
			return b, nil
		}
		bulk := make([]byte, n+2)
		if _, err := io.ReadFull(r, bulk); err != nil {
			return b, err
		}
		b = append(b, bulk...)
	case '*':
		for range n {
			if b, err = readReply(r, b); err != nil {
				return b, err
			}
		}
	default:
		return b, fmt.Errorf("a reply of kind %q", line[0])
	}
	return b, nil
}

func (u *user) do(args ...string) string {
	u.t.Helper()
	u.send(encode(args...))
	return u.reply()
}

// want runs a command, words separated by spaces, and compares the reply.
func (u *user) want(reply, command string) {
	u.t.Helper()
	if got := u.do(strings.Fields(command)...); got != reply {
		u.t.Errorf("%s: %q, want %q", command, got, reply)
	}
}

// ends checks that the server has closed the connection after what was read.
func (u *user) ends() {
	u.t.Helper()
	if b, err := u.r.ReadByte(); !errors.Is(err, io.EOF) {
		u.t.Errorf("the connection goes on with %q, %v", b, err)
	}
}

// serveNode runs a face in a node of its own.
func serveNode(t testing.TB, cfg Config) (addr string, s *Server, cluster *gatewaytest.Cluster) {
	t.Helper()
	cluster = gatewaytest.NewCluster(t, 1, 128<<20)
	addr, s = serve(t, cfg, cluster, 0)
	return addr, s, cluster
}

// serve runs a face in node i.
func serve(t testing.TB, cfg Config, cluster *gatewaytest.Cluster, i int) (string, *Server) {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return gatewaytest.Serve(t, s.Serve, cluster.Inside(i)), s
}

func bulk(s string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(s), s) }
