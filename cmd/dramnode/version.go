package main

import (
	"runtime"

	"github.com/spf13/cobra"

	"github.com/dramnode/dramnode/ucxnet"
	"github.com/dramnode/dramnode/wire"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the versions of this build, its protocol, Go and UCX",
		Args:  usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			ucx, err := ucxnet.Version()
			if err != nil {
				ucx = err.Error()
			}
			v := struct {
				Version  string `json:"version"`
				Go       string `json:"go"`
				Protocol int    `json:"protocol"`
				Platform string `json:"platform"`
				UCX      string `json:"ucx"` // or why it cannot be used
			}{version, runtime.Version(), wire.Version, runtime.GOOS + "/" + runtime.GOARCH, ucx}
			return a.print(v, func(t table) {
				t.row("dramnode", v.Version)
				t.row("protocol", v.Protocol)
				t.row("Go", v.Go)
				t.row("platform", v.Platform)
				t.row("UCX", v.UCX)
			})
		},
	}
}
