package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/transport"
)

// network stands for ucxnet.New with a transport.Identity of role client.
func network() transport.Network { return nil }

func Example() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{Network: network(), Addrs: []string{"10.0.0.1:12345", "10.0.0.2:12345"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	if _, err := c.Put(ctx, []byte("greeting"), []byte("hello"), client.TTL(time.Hour)); err != nil {
		fmt.Println(err)
		return
	}
	v, err := c.Get(ctx, []byte("greeting"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s, generation %d\n", v.Bytes, v.Generation)
}

// A counter is a read and a conditional write, tried again when somebody else was faster.
func ExampleIfGeneration() {
	increment := func(ctx context.Context, c *client.Client, key []byte) error {
		for {
			v, err := c.Get(ctx, key)
			if err != nil && !errors.Is(err, dramnode.ErrNotFound) {
				return err
			}
			var n int
			if err == nil {
				if _, err := fmt.Sscan(string(v.Bytes), &n); err != nil {
					return err
				}
			}
			_, err = c.Put(ctx, key, fmt.Append(nil, n+1), client.IfGeneration(v.Generation)) // 0: absent
			if !errors.Is(err, dramnode.ErrGenerationMismatch) {
				return err
			}
		}
	}
	_ = increment
}

func ExampleClient_List() {
	show := func(ctx context.Context, c *client.Client) error {
		for e, err := range c.List(ctx, client.Query{Prefix: []byte("user:")}) {
			if err != nil {
				return err
			}
			fmt.Printf("%s: %d bytes\n", e.Key, e.Size)
		}
		return nil
	}
	_ = show
}

// Many values are on their way at once.
func ExampleClient_StartPut() {
	load := func(ctx context.Context, c *client.Client, values map[string][]byte) error {
		futures := make(chan *client.Future[dramnode.Generation], 64)
		go func() {
			defer close(futures)
			for key, value := range values {
				futures <- c.StartPut(ctx, []byte(key), value)
			}
		}()
		var errs []error
		for f := range futures {
			_, err := f.Wait()
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
	_ = load
}

// Each answer starts the next request: as many as 64 are under way, and nobody waits for any of them.
func ExampleClient_GetFunc() {
	total := func(ctx context.Context, c *client.Client, keys <-chan []byte) (bytes int64, err error) {
		var sum atomic.Int64
		failed := make(chan error, 1)
		var wg sync.WaitGroup
		var next func()
		next = func() {
			key, more := <-keys // filled and closed beforehand: it never blocks
			if !more {
				wg.Done()
				return
			}
			done := func(v client.Value, err error) {
				if err != nil {
					select {
					case failed <- fmt.Errorf("%s: %w", key, err):
					default:
					}
				}
				sum.Add(int64(len(v.Bytes)))
				next()
			}
			if err := c.GetFunc(ctx, key, done); err != nil {
				done(client.Value{}, err)
			}
		}
		for range 64 {
			wg.Add(1)
			next()
		}
		wg.Wait()
		close(failed)
		return sum.Load(), <-failed
	}
	_ = total
}

// Many keys at once: each owner gets its part in few messages, and each key has an outcome of its own.
func ExampleClient_MultiGet() {
	present := func(ctx context.Context, c *client.Client, keys [][]byte) (values [][]byte, err error) {
		for i, r := range c.MultiGet(ctx, keys) {
			switch {
			case r.Err == nil:
				values = append(values, r.Value.Bytes)
			case !errors.Is(r.Err, dramnode.ErrNotFound):
				err = errors.Join(err, fmt.Errorf("%s: %w", keys[i], r.Err))
			}
		}
		return values, err
	}
	_ = present
}

// A Batch is used again and again by one goroutine, without garbage: here to read many values, 64 at a time.
func ExampleBatch() {
	concat := func(ctx context.Context, c *client.Client, keys [][]byte, w io.Writer) error {
		b := c.NewBatch()
		for group := range slices.Chunk(keys, 64) {
			b.Reset()
			for _, key := range group {
				b.Get(key)
			}
			b.Do(ctx)
			for i, key := range group {
				if err := b.Err(i); err != nil {
					return fmt.Errorf("%s: %w", key, err)
				}
				if _, err := w.Write(b.Bytes(i)); err != nil { // valid until Reset
					return err
				}
			}
		}
		return nil
	}
	_ = concat
}

// A long value goes from the network card to a file, or back, without a copy in between.
func ExampleClient_GetBuffer() {
	read := func(ctx context.Context, c *client.Client, key []byte, use func([]byte) error) error {
		b, _, err := c.GetBuffer(ctx, key)
		if err != nil {
			return err
		}
		defer b.Release()
		return use(b.Bytes())
	}
	_ = read
}
