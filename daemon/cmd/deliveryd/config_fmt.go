package main

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/internal/config"
)

func newConfigFmt() *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use: "fmt [PATH...]", Short: "Bring configuration files into the canonical style",
		Long: "Rewrites files, and the *.hcl files in directories, in place and prints the names of those that changed.\n" +
			"Without a path, those in the current directory; with -, standard input is formatted to standard output.\n" +
			"With a syntax error in any of them nothing is written, and the exit code is 3.",
		Example: "  deliveryd config fmt /etc/deliveryd\n  deliveryd config fmt --check delivery.hcl\n  deliveryd config fmt - < delivery.hcl",
		Args:    cobra.ArbitraryArgs,
	}
	cmd.Flags().BoolVar(&check, "check", false, "write nothing; exit with 3 when a file is not in the canonical style")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 && args[0] == "-" {
			return formatInput(cmd, check)
		}
		if len(args) == 0 {
			args = []string{"."}
		}
		changed, found, err := config.FormatFiles(args, check)
		for _, name := range changed {
			_, _ = fmt.Fprintln(cmd.OutOrStdout(), name)
		}
		if err != nil {
			return err
		}
		if err := printFindings(cmd, found); err != nil {
			return err
		}
		return failIf(check && len(changed) > 0)
	}
	return cmd
}

// maxInput bounds standard input: more is no configuration.
const maxInput = 64 << 20

func formatInput(cmd *cobra.Command, check bool) error {
	text, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxInput+1))
	if err != nil {
		return fmt.Errorf("reading standard input: %w", err)
	}
	if len(text) > maxInput {
		return fmt.Errorf("standard input has more than %d bytes", maxInput)
	}
	formatted, found := config.Format(config.Source{Name: "<stdin>", Bytes: text})
	if err := printFindings(cmd, found); err != nil {
		return err
	}
	if check {
		return failIf(!bytes.Equal(formatted, text))
	}
	_, err = cmd.OutOrStdout().Write(formatted)
	return err
}

func newConfigDocs() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "docs", Short: "Write the reference of all settings, docs/configuration.md",
		Long: "Writes the reference of all settings that this version has, with their types, defaults and ranges, as Markdown.",
	}
	cmd.Flags().StringVar(&output, "output", "", "file to write (default: standard output)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var text bytes.Buffer
		if err := config.Markdown(&text); err != nil {
			return err
		}
		if output == "" {
			_, err := cmd.OutOrStdout().Write(text.Bytes())
			return err
		}
		if err := os.WriteFile(output, text.Bytes(), 0o644); err != nil {
			return fmt.Errorf("writing the reference: %w", err)
		}
		return nil
	}
	return cmd
}
