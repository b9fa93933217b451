package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/config"
	"github.com/dramnode/dramnode/gateway/object"
)

func (a *app) lsCommand() *cobra.Command {
	var limit int
	var long, all bool
	cmd := &cobra.Command{
		Use:   "ls [PREFIX]",
		Short: "List keys in order; with -l also sizes and generations",
		Long: `List the keys that start with PREFIX, in bytewise order. With --json there is one object per line. A node
that cannot be reached is an error, never a gap. What the S3 and GCS faces keep beside objects is listed with --all,
or with a PREFIX that names it.`,
		Args: usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return fmt.Errorf("%w: --limit %d, want 0 or more", dramnode.ErrInvalid, limit)
			}
			q := client.Query{Limit: limit}
			if len(args) > 0 {
				var err error
				if q.Prefix, err = a.bytes(args[0]); err != nil {
					return err
				}
			}
			return a.with(cmd.Context(), func(c *client.Client) error {
				list := c.List
				if !all && !strings.HasPrefix(string(q.Prefix), object.Hidden) {
					list = object.Guard(c).List
				}
				w := bufio.NewWriter(a.stdout)
				for e, err := range list(cmd.Context(), q) {
					if err == nil {
						err = a.printEntry(w, e, long)
					}
					if err != nil {
						return errors.Join(w.Flush(), err)
					}
				}
				return w.Flush()
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 0, "at most so many keys; 0: all")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also what the S3 and GCS faces keep beside objects")
	cmd.Flags().BoolVarP(&long, "long", "l", false, "size and generation too")
	return cmd
}

// printEntry writes one line. A list may be long, so it is not held back for columns.
func (a *app) printEntry(w *bufio.Writer, e client.Entry, long bool) (err error) {
	switch {
	case a.json:
		return json.NewEncoder(w).Encode(struct {
			Key        jsonKey             `json:"key"`
			Size       int64               `json:"size"`
			Generation dramnode.Generation `json:"generation"`
		}{e.Key, e.Size, e.Generation})
	case long:
		_, err = fmt.Fprintf(w, "%10s  %20d  %s\n", config.Bytes(e.Size).Human(), e.Generation, a.show(e.Key))
	default:
		_, err = fmt.Fprintln(w, a.show(e.Key))
	}
	return err
}
