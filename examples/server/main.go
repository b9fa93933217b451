// Command server embeds a node in a program of one's own. Without arguments it is a cluster of one.
//
//	go run ./examples/server [-listen host:port] [-gossip host:port] [-join host:port,...]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode/node"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/ucxnet"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], zerolog.New(os.Stderr).With().Timestamp().Logger()); err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends; then the node gives its partitions to the others and leaves.
func run(ctx context.Context, args []string, log zerolog.Logger) error {
	flags := flag.NewFlagSet("server", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:12345", "`address` for clients and peers")
	gossip := flags.String("gossip", "127.0.0.1:12346", "`address` for gossip")
	join := flags.String("join", "", "comma-separated gossip `addresses` of other nodes")
	if err := flags.Parse(args); err != nil {
		return err
	}
	c := node.Config{Listen: *listen, Gossip: *gossip, MemoryBytes: 256 << 20, Verify: true, Version: "example", Log: log}
	if *join != "" {
		c.Join = strings.Split(*join, ",")
	}
	c.Open = func(id transport.Identity, h transport.Handler, ev transport.Events) (transport.Network, error) {
		n, err := ucxnet.New(ucxnet.Config{Identity: id, Listen: *listen, Handler: h, Events: ev, Log: log})
		if err != nil {
			return nil, err // not a nil *ucxnet.Network, which is no nil transport.Network
		}
		return n, nil
	}
	n, err := node.New(c)
	if err != nil {
		return err
	}
	return n.Run(ctx)
}
