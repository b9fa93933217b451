package tsgrpc

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"

	"github.com/dramnode/dramnode/client"
)

// A listener limits the connections: who comes when there are too many is sent away.
type listener struct {
	net.Listener
	max  int64
	open atomic.Int64
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) <= l.max {
			return &conn{Conn: nc, gone: sync.OnceFunc(func() { l.open.Add(-1) })}, nil
		}
		l.open.Add(-1)
		nc.Close()
	}
}

// A conn is one connection, and what was lent to it. The requests find theirs by the address of their peer.
type conn struct {
	net.Conn
	gone func()

	mu    sync.Mutex
	ended bool // nothing reads what was lent
	lent  map[*lease]struct{}
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.gone()
	return c.Conn.Close()
}

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return address{c.Conn.RemoteAddr(), c} }

type address struct {
	net.Addr
	conn *conn
}

// connOf returns the connection of a request.
func connOf(ctx context.Context) *conn {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	return p.Addr.(address).conn // the listener makes no others
}

// watch ends the connection after a while, unless it is stopped before. Ending a single request of it would not
// make the transport let go of what it has for it.
func (c *conn) watch(patience time.Duration) *time.Timer {
	return time.AfterFunc(patience, func() { _ = c.Close() }) // that it may be closed already is the only error
}

// connEnds tells connections that the transport does nothing for them any more.
type connEnds struct{}

type connKey struct{}

// TagConn implements stats.Handler.
func (connEnds) TagConn(ctx context.Context, info *stats.ConnTagInfo) context.Context {
	return context.WithValue(ctx, connKey{}, info.RemoteAddr)
}

// HandleConn implements stats.Handler. The transport's writer has ended before its ConnEnd.
func (connEnds) HandleConn(ctx context.Context, s stats.ConnStats) {
	if _, ok := s.(*stats.ConnEnd); ok {
		ctx.Value(connKey{}).(address).conn.end()
	}
}

// TagRPC implements stats.Handler.
func (connEnds) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (connEnds) HandleRPC(context.Context, stats.RPCStats) {}

func (c *conn) end() {
	c.mu.Lock()
	c.ended = true
	lent := c.lent
	c.lent = nil
	c.mu.Unlock()
	for l := range lent {
		l.forget()
	}
}

// A lease is a value that is being sent: it is released when its request is over and the transport has sent, or
// thrown away, every part. A transport whose connection breaks forgets parts that it still has; then the lease
// ends with the connection. Parts that are taken too slowly end it.
type lease struct {
	conn     *conn
	patience time.Duration

	mu     sync.Mutex
	value  *client.Buffer
	parts  int  // that the transport has
	held   bool // by the request
	ended  bool // so is the connection
	stalls *time.Timer
}

func (c *conn) lease(value *client.Buffer, patience time.Duration) *lease {
	l := &lease{conn: c, patience: patience, value: value, held: true}
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.ended = c.ended; !c.ended {
		if c.lent == nil {
			c.lent = map[*lease]struct{}{}
		}
		c.lent[l] = struct{}{}
	}
	return l
}

// part returns memory of the value for the transport. It is longer than what mem.NewBuffer does not track.
func (l *lease) part(bytes []byte) mem.Buffer {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.parts++
		l.wait()
	}
	return mem.NewBuffer(&bytes, l)
}

// wait lets the patience with the client begin anew.
func (l *lease) wait() {
	if l.stalls == nil {
		l.stalls = l.conn.watch(l.patience)
	} else {
		l.stalls.Reset(l.patience)
	}
}

// Get implements mem.BufferPool, for parts that the transport would want to enlarge. There are none.
func (l *lease) Get(length int) *[]byte {
	b := make([]byte, length)
	return &b
}

// Put implements mem.BufferPool: the transport gives a part back.
func (l *lease) Put(*[]byte) {
	l.mu.Lock()
	if !l.ended {
		l.parts--
		if l.parts > 0 {
			l.wait()
		} else {
			l.stalls.Stop()
		}
	}
	over := l.over()
	l.mu.Unlock()
	l.release(over)
}

// done ends what the request has to do with the value.
func (l *lease) done() {
	l.mu.Lock()
	l.held = false
	over := l.over()
	l.mu.Unlock()
	l.release(over)
}

// forget ends what the transport has to do with it.
func (l *lease) forget() {
	l.mu.Lock()
	l.parts, l.ended = 0, true
	if l.stalls != nil {
		l.stalls.Stop()
	}
	over := l.over()
	l.mu.Unlock()
	l.release(over)
}

// over takes the value when nobody needs it any more.
func (l *lease) over() *client.Buffer {
	if l.held || l.parts > 0 {
		return nil
	}
	value := l.value
	l.value = nil
	return value
}

func (l *lease) release(value *client.Buffer) {
	if value == nil {
		return
	}
	l.conn.mu.Lock()
	delete(l.conn.lent, l)
	l.conn.mu.Unlock()
	value.Release()
}
