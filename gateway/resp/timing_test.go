package resp

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/dramnode/dramnode/gateway/gatewaytest"
)

// A piped is the connection of a client that sends one pipeline after the other while more says so, and takes
// every reply.
type piped struct {
	net.Conn
	pipelines [][]byte
	sent      int
	more      func() bool
}

func (p *piped) Read(b []byte) (int, error) {
	if !p.more() {
		return 0, io.EOF
	}
	p.sent++
	return copy(b, p.pipelines[p.sent%len(p.pipelines)]), nil
}

func (p *piped) Write(b []byte) (int, error)      { return len(b), nil }
func (p *piped) Close() error                     { return nil }
func (p *piped) SetReadDeadline(time.Time) error  { return nil }
func (p *piped) SetWriteDeadline(time.Time) error { return nil }

// What a short command in a pipeline costs beside the kernel's work: a connection per processor.
func BenchmarkPipeline(b *testing.B) {
	const pipelines, depth = 2000, 64
	store := gatewaytest.NewCluster(b, 1, 256<<20).Inside(0)
	for _, command := range []string{"SET", "GET"} {
		b.Run(command, func(b *testing.B) {
			s, err := New(Config{})
			if err != nil {
				b.Fatal(err)
			}
			s.store, s.work = store, context.Background()
			sends := make([][]byte, pipelines)
			for i := range pipelines * depth {
				args := []string{command, fmt.Sprintf("key:%012d", i*7919%(pipelines*depth))}
				if command == "SET" {
					args = append(args, fmt.Sprintf("%064d", i))
				}
				sends[i/depth] = append(sends[i/depth], encode(args...)...)
			}
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				newConn(s, &piped{pipelines: sends, more: func() bool {
					for range depth {
						if !pb.Next() {
							return false
						}
					}
					return true
				}}).run()
			})
		})
	}
}
