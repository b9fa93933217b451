package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
)

// maxInputBytes limits what put reads before it asks the cluster for its own limit.
const maxInputBytes = 1 << 30

func (a *app) putCommand() *cobra.Command {
	var generation uint64
	var absent bool
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "put KEY [FILE|-]",
		Short: "Store a value from a file, or from standard input",
		Example: `  echo hello | dramnode put greeting
  dramnode put model/weights weights.bin --if-absent --ttl 1h`,
		Args: usage(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := a.key(args[0])
			if err != nil {
				return err
			}
			opts, err := putOptions(cmd.Flags().Changed("if-generation"), dramnode.Generation(generation), absent, ttl)
			if err != nil {
				return err
			}
			value, err := a.input(args[1:])
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(c *client.Client) error {
				g, err := c.Put(cmd.Context(), key, value, opts...)
				if err != nil {
					return err
				}
				return a.print(putResult{key, g, len(value)}, func(t table) { t.row(g) })
			})
		},
	}
	cmd.Flags().Uint64Var(&generation, "if-generation", 0, "only if the key has this generation; 0: no value")
	cmd.Flags().BoolVar(&absent, "if-absent", false, "only if the key has no value")
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "life time of the value; 0: for ever")
	return cmd
}

type putResult struct {
	Key        jsonKey             `json:"key"`
	Generation dramnode.Generation `json:"generation"`
	Size       int                 `json:"size"`
}

func putOptions(conditional bool, g dramnode.Generation, absent bool, ttl time.Duration) ([]client.Option, error) {
	var opts []client.Option
	switch {
	case conditional && absent:
		return nil, fmt.Errorf("%w: --if-generation and --if-absent exclude each other", dramnode.ErrInvalid)
	case ttl < 0:
		return nil, fmt.Errorf("%w: --ttl %v, want 0 or more", dramnode.ErrInvalid, ttl)
	case conditional:
		opts = append(opts, client.IfGeneration(g))
	case absent:
		opts = append(opts, client.IfAbsent())
	}
	if ttl > 0 {
		opts = append(opts, client.TTL(ttl))
	}
	return opts, nil
}

// input returns the bytes of the file in args, or of standard input when there is none or it is "-".
func (a *app) input(args []string) ([]byte, error) {
	from := a.stdin
	if len(args) > 0 && args[0] != "-" {
		f, err := os.Open(args[0])
		if err != nil {
			return nil, fmt.Errorf("%w: %w", dramnode.ErrInvalid, err)
		}
		defer f.Close() // only read
		from = f
	}
	value, err := io.ReadAll(io.LimitReader(from, maxInputBytes+1))
	if err != nil {
		return nil, err
	}
	if len(value) > maxInputBytes {
		return nil, fmt.Errorf("%w: more than %d bytes", dramnode.ErrTooLarge, maxInputBytes)
	}
	return value, nil
}
