package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/internal/app"
	"github.com/deliveryd/deliveryd/migrations"
)

func newMigrate() *cobra.Command {
	return group("migrate", "Look at or change the database's schema",
		migrateCommand("up", "Bring the database's schema up to date", "applied", app.MigrateUp),
		migrateCommand("status", "Show which migrations are applied", "", app.MigrationStatus),
	)
}

func migrateCommand(use, short, done string, do func(context.Context, app.Options) ([]migrations.Migration, error)) *cobra.Command {
	var paths []string
	var asJSON bool
	cmd := &cobra.Command{Use: use + " --config PATH", Short: short}
	addConfig(cmd, &paths)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := needConfig(paths); err != nil {
			return err
		}
		list, err := do(cmd.Context(), app.Options{ConfigPaths: paths, Version: version})
		if err != nil {
			return shown(cmd, err)
		}
		if asJSON {
			if list == nil {
				list = []migrations.Migration{}
			}
			return printJSON(cmd.OutOrStdout(), list)
		}
		if len(list) == 0 && done != "" {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "the schema is up to date")
			return err
		}
		rows := make([][]string, len(list))
		for i, m := range list {
			state := "pending"
			if !m.AppliedAt.IsZero() {
				state = "applied at " + when(&m.AppliedAt)
			}
			rows[i] = []string{strconv.FormatInt(m.Version, 10), m.File, state}
		}
		return table(cmd.OutOrStdout(), []string{"VERSION", "FILE", "STATE"}, rows)
	}
	return cmd
}
