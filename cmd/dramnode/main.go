// Command dramnode runs a node of a cluster, and reads and writes the cluster from the shell.
//
// It parses, wires and prints; what it decides nothing about is in the packages below it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker: -X main.version=...
var version = "unknown"

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run does what args say and returns the process's exit code. The first SIGINT or SIGTERM ends ctx;
// from then on signals have their default effect again, so a second one ends the process at once.
func run(args []string, stdin, stdout, stderr *os.File) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, lookup: os.LookupEnv}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err != nil {
		if a.effective == nil {
			_ = a.load() // cobra found a fault before it came to the environment, which may ask for JSON
		}
		a.printError(err)
	}
	return exitCode(err)
}
