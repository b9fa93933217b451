package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/control"
)

func (a *app) locateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "locate KEY",
		Short: "Show which partition and node a key belongs to, whether it has a value or not",
		Args:  usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := a.key(args[0])
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(c *client.Client) error {
				l, err := c.Locate(key)
				if err != nil {
					return err
				}
				return a.printLocation(key, l, c.Table())
			})
		},
	}
}

func (a *app) printLocation(key []byte, l client.Location, of *control.Table) error {
	result := struct {
		Key          jsonKey  `json:"key"`
		Partition    int      `json:"partition"`
		Epoch        uint32   `json:"epoch"`
		Owner        string   `json:"owner"`
		Addr         string   `json:"addr"`
		Backups      []string `json:"backups,omitempty"`
		MovesTo      string   `json:"moves_to,omitempty"`
		Losses       uint32   `json:"losses"`
		TableVersion uint64   `json:"table_version"`
	}{key, int(l.Partition), l.Row.Epoch, l.Owner.Name, l.Owner.Addr, nil, "", l.Row.Losses, of.Version}
	for _, m := range l.Backups {
		result.Backups = append(result.Backups, m.Name)
	}
	if l.MovesTo != nil {
		result.MovesTo = l.MovesTo.Name
	}
	return a.print(result, func(t table) {
		t.row("key", a.show(key))
		t.row("partition", fmt.Sprintf("%d (epoch %d, lost %d times)", result.Partition, result.Epoch, result.Losses))
		t.row("owner", fmt.Sprintf("%s (%s)", result.Owner, result.Addr))
		if len(result.Backups) > 0 {
			t.row("backups", strings.Join(result.Backups, ", "))
		}
		if result.MovesTo != "" {
			t.row("moves to", result.MovesTo)
		}
		t.row("table", "version "+showVersion(of))
	})
}
