package main

import (
	"github.com/spf13/cobra"

	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/cmd/dramnode/tree"
)

func (a *app) exportCommand() *cobra.Command {
	var o tree.Options
	cmd := &cobra.Command{
		Use:   "export PREFIX DIR",
		Short: "Write every value under a prefix to a file below a directory",
		Long: `Write the value of every key that starts with PREFIX to DIR, under the rest of the key. The checksum of
each value is verified. A file appears complete or not at all; one that is there is replaced. Keys that
would not be paths below DIR, such as ../x or /x, are refused and make the exit code not 0.`,
		Example: `  dramnode export model/ ./model`,
		Args:    usage(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			prefix, err := a.bytes(args[0])
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(c *client.Client) error {
				return a.copyTree(o, func(o tree.Options) (tree.Summary, error) {
					return tree.Export(cmd.Context(), treeStore{c}, string(prefix), args[1], o)
				})
			})
		},
	}
	parallelFlag(cmd.Flags(), &o)
	return cmd
}
