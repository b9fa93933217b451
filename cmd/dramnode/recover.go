package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
)

func (a *app) recoverCommand() *cobra.Command {
	var dead []string
	cmd := &cobra.Command{
		Use:   "recover --assert-dead NAME,...",
		Short: "Let the nodes that are left go on after most voters were lost for good",
		Long: `Let the nodes that are left go on after most of those that vote were lost for good (no quorum, everywhere).
They go on by themselves once all that are missing were restarted under their names: this is for when that
cannot be. You assert that the processes with these names are dead and that nobody talks to them any more;
if one of them lives, what it acknowledges meanwhile is lost. Each node that is not named must be reachable.

The node at --addr, one of those that are left, does it. It refuses when it has a lease, and when a node that you
named answers. Partitions go on with the copies that are left, and are counted as losses until
"dramnode partitions --accept-loss", since the newest writes may be gone. Said again, it goes on where it was.`,
		Example: "  dramnode --addr 10.0.0.4:12345 recover --assert-dead n1,n2",
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(dead) == 0 {
				return fmt.Errorf("%w: --assert-dead is missing: which nodes are dead? (usage: %s)", dramnode.ErrInvalid, cmd.UseLine())
			}
			return a.with(cmd.Context(), func(c *client.Client) error {
				r, err := c.Recover(cmd.Context(), a.addrs[0], dead)
				if err != nil {
					return err
				}
				return a.print(r, func(out table) {
					out.row(fmt.Sprintf("era %d: %s go on", r.Era, strings.Join(r.Nodes, ", ")))
					out.row(fmt.Sprintf("%d partitions go on with the copies that are left, and may have lost acknowledged writes", r.Doubts))
					out.row(fmt.Sprintf("%d partitions have no copy left", r.Lost))
				})
			})
		},
	}
	cmd.Flags().StringSliceVar(&dead, "assert-dead", nil, "`names` of nodes that are dead")
	return cmd
}
