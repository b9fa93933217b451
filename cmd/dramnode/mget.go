package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dramnode/dramnode/client"
)

func (a *app) mgetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "mget KEY...",
		Short: "Read many values at once; one line each",
		Args:  usage(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := a.keys(args)
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), func(c *client.Client) error {
				return a.printValues(keys, c.MultiGet(cmd.Context(), keys))
			})
		},
	}
}

// printValues shows every value that could be read and returns the errors of the others.
func (a *app) printValues(keys [][]byte, results []client.GetResult) error {
	values, faults := []valueResult{}, []error(nil)
	for i, r := range results {
		if r.Err != nil {
			faults = append(faults, fmt.Errorf("%w: key %s", r.Err, a.show(keys[i])))
			continue
		}
		values = append(values, jsonValue(keys[i], r.Value))
	}
	err := a.print(values, func(t table) {
		for _, v := range values {
			t.row(a.show(v.Key), a.show(v.Value))
		}
	})
	return errors.Join(err, errors.Join(faults...))
}
