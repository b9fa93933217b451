package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dramnode/dramnode/client"
)

func (a *app) delCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "del KEY...",
		Short: "Delete values; one that is not there counts as deleted",
		Args:  usage(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := a.keys(args)
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(c *client.Client) error {
				var faults []error
				for _, key := range keys {
					if err := c.Delete(cmd.Context(), key); err != nil {
						faults = append(faults, fmt.Errorf("%w: key %s", err, a.show(key)))
					}
				}
				done := struct {
					Deleted int `json:"deleted"`
				}{len(keys) - len(faults)}
				return errors.Join(a.print(done, func(table) {}), errors.Join(faults...))
			})
		},
	}
}
