package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (a *app) configCommand(serve *pflag.FlagSet) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show the effective settings and where each comes from",
		Args:  usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			settings := a.derived()
			return a.print(settings, func(t table) {
				t.row("SETTING", "VALUE", "SOURCE")
				for _, s := range settings {
					t.row(s.Name, s.Value, s.Source)
				}
			})
		},
	}
	cmd.Flags().AddFlagSet(serve)
	return cmd
}
