package client_test

import (
	"context"
	"errors"
	"fmt"
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
