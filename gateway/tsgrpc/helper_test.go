package tsgrpc

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/dramnode/dramnode/gateway"
	"github.com/dramnode/dramnode/gateway/gatewaytest"
	pb "github.com/dramnode/dramnode/gateway/tsgrpc/kvstorepb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// A user is a client of a face, made of the same table of fields as the face.
type user struct {
	t testing.TB
	pb.KvStoreServiceClient
	*grpc.ClientConn
}

func dial(t testing.TB, addr string, opts ...grpc.DialOption) *user {
	t.Helper()
	c, err := grpc.NewClient(addr, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &user{t, pb.NewKvStoreServiceClient(c), c}
}

// serveNode runs a face in a node of its own and returns a user of it.
func serveNode(t testing.TB, cfg Config) (*user, gateway.Store) {
	t.Helper()
	store := gatewaytest.NewCluster(t, 1, 256<<20).Inside(0)
	return dial(t, gatewaytest.Serve(t, Serve(cfg), store)), store
}

func (u *user) ctx() context.Context {
	ctx, cancel := context.WithTimeout(u.t.Context(), patience)
	u.t.Cleanup(cancel)
	return ctx
}

// read returns the first message of a read, the whole value, and the number of messages.
func (u *user) read(ctx context.Context, in *pb.ReadRequest) (first *pb.ReadResponse, value []byte, messages int, err error) {
	stream, err := u.Read(ctx, in)
	if err != nil {
		return nil, nil, 0, err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return first, value, messages, nil
		}
		if err != nil {
			return first, value, messages, err
		}
		if messages++; messages == 1 {
			first = m
		}
		value = append(value, m.ValuePart...)
	}
}

func (u *user) mustRead(in *pb.ReadRequest) (*pb.ReadResponse, []byte, int) {
	u.t.Helper()
	first, value, messages, err := u.read(u.ctx(), in)
	if err != nil || first == nil {
		u.t.Fatalf("read %v: %v", in, err)
	}
	return first, value, messages
}

// write sends the parts, or one empty part.
func (u *user) write(ctx context.Context, key string, condition []byte, parts ...[]byte) (*pb.WriteResponse, error) {
	stream, err := u.Write(ctx)
	if err != nil {
		return nil, err
	}
	m := &pb.WriteRequest{Key: []byte(key), GenerationIfEqual: condition}
	for i := range max(1, len(parts)) {
		if len(parts) > 0 {
			m.ValuePart = parts[i]
		}
		if err := stream.Send(m); err != nil {
			break // the answer tells why
		}
		m = &pb.WriteRequest{}
	}
	return stream.CloseAndRecv()
}

func (u *user) mustWrite(key string, parts ...[]byte) []byte {
	u.t.Helper()
	m, err := u.write(u.ctx(), key, nil, parts...)
	if err != nil {
		u.t.Fatalf("write %q: %v", key, err)
	}
	return m.GenerationAndTimestamp.Generation
}

// wantCode checks the code of an error.
func wantCode(t testing.TB, what string, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// await waits until good.
func await(t testing.TB, what string, good func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for !good() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}
