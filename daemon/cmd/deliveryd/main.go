// Command deliveryd is the daemon and its command line. Each command has a file;
// what a command does is in the packages below daemon/internal: here are only
// flags, texts for people, and exit codes.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/deliveryd/deliveryd/sdk/pace"
)

// version is set by the linker.
var version = "dev"

func main() {
	os.Exit(run(context.Background(), pace.Start(pace.HostSpare), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run runs the command line and returns the exit code.
func run(ctx context.Context, pacer *pace.Pacer, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot(pacer)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	code, text := explain(err)
	if text != "" {
		_, _ = fmt.Fprintln(stderr, "deliveryd: "+text)
	}
	return code
}
