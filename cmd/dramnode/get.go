package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
)

func (a *app) getCommand() *cobra.Command {
	var span, out string
	cmd := &cobra.Command{
		Use:   "get KEY",
		Short: "Write a value to standard output or a file",
		Example: `  dramnode get greeting
  dramnode get model/weights --range 0:4096 -o head.bin
  dramnode get log --range -100`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := a.key(args[0])
			if err != nil {
				return err
			}
			var opts []client.Option
			if cmd.Flags().Changed("range") {
				opt, err := parseRange(span)
				if err != nil {
					return err
				}
				opts = append(opts, opt)
			}
			return a.with(cmd.Context(), func(c *client.Client) error {
				v, err := c.Get(cmd.Context(), key, opts...)
				if err != nil {
					return err
				}
				return a.output(key, v, out)
			})
		},
	}
	cmd.Flags().StringVar(&span, "range", "", "part of the value: `a:b`, a: or -n (the last n bytes)")
	cmd.Flags().StringVarP(&out, "output", "o", "", "write to `FILE`, which appears complete or not at all")
	return cmd
}

// output writes a value to the file out, or to standard output, and with --json says what it is.
func (a *app) output(key []byte, v client.Value, out string) error {
	if out != "" {
		if err := replaceFile(out, v.Bytes); err != nil {
			return err
		}
		v.Bytes = nil
	}
	if a.json {
		return a.print(jsonValue(key, v), nil)
	}
	_, err := a.stdout.Write(v.Bytes)
	return err
}

// A valueResult is one value for machines. Value, in base64, is that of the range that was asked for.
type valueResult struct {
	metaResult
	Value []byte `json:"value,omitzero"` // of a value of 0 bytes: ""
}

func jsonValue(key []byte, v client.Value) valueResult {
	return valueResult{jsonMeta(key, v.Meta), v.Bytes}
}

// parseRange reads "a:b", "a:" and "-n".
func parseRange(text string) (client.Option, error) {
	start, end, pair := strings.Cut(text, ":")
	if n, found := strings.CutPrefix(text, "-"); found && !pair {
		if n, err := strconv.ParseInt(n, 10, 64); err == nil && n >= 0 {
			return client.Suffix(n), nil
		}
	}
	from, fromErr := strconv.ParseUint(start, 10, 63)
	to, toErr := strconv.ParseUint(end, 10, 63)
	switch {
	case pair && fromErr == nil && end == "":
		return client.Range(int64(from), -1), nil
	case pair && fromErr == nil && toErr == nil && from <= to:
		return client.Range(int64(from), int64(to)), nil
	}
	return client.Option{}, fmt.Errorf("%w: --range %q, want a:b, a: or -n", dramnode.ErrInvalid, text)
}

// replaceFile makes name a file with these bytes in one step. What is there and no file, such as
// /dev/null or a pipe, is written to.
func replaceFile(name string, bytes []byte) (err error) {
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		return os.WriteFile(name, bytes, 0)
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".dramnode-*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(bytes)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Chmod(f.Name(), 0o644)
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error says what went wrong
	}
	return err
}
