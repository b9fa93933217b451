// Command pipeline passes data through three stages, collect, process and aggregate, that share nothing
// but keys. Each stage has its own client, attached to another node if there are three: any node serves
// any key, so it does not matter who put a value where.
//
//	go run ./examples/pipeline [-addrs host:port,host:port,host:port] [-items n]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/dramnode/dramnode/examples/internal/attach"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "pipeline:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("pipeline", flag.ContinueOnError)
	cluster := attach.New(flags)
	items := flags.Int("items", 100, "`number` of items")
	limit := flags.Duration("limit", time.Minute, "`time` after which it gives up")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), *limit)
	defer cancel()
	var stores [3]store
	var closers []io.Closer
	addrs := cluster.Addrs()
	var err error
	for i := range stores {
		addr := addrs[i%len(addrs)]
		c, openErr := cluster.Open(ctx, addr)
		if openErr != nil {
			err = openErr
			break
		}
		stores[i], closers = c, append(closers, c)
		fmt.Fprintf(out, "%-9s is attached to %s\n", [...]string{"collect", "process", "aggregate"}[i], addr)
	}
	if err == nil {
		p := pipeline{prefix: fmt.Sprintf("pipeline/%08x/", rand.Uint32()), items: *items}
		err = p.run(ctx, stores, out)
	}
	for _, c := range closers {
		err = errors.Join(err, c.Close())
	}
	return err
}
