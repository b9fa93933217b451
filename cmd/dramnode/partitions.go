package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/control"
)

func (a *app) partitionsCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "partitions",
		Short: "Show how many partitions each node owns, gives and gets, and what was lost",
		Args:  usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(c *client.Client) error {
				return a.printPartitions(c.Table(), all)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "show every partition")
	return cmd
}

type partitionRow struct {
	Partition int    `json:"partition"`
	Owner     string `json:"owner"`
	Epoch     uint32 `json:"epoch"`
	MovesTo   string `json:"moves_to,omitempty"`
	Losses    uint32 `json:"losses"`
}

type partitionShare struct {
	Node    string `json:"node"`
	Addr    string `json:"addr"`
	Owns    int    `json:"owns"`
	Gives   int    `json:"gives"` // of those it owns, under way to another node
	Gets    int    `json:"gets"`
	Leaving bool   `json:"leaving,omitempty"`
}

func (a *app) printPartitions(t *control.Table, all bool) error {
	rows, shares, losses, moves := summarize(t)
	result := struct {
		TableVersion uint64           `json:"table_version"`
		Partitions   int              `json:"partitions"`
		Routing      string           `json:"routing"`
		Moves        int              `json:"moves"`
		Losses       uint64           `json:"losses"`
		Nodes        []partitionShare `json:"nodes"`
		Rows         []partitionRow   `json:"rows,omitempty"`
	}{t.Version, len(rows), t.Settings.Strategy.String(), moves, losses, shares, nil}
	if all {
		result.Rows = rows
	}
	return a.print(result, func(out table) {
		out.row("NODE", "ADDRESS", "OWNS", "SHARE", "GIVES", "GETS")
		for _, s := range shares {
			out.row(s.Node, s.Addr, s.Owns, fmt.Sprintf("%.1f %%", 100*float64(s.Owns)/float64(max(len(rows), 1))), s.Gives, s.Gets)
		}
		out.row(fmt.Sprintf("%d partitions (%s), table version %d, %d on the move, %d losses", len(rows), result.Routing, t.Version, moves, losses))
		if all {
			out.row("PARTITION", "OWNER", "EPOCH", "MOVES TO", "LOSSES")
			for _, r := range rows {
				out.row(r.Partition, r.Owner, r.Epoch, or(r.MovesTo, "-"), r.Losses)
			}
		}
	})
}

// summarize counts a table's rows by member.
func summarize(t *control.Table) (rows []partitionRow, shares []partitionShare, losses uint64, moves int) {
	for _, m := range t.Members {
		shares = append(shares, partitionShare{Node: m.Name, Addr: m.Addr, Leaving: m.Leaving})
	}
	for p, r := range t.Rows {
		row := partitionRow{Partition: p, Owner: t.Members[r.Owner].Name, Epoch: r.Epoch, Losses: r.Losses}
		shares[r.Owner].Owns++
		losses += uint64(r.Losses)
		if r.MoveTo != control.None {
			row.MovesTo = t.Members[r.MoveTo].Name
			shares[r.Owner].Gives++
			shares[r.MoveTo].Gets++
			moves++
		}
		rows = append(rows, row)
	}
	return rows, shares, losses, moves
}
