// Command faces measures what one client reads through the faces of a node, one after the other in each round:
// short and long values by tsgrpc, S3, GCS and Redis, and beside them a bare grpc-go server that sends the same parts, and
// a bare net/http server that sends the same bytes.
// scripts/bench-clients.sh starts what it needs.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"

	pb "github.com/dramnode/dramnode/gateway/tsgrpc/kvstorepb"
)

const (
	partBytes = 1 << 20
	longBytes = 64 << 20
	httpBytes = 4 << 20
	someBytes = 1 << 20
	fewBytes  = 64
	window    = 2 * time.Second // of one measurement
)

func main() {
	bare := flag.String("bare", "", "serve the bare stream at this address, and do nothing else but bare-http")
	bareHTTP := flag.String("bare-http", "", "serve the bare bytes at this address, with bare")
	beside := flag.String("beside", "", "address of the bare stream")
	besideHTTP := flag.String("beside-http", "", "address of the bare bytes")
	tsgrpc := flag.String("tsgrpc", "", "address of the face")
	s3 := flag.String("s3", "", "address of the face")
	gcs := flag.String("gcs", "", "address of the face")
	resp := flag.String("resp", "", "address of the face")
	rounds := flag.Int("rounds", 3, "how often everything is measured; the median counts")
	flag.Parse()
	var err error
	if *bare != "" {
		go func() { log.Fatal(serveBareHTTP(*bareHTTP)) }()
		err = serveBare(*bare)
	} else {
		err = run(addresses{*tsgrpc, *s3, *gcs, *resp, *beside, *besideHTTP}, *rounds)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// A codec passes messages that are ready to be sent, and counts what is received without a copy.
type codec struct{}

// Name implements encoding.CodecV2.
func (codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (codec) Marshal(v any) (mem.BufferSlice, error) { return v.(mem.BufferSlice), nil }

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*int) = data.Len()
	return nil
}

// serveBare answers each Read with 64 MiB, in the parts in which the face sends them. Every message was made before.
func serveBare(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	value := make([]byte, longBytes)
	for i := range value {
		value[i] = byte(i)
	}
	head := mem.SliceBuffer(bytes.Repeat([]byte{1}, 30)) // about as long as what the face sends with a part
	var parts []mem.BufferSlice
	for part := range slices.Chunk(value, partBytes) {
		parts = append(parts, mem.BufferSlice{head, mem.SliceBuffer(part)})
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(codec{}))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: pb.KvStoreService_ServiceDesc.ServiceName, HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: "Read", ServerStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
			var request int
			if err := stream.RecvMsg(&request); err != nil {
				return err
			}
			for _, p := range parts {
				if err := stream.SendMsg(p); err != nil {
					return err
				}
			}
			return nil
		}}},
	}, nil)
	return server.Serve(l)
}

// serveBareHTTP answers each request with 4 MiB.
func serveBareHTTP(addr string) error {
	value := make([]byte, httpBytes)
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(value)))
		_, _ = w.Write(value) // a client that has gone is no fault of ours
	}))
}

// addresses are those of the faces, and of what stands beside them.
type addresses struct{ tsgrpc, s3, gcs, resp, beside, besideHTTP string }

// A reader reads one value and returns its length, headers of messages included.
type reader func() (bytes int, err error)

