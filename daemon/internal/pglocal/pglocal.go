// Package pglocal runs a private PostgreSQL cluster: the embedded default of the daemon and the server of the tests.
//
// It finds the server binaries that the system has, makes a cluster in a directory of its own, starts the server as an
// unprivileged user (PostgreSQL refuses to run as root), waits until it answers and stops it with the process that
// started it, also when that process is killed. One directory belongs to one process at a time.
//
// It must never download binaries, touch a cluster that it did not make, turn off fsync unless a test asks for it, or
// pass the daemon's environment (which holds secrets) to the server.
package pglocal

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Role is the name of the superuser role of every cluster that this package makes.
const Role = "deliveryd"

var (
	// ErrNoBinaries is returned by Start when no directory with initdb and postgres was found.
	ErrNoBinaries = errors.New("no PostgreSQL server binaries found")
	// ErrInUse is returned by Start when another process runs a server on the data directory.
	ErrInUse = errors.New("data directory is in use")
	// ErrVersion is returned by Start when the data directory was made by another major version than the binaries found,
	// or when the binaries are too old.
	ErrVersion = errors.New("PostgreSQL version does not fit")
)

// Options says where a cluster lives and how its server runs.
type Options struct {
	// Dir is the directory that holds the cluster (subdirectory data), its socket and its password. It is made when it
	// does not exist. Required.
	Dir string
	// BinDir is the directory with initdb and postgres. Default: searched in PATH, pg_config --bindir and the places
	// where distributions put them, newest version first; the version that made Dir wins.
	BinDir string
	// Settings are further server settings, which win over those that this package chooses. Default: none.
	Settings map[string]string
	// DisableFsync makes a crash of the machine destroy the cluster, for speed. For tests that are not about
	// durability, never for a user's data. Default: false.
	DisableFsync bool
	// StartTimeout bounds the wait until the server answers; crash recovery counts. Default: 2 minutes.
	StartTimeout time.Duration
	// StopTimeout bounds a fast shutdown, which writes a checkpoint; then follows an immediate one. Default: 30 seconds.
	StopTimeout time.Duration
	// Logger receives what the server writes to stderr. Default: nothing is logged.
	Logger hclog.Logger
}

func (o Options) withDefaults() Options {
	if o.StartTimeout <= 0 {
		o.StartTimeout = 2 * time.Minute
	}
	if o.StopTimeout <= 0 {
		o.StopTimeout = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	return o
}

// Cluster is a running server with its data directory. Its methods are safe for concurrent use.
type Cluster struct {
	opts     Options
	bin      binaries
	account  account
	dir      *directory
	password string

	mu     sync.Mutex
	port   int
	server *server
}

// Start makes the cluster in opts.Dir if there is none, starts its server and returns when it answers. The server lives
// until Stop, or until the calling process ends in whatever way; ctx bounds only the start.
//
// Errors wrap ErrNoBinaries, ErrInUse or ErrVersion where they apply.
func Start(ctx context.Context, opts Options) (_ *Cluster, err error) {
	opts = opts.withDefaults()
	if err := checkSettings(opts.Settings); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, opts.StartTimeout,
		fmt.Errorf("PostgreSQL did not answer within %s", opts.StartTimeout))
	defer cancel()

	dir, err := openDirectory(opts.Dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			dir.close()
		}
	}()

	c := &Cluster{opts: opts, dir: dir}
	made, err := dir.majorVersion()
	if err != nil {
		return nil, err
	}
	if c.bin, err = findBinaries(ctx, opts.BinDir, made); err != nil {
		return nil, err
	}
	if c.account, err = serverAccount(dir.data); err != nil {
		return nil, err
	}
	if made == 0 {
		if err := c.initdb(ctx); err != nil {
			return nil, err
		}
	}
	if err := dir.evictOrphan(ctx); err != nil {
		return nil, err
	}
	if err := dir.prepareSocketDir(c.account); err != nil {
		return nil, err
	}
	if err := c.run(ctx); err != nil {
		return nil, err
	}
	if err := c.ensurePassword(ctx); err != nil {
		return nil, errors.Join(err, c.Stop(context.WithoutCancel(ctx)))
	}
	return c, nil
}

// URL returns the connection string of a database over the unix socket. It holds no secret: the server knows the
// operating system's user at the other end and lets in only the one that called Start and the one that it runs as.
func (c *Cluster) URL(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User(Role), Path: "/" + database}
	u.RawQuery = url.Values{"host": {c.dir.socket}, "port": {strconv.Itoa(c.Port())}}.Encode()
	return u.String()
}

// TCPURL returns the connection string of a database over loopback TCP. It holds the role's password: for programs that
// run as another user, such as a connection pooler; not for logs.
func (c *Cluster) TCPURL(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(Role, c.password),
		Host: net.JoinHostPort(loopback, strconv.Itoa(c.Port())), Path: "/" + database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Port returns the loopback TCP port, which also names the socket. It is kept over restarts where it is still free.
func (c *Cluster) Port() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.port
}

// PID returns the process id of the postmaster, for CPU accounting over it and its children.
func (c *Cluster) PID() int {
	return c.current().pid()
}

// Version returns the major version of the server, for example 15.
func (c *Cluster) Version() int { return c.bin.major }

// Exited returns a channel that is closed when the server that runs now has ended, for whatever reason.
func (c *Cluster) Exited() <-chan struct{} {
	return c.current().done
}

// Stop shuts the server down and frees the directory: fast shutdown (open transactions are rolled back, a checkpoint is
// written), after Options.StopTimeout or the end of ctx an immediate one, which costs the next start a crash recovery.
// The error says when it was not clean. A stopped cluster may be stopped again.
func (c *Cluster) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.opts.StopTimeout)
	defer cancel()
	err := c.current().stop(ctx)
	c.dir.close()
	if err != nil {
		return fmt.Errorf("stopping PostgreSQL in %s: %w", c.dir.root, err)
	}
	return nil
}

// Kill ends the server and all its children with SIGKILL and returns when the server is gone, as a power cut would:
// for fault tests. Restart brings it back.
func (c *Cluster) Kill() error {
	if err := c.current().kill(); err != nil {
		return fmt.Errorf("killing PostgreSQL in %s: %w", c.dir.root, err)
	}
	return nil
}

// Restart stops the server if it runs and starts it again on the same socket and port, so that clients can reconnect.
func (c *Cluster) Restart(ctx context.Context) error {
	stopCtx, cancelStop := context.WithTimeout(ctx, c.opts.StopTimeout)
	defer cancelStop()
	if err := c.current().stop(stopCtx); err != nil {
		return fmt.Errorf("stopping PostgreSQL in %s for a restart: %w", c.dir.root, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.opts.StartTimeout,
		fmt.Errorf("PostgreSQL did not answer within %s", c.opts.StartTimeout))
	defer cancel()
	return c.run(ctx)
}

func (c *Cluster) current() *server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.server
}

// ensurePassword sets the role's password the first time. The file is written last: a crash in between costs only a new
// password at the next start.
func (c *Cluster) ensurePassword(ctx context.Context) error {
	password, err := c.dir.readPassword()
	if err == nil {
		c.password = password
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	password, err = newPassword()
	if err != nil {
		return err
	}
	if err := c.exec(ctx, "alter role "+Role+" password '"+password+"'"); err != nil {
		return fmt.Errorf("setting the password of role %s: %w", Role, err)
	}
	c.password = password
	return c.dir.writePassword(password)
}
