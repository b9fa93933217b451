package resp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/gateway"
)

// Config describes a face; its zero value is complete.
type Config struct {
	Password string // "" for none
	Version  string // of this software, for INFO
	MaxConns int    // connections at once; default 4096

	// BufferBytes is what all connections together may use for commands that do not fit their own small
	// buffers; default 256 MiB.
	BufferBytes int64

	// Stall is how long a client may keep the rest of a command back, or take nothing of its replies; default 30 s.
	Stall time.Duration
}

const (
	defaultMaxConns    = 4096
	defaultBufferBytes = 256 << 20
	defaultStall       = 30 * time.Second
	stopTimeout        = 2 * time.Second // for the commands under way at the end
	acceptPause        = 50 * time.Millisecond
)

// A Server is one face. Serve may run once.
type Server struct {
	cfg      Config
	store    gateway.Store
	started  time.Time
	runID    string
	budget   budget
	cursors  cursors
	commands commandSet

	// work is the context of what the commands do: it ends a little after that of Serve.
	work context.Context

	mu       sync.Mutex
	conns    map[*conn]struct{}
	stopping bool

	lastID   atomic.Int64
	accepted atomic.Int64
	refused  atomic.Int64
	executed atomic.Int64 // commands
}

// New returns a face, or an ErrInvalid that names the field at fault.
func New(cfg Config) (*Server, error) {
	if cfg.MaxConns == 0 {
		cfg.MaxConns = defaultMaxConns
	}
	if cfg.BufferBytes == 0 {
		cfg.BufferBytes = defaultBufferBytes
	}
	if cfg.Stall == 0 {
		cfg.Stall = defaultStall
	}
	if cfg.Stall < 0 || cfg.MaxConns < 1 || cfg.BufferBytes < readBytes || len(cfg.Password) > maxPasswordBytes {
		return nil, fmt.Errorf("resp: %w: MaxConns %d, BufferBytes %d, Stall %v or a password of %d bytes",
			dramnode.ErrInvalid, cfg.MaxConns, cfg.BufferBytes, cfg.Stall, len(cfg.Password))
	}
	id := make([]byte, 20)
	rand.Read(id) // never fails
	return &Server{
		cfg: cfg, started: time.Now(), runID: fmt.Sprintf("%x", id), conns: map[*conn]struct{}{},
		budget: budget{limit: cfg.BufferBytes}, commands: newCommandSet(),
	}, nil
}

const maxPasswordBytes = 1024

var _ gateway.Serve = (*Server)(nil).Serve

// Serve implements gateway.Serve.
func (s *Server) Serve(ctx context.Context, l net.Listener, store gateway.Store) error {
	s.store = store
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	s.work = work
	var wg sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { l.Close(); s.stop() })
	err := s.accept(ctx, l, &wg)
	if stop() { // the listener failed
		l.Close()
		s.stop()
	}
	limit := time.AfterFunc(stopTimeout, func() { cancel(); s.closeAll() })
	wg.Wait()
	limit.Stop()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (s *Server) accept(ctx context.Context, l net.Listener, wg *sync.WaitGroup) error {
	for {
		nc, err := l.Accept()
		if temporary := net.Error(nil); errors.As(err, &temporary) && temporary.Timeout() || err != nil && !errors.Is(err, net.ErrClosed) && ctx.Err() == nil {
			// Mostly: no file descriptor is left. Those in use will come back.
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		if err != nil {
			return err
		}
		s.accepted.Add(1)
		c := newConn(s, nc)
		if !s.enter(c) {
			s.refused.Add(1)
			refuse(nc)
			continue
		}
		wg.Go(func() {
			defer s.leave(c)
			c.run()
		})
	}
}

// refuse answers who comes when there are too many, without waiting for anything.
func refuse(nc net.Conn) {
	if nc.SetWriteDeadline(time.Now().Add(acceptPause)) == nil {
		_, _ = nc.Write([]byte("-ERR max number of clients reached\r\n")) // who does not listen is not told
	}
	nc.Close()
}

func (s *Server) enter(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= s.cfg.MaxConns || s.stopping {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) leave(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

func (s *Server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// stop lets every connection end after the commands that it has read.
func (s *Server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
	for c := range s.conns {
		c.stopReading()
	}
}

func (s *Server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.nc.Close()
	}
}

// maxBulk is the longest value, and a little: what is a bit too long gets an answer, and the rest an end.
func (s *Server) maxBulk() int {
	return int(min(int64(s.store.Table().MaxValue)+dramnode.MaxKeyBytes, math.MaxInt32))
}

// A budget is memory that all connections share.
type budget struct {
	limit int64
	used  atomic.Int64
}

func (b *budget) take(bytes int) bool {
	if b.used.Add(int64(bytes)) > b.limit {
		b.give(bytes)
		return false
	}
	return true
}

func (b *budget) give(bytes int) { b.used.Add(-int64(bytes)) }

// scarce reports that idle buffers should be given back.
func (b *budget) scarce() bool { return b.used.Load() > b.limit/2 }
