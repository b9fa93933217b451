package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/config"
)

// An app is one run of the program.
type app struct {
	stdin, stdout, stderr *os.File
	lookup                func(string) (string, bool) // of the environment

	settings
	serve serveSettings
	file  string // --config
	hex   bool

	known     *pflag.FlagSet   // all settings, those of serve too
	effective []config.Setting // of known, once they are loaded
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "dramnode",
		Short: "DRAM of many machines as one key-value store over UCX",
		Long: `dramnode pools the DRAM of several machines into one key-value store over UCX.

Every global and serve flag is also an environment variable, --cluster-name for example
DRAMNODE_CLUSTER_NAME, and a key of the YAML file --config. Flags win over the environment,
the environment over the file; "dramnode config" shows the outcome.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		Args:              noCommand,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.load() },

		SuggestionsMinimumDistance: 2,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w: %w (see %s --help)", dramnode.ErrInvalid, err, cmd.CommandPath())
	})
	global, serve := a.flags(), a.serve.flags()
	a.known = pflag.NewFlagSet("settings", pflag.ContinueOnError)
	a.known.AddFlagSet(global)
	a.known.AddFlagSet(serve)
	root.PersistentFlags().SortFlags = false
	root.PersistentFlags().AddFlagSet(global)
	root.PersistentFlags().StringVar(&a.file, "config", "", "YAML `file` with settings")
	root.PersistentFlags().BoolVar(&a.hex, "hex", false, "keys are given and shown in hexadecimal")
	root.AddCommand(
		a.serveCommand(serve), a.putCommand(), a.getCommand(), a.delCommand(), a.lsCommand(), a.statCommand(),
		a.mgetCommand(), a.importCommand(), a.exportCommand(), a.nodesCommand(), a.partitionsCommand(), a.recoverCommand(),
		a.locateCommand(), a.benchCommand(), a.configCommand(serve), a.versionCommand(),
	)
	strict(root)
	return root
}

// strict makes usage errors of what cobra's own commands do not know, and would answer with help and exit code 0.
func strict(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Args = func(cmd *cobra.Command, args []string) error {
				if found, rest, _ := cmd.Root().Find(args); found == cmd.Root() {
					return noCommand(found, rest)
				}
				return nil
			}
		case "completion":
			cmd.Args = noCommand
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
}

// noCommand is the check of arguments for a command that has none but its sub-commands.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("; did you mean %q?", near[0])
	}
	return fmt.Errorf("%w: unknown command %q%s (see %s --help)", dramnode.ErrInvalid, args[0], hint, cmd.CommandPath())
}

// usage makes the errors of a cobra check usage errors.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return fmt.Errorf("%w: %w (usage: %s)", dramnode.ErrInvalid, err, cmd.UseLine())
		}
		return nil
	}
}

// load layers environment and file under the flags.
func (a *app) load() (err error) {
	file := a.file
	if file == "" {
		file, _ = a.lookup(config.Variable("config"))
	}
	a.effective, err = config.Load(a.known, a.lookup, file)
	return err
}
