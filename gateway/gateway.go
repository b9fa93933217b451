// Package gateway is what the faces of a node have in common: each face translates one protocol (RESP, S3, ...)
// into operations on a Store and decides nothing.
//
// A face is a package below this one with a function of the type Serve. Run gives the faces of a process
// one client, which any node of a cluster satisfies; inside a node it is opened over node.Node.Network, so
// that what this node owns is served without a network.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"net"
	"sync"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/control"
)

// A Store is what the faces need of a cluster: *client.Client, whose comments say what each method does.
// Keys are 1 to dramnode.MaxKeyBytes bytes, values at most Table().MaxValue bytes; generations are
// dramnode.Generation, and failed conditions are *dramnode.GenerationError.
type Store interface {
	// GetBuffer reads a value, or the part that an option says, without a copy: long values are the stored
	// memory itself when this process owns them. The caller releases the buffer, and does not write to it.
	GetBuffer(ctx context.Context, key []byte, opts ...client.Option) (*client.Buffer, client.Meta, error)
	Get(ctx context.Context, key []byte, opts ...client.Option) (client.Value, error)
	Stat(ctx context.Context, key []byte) (client.Meta, error)

	// NewBuffer returns memory that PutBuffer takes over, whatever its outcome.
	NewBuffer(ctx context.Context, bytes int) (*client.Buffer, error)
	PutBuffer(ctx context.Context, key []byte, b *client.Buffer, opts ...client.Option) (dramnode.Generation, error)
	Put(ctx context.Context, key, value []byte, opts ...client.Option) (dramnode.Generation, error)
	Touch(ctx context.Context, key []byte, life time.Duration, opts ...client.Option) (dramnode.Generation, error)

	// Remove deletes a value. The generation is dramnode.Absent when there was none.
	Remove(ctx context.Context, key []byte, opts ...client.Option) (dramnode.Generation, error)
	DeleteRange(ctx context.Context, q client.Query) (deleted uint64, err error)

	MultiGet(ctx context.Context, keys [][]byte, opts ...client.Option) []client.GetResult
	MultiPut(ctx context.Context, items []client.Item) []client.PutResult
	NewBatch() *client.Batch

	List(ctx context.Context, q client.Query) iter.Seq2[client.Entry, error]
	Nodes(ctx context.Context) []client.Node
	Table() *control.Table
}

var _ Store = (*client.Client)(nil)

// A Serve runs one face on a listener until ctx ends, and closes the listener. It returns once it has
// joined all that it started and released every buffer. An error is about the listener.
type Serve func(ctx context.Context, l net.Listener, s Store) error

// A Face is one protocol that a process serves.
type Face struct {
	Name     string // for messages
	Listener net.Listener
	Serve    Serve
}

// Run opens a client, as soon as there is a table, and serves the faces with it until ctx ends or one of
// them fails. It closes the listeners.
func Run(ctx context.Context, cfg client.Config, faces []Face) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, f := range faces {
		defer f.Listener.Close() // mostly again
	}
	c, err := open(ctx, cfg)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	for _, f := range faces {
		wg.Go(func() {
			if err := f.Serve(ctx, f.Listener, c); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", f.Name, err))
			}
		})
	}
	wg.Wait()
	err = context.Cause(ctx)
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, c.Close())
}

// open waits for the first table as long as ctx lets it.
func open(ctx context.Context, cfg client.Config) (*client.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, math.MaxInt64)
	defer cancel()
	return client.Open(ctx, cfg)
}
