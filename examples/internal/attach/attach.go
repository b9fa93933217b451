// Package attach opens a client over UCX for the examples: it is all the wiring that a program needs.
package attach

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/config"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/ucxnet"
)

// Flags says which cluster is meant.
type Flags struct {
	addrs, cluster, keyFile string
}

// New adds the flags of every example to flags.
func New(flags *flag.FlagSet) *Flags {
	f := &Flags{addrs: client.DefaultAddr}
	if env := os.Getenv("DRAMNODE_ADDR"); env != "" {
		f.addrs = env
	}
	flags.StringVar(&f.addrs, "addrs", f.addrs, "comma-separated `addresses` of nodes; also $DRAMNODE_ADDR")
	flags.StringVar(&f.cluster, "cluster-name", "default", "`name` of the cluster")
	flags.StringVar(&f.keyFile, "cluster-key-file", "", "`file` with the cluster key")
	return f
}

// Addrs returns the addresses one by one.
func (f *Flags) Addrs() []string { return strings.Split(f.addrs, ",") }

// Run is the whole of a small program: it parses its arguments, opens a client, and closes it after do.
func Run(name string, args []string, do func(ctx context.Context, c *client.Client, args []string) error) error {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	cluster := New(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx := context.Background()
	c, err := cluster.Open(ctx, cluster.Addrs()...)
	if err != nil {
		return err
	}
	return errors.Join(do(ctx, c, flags.Args()), c.Close())
}

// Open connects to any of the addresses.
func (f *Flags) Open(ctx context.Context, addrs ...string) (*client.Client, error) {
	key, err := config.ReadKey(f.keyFile)
	if err != nil {
		return nil, err
	}
	network, err := ucxnet.New(ucxnet.Config{
		Identity: transport.Identity{
			Role:        transport.RoleClient,
			Name:        fmt.Sprintf("example:%d", os.Getpid()),
			Incarnation: rand.Uint64() | 1,
			Cluster:     f.cluster,
			Key:         key,
		},
		Log: zerolog.Nop(),
	})
	if err != nil {
		return nil, err
	}
	return client.Open(ctx, client.Config{Network: network, Addrs: addrs})
}
