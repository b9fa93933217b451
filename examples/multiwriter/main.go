// Command multiwriter stores a dozen values of several kinds and a tensor, all at once. Command reader
// shows them.
//
//	go run ./examples/multiwriter [-addrs host:port,...]
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/examples/internal/attach"
	"github.com/dramnode/dramnode/examples/internal/tensor"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "multiwriter:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	return attach.Run("multiwriter", args, func(ctx context.Context, c *client.Client, _ []string) error {
		return write(ctx, c, out)
	})
}

type store interface {
	MultiPut(ctx context.Context, items []client.Item) []client.PutResult
}

func items() []client.Item {
	text := func(key, value string, opts ...client.Option) client.Item {
		return client.Item{Key: []byte(key), Value: []byte(value), Options: opts}
	}
	weights := tensor.Matrix{{1, 0, 0, 0.5}, {0, 1, 0, 0.25}, {0, 0, 1, 0.125}, {0, 0, 0, 1}}
	return []client.Item{
		text("user:1", `{"name":"first","role":"admin"}`),
		text("user:2", `{"name":"second","role":"reader"}`),
		text("user:3", `{"name":"third","role":"reader"}`),
		text("config:cache", `{"max_age":60}`),
		text("config:limits", `{"requests_per_second":1000}`),
		text("session:a1", "user:1", client.TTL(time.Hour)),
		text("session:b2", "user:2", client.TTL(time.Hour)),
		text("metrics:cpu", "0.42"),
		text("metrics:memory", "0.73"),
		text("metrics:requests", "1048576"),
		text("document:readme", "Values are bytes; what they mean is the application's."),
		text("document:empty", ""),
		{Key: []byte(tensor.Key), Value: weights.Append(nil)},
	}
}

func write(ctx context.Context, s store, out io.Writer) error {
	var errs []error
	all := items()
	for i, r := range s.MultiPut(ctx, all) {
		if r.Err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", all[i].Key, r.Err))
			continue
		}
		fmt.Fprintf(out, "%-18s %4d bytes, generation %d\n", all[i].Key, len(all[i].Value), r.Generation)
	}
	return errors.Join(errs...)
}
