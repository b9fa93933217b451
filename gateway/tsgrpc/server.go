package tsgrpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/gateway"
	pb "github.com/dramnode/dramnode/gateway/tsgrpc/kvstorepb"
)

// Config describes a face; its zero value is complete.
type Config struct {
	// ClockSkew is how far the clock of this node may be ahead of a client's. A read without a bound on its age
	// tells that it is so much older than it is.
	ClockSkew time.Duration

	MaxConns    int   // connections at once; default 1024
	MaxInFlight int   // requests at once, of all connections; default 1024
	BufferBytes int64 // for values on their way in; default 256 MiB, and one value more

	Log zerolog.Logger

	stall time.Duration // tests have less patience than stallTimeout
}

const (
	defaultMaxConns    = 1024
	defaultMaxInFlight = 1024
	defaultBufferBytes = 256 << 20

	maxMessageBytes = 8<<20 + 64<<10 // clients of today send 1 MiB and a bit, old ones a value at once
	requestBytes    = 16 * maxMessageBytes
	windowBytes     = 256 << 10 // that a client may send without being listened to, per request
	maxStreams      = 256       // requests of one connection
	maxHeaderBytes  = 16 << 10
	writeBatchBytes = 128 << 10 // that one system call sends

	stallTimeout     = 30 * time.Second // that a client may neither send nor take anything while it should
	stopTimeout      = 2 * time.Second  // for the requests under way at the end
	handshakeTimeout = 10 * time.Second
	pingAfter        = time.Minute // of silence
	pingTimeout      = 20 * time.Second
	pingPause        = 5 * time.Second // between those of a client
)

// Check reports what cannot be.
func (c Config) Check() error {
	if c.ClockSkew < 0 || c.ClockSkew > time.Hour || c.MaxConns < 0 || c.MaxInFlight < 0 || c.BufferBytes < 0 || c.BufferBytes > 0 && c.BufferBytes < maxMessageBytes {
		return fmt.Errorf("tsgrpc: %w: ClockSkew %v, MaxConns %d, MaxInFlight %d or BufferBytes %d, of which a message takes %d",
			dramnode.ErrInvalid, c.ClockSkew, c.MaxConns, c.MaxInFlight, c.BufferBytes, maxMessageBytes)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.MaxConns == 0 {
		c.MaxConns = defaultMaxConns
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = defaultMaxInFlight
	}
	if c.BufferBytes == 0 {
		c.BufferBytes = defaultBufferBytes
	}
	if c.stall == 0 {
		c.stall = stallTimeout
	}
	return c
}

// Serve returns the face, a gateway.Serve. It fails at once when cfg fails its Check.
func Serve(cfg Config) gateway.Serve {
	return func(ctx context.Context, l net.Listener, s gateway.Store) error {
		if err := cfg.Check(); err != nil {
			return errors.Join(err, l.Close())
		}
		return newFace(cfg, s).serve(ctx, l)
	}
}

// A face is what all requests share.
type face struct {
	cfg      Config
	store    gateway.Store
	inFlight atomic.Int64
	requests *budget // for the messages of reads, deletions and lists
	bodies   *budget // for those of writes
}

func newFace(cfg Config, s gateway.Store) *face {
	cfg = cfg.withDefaults()
	return &face{cfg: cfg, store: s, requests: newBudget(requestBytes), bodies: newBudget(cfg.BufferBytes)}
}

// serve runs the face until ctx ends; see gateway.Serve. When grpc has stopped, every connection has ended, and
// what was lent to it is back.
func (f *face) serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := grpc.NewServer(
		grpc.ForceServerCodecV2(codec{}), grpc.StatsHandler(connEnds{}), grpc.WaitForHandlers(true),
		grpc.MaxRecvMsgSize(maxMessageBytes), grpc.MaxConcurrentStreams(maxStreams), grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.InitialWindowSize(windowBytes), grpc.InitialConnWindowSize(8*windowBytes), grpc.WriteBufferSize(writeBatchBytes),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingPause, PermitWithoutStream: true}),
	)
	server.RegisterService(&service, f)
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		limit := time.AfterFunc(stopTimeout, server.Stop)
		defer limit.Stop()
		server.GracefulStop()
	})
	err := server.Serve(&listener{Listener: l, max: int64(f.cfg.MaxConns)})
	stopped := ctx.Err() != nil
	cancel()
	wg.Wait()
	if stopped || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// service tells grpc of the methods. Each is served as a stream, also the one that is none, so that each of its
// messages can be counted before it is received; on the wire there is no difference.
var service = grpc.ServiceDesc{
	ServiceName: pb.KvStoreService_ServiceDesc.ServiceName,
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{
		{StreamName: "Read", Handler: handler((*call).read), ServerStreams: true},
		{StreamName: "Write", Handler: handler((*call).write), ClientStreams: true},
		{StreamName: "Delete", Handler: handler((*call).delete)},
		{StreamName: "List", Handler: handler((*call).list), ServerStreams: true},
	},
	Metadata: pb.KvStoreService_ServiceDesc.Metadata,
}

// A call is one request.
type call struct {
	*face
	stream grpc.ServerStream
	ctx    context.Context
	conn   *conn
	start  time.Time
}

func handler(serve func(*call) error) grpc.StreamHandler {
	return func(server any, stream grpc.ServerStream) error {
		f := server.(*face)
		c := &call{face: f, stream: stream, ctx: stream.Context(), conn: connOf(stream.Context()), start: time.Now()}
		defer f.inFlight.Add(-1)
		if n := f.inFlight.Add(1); n > int64(f.cfg.MaxInFlight) {
			return statusOf(c.ctx, fmt.Errorf("%w: %d requests are being served", dramnode.ErrBusy, f.cfg.MaxInFlight))
		}
		err := serve(c)
		if err != nil {
			f.cfg.Log.Debug().Err(err).Msg("tsgrpc request failed")
		}
		return statusOf(c.ctx, err)
	}
}

// request receives the only message of a request.
func (c *call) request(to proto.Message) error {
	loan := c.requests.loan()
	defer loan.end()
	if err := loan.take(c.ctx, maxMessageBytes); err != nil {
		return err
	}
	m := message{to: to}
	if err := c.receive(&m); err != nil {
		return err
	}
	return m.err
}

// receive waits for a message as long as a client may be silent.
func (c *call) receive(m any) error {
	watch := c.conn.watch(c.cfg.stall)
	defer watch.Stop()
	return c.stream.RecvMsg(m)
}

// send sends a message, and waits as long for a client that does not take what was sent before.
func (c *call) send(m any) error {
	watch := c.conn.watch(c.cfg.stall)
	defer watch.Stop()
	return c.stream.SendMsg(m)
}
