// Command reader shows what command multiwriter stored, prints the tensor, and asks for a key that
// does not exist.
//
//	go run ./examples/reader [-addrs host:port,...]
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/examples/internal/attach"
	"github.com/dramnode/dramnode/examples/internal/tensor"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "reader:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	return attach.Run("reader", args, func(ctx context.Context, c *client.Client, _ []string) error {
		return read(ctx, c, out)
	})
}

type store interface {
	Get(ctx context.Context, key []byte, opts ...client.Option) (client.Value, error)
	List(ctx context.Context, q client.Query) iter.Seq2[client.Entry, error]
}

func read(ctx context.Context, s store, out io.Writer) error {
	found := 0
	for _, prefix := range []string{"user:", "config:", "session:", "metrics:", "document:"} {
		for e, err := range s.List(ctx, client.Query{Prefix: []byte(prefix)}) {
			if err != nil {
				return err
			}
			v, err := s.Get(ctx, e.Key)
			if err != nil {
				return fmt.Errorf("%s: %w", e.Key, err)
			}
			fmt.Fprintf(out, "%-18s %s\n", e.Key, v.Bytes)
			found++
		}
	}
	if found == 0 {
		return errors.New("nothing is stored; run the multiwriter first")
	}
	if err := showTensor(ctx, s, out); err != nil {
		return fmt.Errorf("%s: %w", tensor.Key, err)
	}
	_, err := s.Get(ctx, []byte("user:nobody"))
	if !errors.Is(err, dramnode.ErrNotFound) {
		return fmt.Errorf("user:nobody should not exist: %w", err)
	}
	fmt.Fprintf(out, "%-18s %v\n", "user:nobody", err)
	return nil
}

func showTensor(ctx context.Context, s store, out io.Writer) error {
	v, err := s.Get(ctx, []byte(tensor.Key))
	if err != nil {
		return err
	}
	m, err := tensor.Parse(v.Bytes)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%-18s %dx%d float32\n", tensor.Key, len(m), len(m[0]))
	for _, row := range m {
		for _, x := range row {
			fmt.Fprintf(out, "%8.3f", x)
		}
		fmt.Fprintln(out)
	}
	return nil
}
