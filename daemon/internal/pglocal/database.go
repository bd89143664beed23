package pglocal

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrDatabaseExists is returned by CreateDatabase when there is a database of that name.
var ErrDatabaseExists = errors.New("database exists")

// duplicateDatabase is the SQLSTATE of "create database" for a name that is taken.
const duplicateDatabase = "42P04"

// CreateDatabase makes a database as a copy of template, which nobody may be connected to; "" means an empty one.
func (c *Cluster) CreateDatabase(ctx context.Context, name, template string) error {
	if template == "" {
		template = "template1"
	}
	err := c.exec(ctx, "create database "+quoteIdent(name)+" template "+quoteIdent(template))
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == duplicateDatabase {
		return fmt.Errorf("creating database %q: %w", name, ErrDatabaseExists)
	}
	if err != nil {
		return fmt.Errorf("creating database %q from %q: %w", name, template, err)
	}
	return nil
}

// DropDatabase removes a database and cuts the connections to it. It is no error when there is none.
func (c *Cluster) DropDatabase(ctx context.Context, name string) error {
	if err := c.exec(ctx, "drop database if exists "+quoteIdent(name)+" with (force)"); err != nil {
		return fmt.Errorf("dropping database %q: %w", name, err)
	}
	return nil
}

// exec runs one statement as the role on the maintenance database.
func (c *Cluster) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// ping opens and closes one connection.
func (c *Cluster) ping(ctx context.Context) error {
	conn, err := pgconn.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}
