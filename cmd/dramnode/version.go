package main

import (
	"runtime"

	"github.com/spf13/cobra"

	"github.com/dramnode/dramnode/wire"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the versions of this build, its protocol and Go",
		Args:  usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version  string `json:"version"`
				Go       string `json:"go"`
				Protocol int    `json:"protocol"`
				Platform string `json:"platform"`
			}{version, runtime.Version(), wire.Version, runtime.GOOS + "/" + runtime.GOARCH}
			return a.print(v, func(t table) {
				t.row("dramnode", v.Version)
				t.row("protocol", v.Protocol)
				t.row("Go", v.Go)
				t.row("platform", v.Platform)
			})
		},
	}
}
