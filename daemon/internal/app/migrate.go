package app

import (
	"context"
	"errors"
	"log/slog"

	"github.com/deliveryd/deliveryd/migrations"
)

// MigrateUp applies the migrations that the configuration's database lacks and
// returns them.
func MigrateUp(ctx context.Context, o Options) (applied []migrations.Migration, err error) {
	err = o.withDatabase(ctx, func(url string) (err error) {
		applied, err = migrations.Up(ctx, url, nil)
		return err
	})
	return applied, err
}

// MigrationStatus returns every migration and whether it is applied.
func MigrationStatus(ctx context.Context, o Options) (all []migrations.Migration, err error) {
	err = o.withDatabase(ctx, func(url string) (err error) {
		all, err = migrations.Status(ctx, url)
		return err
	})
	return all, err
}

// withDatabase starts the configuration's private PostgreSQL, if it has one, for
// as long as do runs.
func (o Options) withDatabase(ctx context.Context, do func(url string) error) error {
	o = o.withDefaults()
	cfg, found, err := o.load(ctx)
	if err != nil {
		return err
	}
	if found.HasErrors() {
		return &ConfigError{found}
	}
	database, err := openDatabase(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	return errors.Join(do(database.url), database.close(context.WithoutCancel(ctx)))
}
