// Command writer stores one value and then changes it the safe way: only if nobody else did meanwhile.
//
//	go run ./examples/writer [-addrs host:port,...] [key [value]]
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/examples/internal/attach"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "writer:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	return attach.Run("writer", args, func(ctx context.Context, c *client.Client, args []string) error {
		key, value := "greeting", "hello"
		if len(args) > 0 {
			key = args[0]
		}
		if len(args) > 1 {
			value = args[1]
		}
		return write(ctx, c, out, key, value)
	})
}

type store interface {
	Put(ctx context.Context, key, value []byte, opts ...client.Option) (dramnode.Generation, error)
}

func write(ctx context.Context, s store, out io.Writer, key, value string) error {
	first, err := s.Put(ctx, []byte(key), []byte(value))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s = %q, generation %d\n", key, value, first)

	value += ", world"
	second, err := s.Put(ctx, []byte(key), []byte(value), client.IfGeneration(first))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s = %q, generation %d\n", key, value, second)

	// The first generation is history: a write on top of it would undo the second.
	_, err = s.Put(ctx, []byte(key), []byte("too late"), client.IfGeneration(first))
	if !errors.Is(err, dramnode.ErrGenerationMismatch) {
		return fmt.Errorf("a write on top of generation %d ended with: %w", first, err)
	}
	fmt.Fprintf(out, "a write on top of generation %d is refused: %v\n", first, err)
	return nil
}
