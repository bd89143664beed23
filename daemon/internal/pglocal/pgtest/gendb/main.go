// Command gendb writes the jet table and model types of the migrated schema into a directory, gen/db by default.
//
// It makes a private cluster, migrates an empty database and reads the catalog, so that what it writes depends on the
// migration files alone. It must never read a database that somebody uses.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal"
	"github.com/deliveryd/deliveryd/migrations"
	"github.com/go-jet/jet/v2/generator/metadata"
	generator "github.com/go-jet/jet/v2/generator/postgres"
	"github.com/go-jet/jet/v2/generator/template"
	"github.com/go-jet/jet/v2/postgres"
	_ "github.com/jackc/pgx/v5/stdlib"
)

const schema = "public"

func main() {
	out := flag.String("out", "gen/db", "directory to write; what is in it is removed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *out); err != nil {
		fmt.Fprintln(os.Stderr, "gendb:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out string) (err error) {
	dir, err := os.MkdirTemp("", "deliveryd-gendb-")
	if err != nil {
		return fmt.Errorf("making a directory for the cluster: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cluster, err := pglocal.Start(ctx, pglocal.Options{Dir: dir, DisableFsync: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Stop(context.WithoutCancel(ctx))) }()
	if err := cluster.CreateDatabase(ctx, "gendb", ""); err != nil {
		return err
	}
	url := cluster.URL("gendb")
	if _, err := migrations.Up(ctx, url, nil); err != nil {
		return err
	}
	db, err := sql.Open("pgx", url)
	if err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	defer db.Close()
	return generate(ctx, db, out)
}

func generate(ctx context.Context, db *sql.DB, out string) error {
	skip, err := skippedTables(ctx, db)
	if err != nil {
		return err
	}
	if err := generator.GenerateDB(db, schema, out, layout(skip)); err != nil {
		return fmt.Errorf("generating from the schema: %w", err)
	}
	return nil
}

// skippedTables are goose's own table and partitions, which no statement names: rows go in and out by their parent.
func skippedTables(ctx context.Context, db *sql.DB) ([]string, error) {
	rows, err := db.QueryContext(ctx, `
		select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where n.nspname = $1 and (c.relispartition or c.relname = $2)`, schema, migrations.Table)
	if err != nil {
		return nil, fmt.Errorf("listing tables to leave out: %w", err)
	}
	defer rows.Close()
	var skip []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, fmt.Errorf("listing tables to leave out: %w", err)
		}
		skip = append(skip, name)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("listing tables to leave out: %w", err)
	}
	return skip, nil
}

// layout puts packages model, table and view straight into the output directory: there is one schema.
func layout(skip []string) template.Template {
	return template.Default(postgres.Dialect).UseSchema(func(s metadata.Schema) template.Schema {
		model := template.DefaultModel().UseTable(func(t metadata.Table) template.TableModel {
			m := template.DefaultTableModel(t)
			m.Skip = slices.Contains(skip, t.Name)
			return m
		})
		builder := template.DefaultSQLBuilder().UseTable(func(t metadata.Table) template.TableSQLBuilder {
			b := template.DefaultTableSQLBuilder(t)
			b.Skip = slices.Contains(skip, t.Name)
			return b
		})
		return template.DefaultSchema(s).UsePath("").UseModel(model).UseSQLBuilder(builder)
	})
}
