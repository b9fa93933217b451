package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
)

func (a *app) statCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stat KEY",
		Short: "Show a value's size, generation and remaining life",
		Args:  usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := a.key(args[0])
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(c *client.Client) error {
				meta, err := c.Stat(cmd.Context(), key)
				if err != nil {
					return err
				}
				return a.print(jsonMeta(key, meta), func(t table) {
					t.row("key", a.show(key))
					t.row("size", meta.Size)
					t.row("generation", meta.Generation)
					t.row("ttl", showTTL(meta.TTL))
				})
			})
		},
	}
}

// A metaResult is what there is to know of a value, for machines.
type metaResult struct {
	Key        jsonKey             `json:"key"`
	Size       int64               `json:"size"`
	Generation dramnode.Generation `json:"generation"`
	TTLMillis  int64               `json:"ttl_ms,omitempty"` // remaining; 0: for ever
}

func jsonMeta(key []byte, m client.Meta) metaResult {
	return metaResult{key, m.Size, m.Generation, m.TTL.Milliseconds()}
}

func showTTL(ttl time.Duration) string {
	if ttl == 0 {
		return "-"
	}
	return ttl.Round(time.Millisecond).String()
}