func run(at addresses, rounds int) error {
	face, err := dial(at.tsgrpc)
	if err != nil {
		return err
	}
	defer face.Close()
	bare, err := dial(at.beside)
	if err != nil {
		return err
	}
	defer bare.Close()
	if err := fill(face); err != nil {
		return err
	}
	redis, err := net.Dial("tcp", at.resp)
	if err != nil {
		return err
	}
	defer redis.Close()
	in := bufio.NewReaderSize(redis, 64<<10)
	byS3, byGCS := "http://"+at.s3+"/bench/", "http://"+at.gcs+"/storage/v1/b/bench/o/"
	rows := []struct {
		name string
		read reader
		size int
		mine []float64 // values per second
	}{
		{"bare grpc-go 64 MiB", byGRPC(bare, "long"), longBytes, nil}, {"tsgrpc       64 MiB", byGRPC(face, "long"), longBytes, nil},
		{"bare net/http 4 MiB", byHTTP("http://" + at.besideHTTP), httpBytes, nil}, {"S3           4 MiB", byHTTP(byS3 + "http"), httpBytes, nil}, {"GCS          4 MiB", byHTTP(byGCS + "http?alt=media"), httpBytes, nil},
		{"tsgrpc       1 MiB", byGRPC(face, "bench/some"), someBytes, nil}, {"S3           1 MiB", byHTTP(byS3 + "some"), someBytes, nil}, {"GCS          1 MiB", byHTTP(byGCS + "some?alt=media"), someBytes, nil}, {"Redis        1 MiB", byRESP(redis, in, "bench/some"), someBytes, nil},
		{"tsgrpc       64 B", byGRPC(face, "bench/few"), fewBytes, nil}, {"S3           64 B", byHTTP(byS3 + "few"), fewBytes, nil}, {"GCS          64 B", byHTTP(byGCS + "few?alt=media"), fewBytes, nil}, {"Redis        64 B", byRESP(redis, in, "bench/few"), fewBytes, nil},
	}
	for range rounds {
		for i := range rows {
			r := &rows[i]
			rate, err := measure(r.read, r.size)
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			r.mine = append(r.mine, rate)
		}
	}
	for _, r := range rows {
		slices.Sort(r.mine)
		rate := r.mine[len(r.mine)/2]
		least, most := r.mine[0], r.mine[len(r.mine)-1]
		fmt.Printf("%-20s %9.1f reads/s (%.1f to %.1f) %8.0f MiB/s\n", r.name, rate, least, most, rate*float64(r.size)/(1<<20))
	}
	fmt.Printf("tsgrpc-64MiB ratio %.2f of the bare stream\n", rows[1].mine[rounds/2]/rows[0].mine[rounds/2])
	fmt.Printf("S3-4MiB ratio %.2f of the bare server\n", rows[3].mine[rounds/2]/rows[2].mine[rounds/2])
	return nil
}

// measure reads for a while, after the first that does not count.
func measure(read reader, size int) (perSecond float64, err error) {
	start, n := time.Time{}, 0
	for n = -1; n < 1 || time.Since(start) < window; n++ {
		if n == 0 {
			start = time.Now()
		}
		bytes, err := read()
		if err != nil {
			return 0, err
		}
		if bytes < size {
			return 0, fmt.Errorf("%d bytes, want %d", bytes, size)
		}
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

func dial(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(4<<20)))
}

// fill writes the values that are read.
func fill(c *grpc.ClientConn) error {
	for key, size := range map[string]int{"long": longBytes, "bench/http": httpBytes, "bench/some": someBytes, "bench/few": fewBytes} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		stream, err := pb.NewKvStoreServiceClient(c).Write(ctx)
		if err != nil {
			return err
		}
		m := &pb.WriteRequest{Key: []byte(key)}
		for part := range slices.Chunk(make([]byte, size), partBytes) {
			m.ValuePart = part
			if err := stream.Send(m); err != nil {
				break // the answer says why
			}
			m = &pb.WriteRequest{}
		}
		if _, err := stream.CloseAndRecv(); err != nil {
			return err
		}
	}
	return nil
}

func byGRPC(c *grpc.ClientConn, key string) reader {
	request := mem.BufferSlice{mem.SliceBuffer(append([]byte{1<<3 | 2, byte(len(key))}, key...))}
	return func() (int, error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		stream, err := c.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, pb.KvStoreService_Read_FullMethodName, grpc.ForceCodecV2(codec{}))
		if err == nil {
			err = errors.Join(stream.SendMsg(request), stream.CloseSend())
		}
		total, n := 0, 0
		for ; err == nil; total += n {
			n = 0
			err = stream.RecvMsg(&n)
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return total, err
	}
}

func byHTTP(url string) reader {
	return func() (int, error) {
		r, err := http.Get(url)
		if err != nil {
			return 0, err
		}
		defer r.Body.Close()
		n, err := io.Copy(io.Discard, r.Body)
		if r.StatusCode != http.StatusOK {
			return 0, fmt.Errorf("%s: %s", url, r.Status)
		}
		return int(n), err
	}
}

func byRESP(c net.Conn, in *bufio.Reader, key string) reader {
	command := fmt.Appendf(nil, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", len(key), key)
	return func() (int, error) {
		if _, err := c.Write(command); err != nil {
			return 0, err
		}
		size := 0
		if _, err := fmt.Fscanf(in, "$%d\r\n", &size); err != nil {
			return 0, err
		}
		n, err := io.CopyN(io.Discard, in, int64(size)+2)
		return int(n) - 2, err
	}
}
