// Package config reads the daemon's configuration: HCL files become one typed
// [Config], and every mistake becomes a diagnostic with its file, line and
// snippet. It also compares two configurations for a reload, shows the
// effective one, formats files and writes the reference documentation, all
// from the one table of settings in blocks.go.
//
// It must never start anything, talk to a database or a network, or let the
// value of a secret into a diagnostic; and no other package of the daemon may
// read HCL.
package config

import (
	"fmt"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/deliveryd/deliveryd/daemon/internal/alert"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/secret"
)

// Config is the whole configuration with defaults filled in. Paths are
// absolute: a relative path in a file is relative to that file's directory.
// The comment of each field ends with its default.
type Config struct {
	// Database says where the data is.
	Database Database
	// Plugins says where transports come from.
	Plugins Plugins
	// PluginSettings holds the plugin blocks in file order. A plugin needs none. Defaults to none.
	PluginSettings []*Plugin
	// HTTP is the listener of API and dashboard.
	HTTP HTTP
	// Log is about the daemon's own log.
	Log Log
	// Encryption is about secrets at rest.
	Encryption Encryption
	// APIKeys holds the api_key blocks in file order. Defaults to none.
	APIKeys []*APIKey
	// Egress says which targets that are not public may be dialled.
	Egress Egress
	// Queue is about the delivery queue and its history.
	Queue Queue
	// Submit limits what a producer may submit.
	Submit Submit
	// Artifacts is about payloads too large for a queue row.
	Artifacts Artifacts
	// Defaults are the settings that every destination starts from, complete.
	Defaults destination.Settings
	// Destinations holds the destination blocks in file order. Defaults to none.
	Destinations []*Destination
	// Alerts holds the alerts blocks in file order, complete. Defaults to none.
	Alerts []*alert.Settings

	inner *inner
}

// inner keeps the loader, which knows clear text, two pointers away from a
// Config: fmt looks into what is behind one pointer when a verb is wrong.
type inner struct{ loader *loader }

// Database says where the data is: either URL or Embedded is set.
type Database struct {
	// URL is the connection string of a PostgreSQL, as URL or keywords; it may
	// name PgBouncer. Defaults to none.
	URL secret.Value
	// Embedded is the directory of a private PostgreSQL that the daemon runs
	// itself. Defaults to none.
	Embedded string
	// MaxConnections is the most connections that the daemon opens, 4 to 1,000. Defaults to 20.
	MaxConnections int
	// ConnectTimeout bounds one attempt to connect, 1s to 5m. Defaults to 10s.
	ConnectTimeout time.Duration
	// Migrate says whether the daemon brings the schema up to date when it
	// starts; otherwise `deliveryd migrate up` must. Defaults to true.
	Migrate bool
}

// Plugins says where transports come from.
type Plugins struct {
	// Directory holds the binaries deliveryd-transport-*. Defaults to the
	// directory "plugins" beside the daemon's own binary.
	Directory string
	// StateDir holds verified copies of the binaries and their sockets; it must
	// be writable. Defaults to $STATE_DIRECTORY (systemd) or else "deliveryd" in
	// the user's cache directory.
	StateDir string
}

// Plugin holds the settings of one plugin.
type Plugin struct {
	// Name is the transport's name, the label of the block.
	Name string
	// SHA256 is the digest that the binary must have, 64 hexadecimal digits;
	// empty accepts any. Defaults to empty.
	SHA256 string
	// AutoMTLS says whether host and plugin authenticate each other with
	// one-time certificates; turn it off for languages without P-521. Defaults to true.
	AutoMTLS bool
	// User is the system user that the process runs as; it needs a daemon
	// started by root. Defaults to the daemon's user.
	User string
	// MemoryMax bounds the memory of the process, 32 MiB or more; 0 means no
	// bound. Defaults to 0.
	MemoryMax Size
	// LogLevel is the least level of the plugin's log lines that is kept:
	// debug, info, warn or error. Defaults to "info".
	LogLevel string
	// Environment names variables of the daemon's environment that the plugin
	// gets beside the fixed few. Defaults to none.
	Environment []string
	// Source is where the block is.
	Source Range
}

// HTTP is the listener of API and dashboard.
type HTTP struct {
	// Address is host:port; the port 0 picks a free one. Defaults to "127.0.0.1:8080".
	Address string
	// TLS turns HTTPS on. Defaults to off.
	TLS TLS
	// MaxBody is the most bytes of a request's body, 64 KiB to 1 GiB; it must
	// hold the largest payload. Defaults to 32 MiB.
	MaxBody Size
}

// TLS is a certificate with its key; both are read again on reload.
type TLS struct {
	// CertFile is the certificate with its chain, PEM. Defaults to none.
	CertFile string
	// KeyFile is the private key, PEM. Defaults to none.
	KeyFile string
}

// Log is about the daemon's own log.
type Log struct {
	// Level is the least level that is written: debug, info, warn or error. Defaults to "info".
	Level string
	// Format is text or json. Defaults to "text".
	Format string
}

// Encryption is about secrets at rest.
type Encryption struct {
	// Key encrypts: 32 bytes in base64. It is required.
	Key secret.Key
	// PreviousKeys still decrypt what was encrypted before a rotation. Defaults to none.
	PreviousKeys []secret.Key
}

// Box returns the box that seals with Key and also opens with PreviousKeys.
func (e Encryption) Box() (*secret.Box, error) {
	box, err := secret.NewBox(e.Key, e.PreviousKeys...)
	if err != nil {
		return nil, fmt.Errorf("using the encryption block: %w", err)
	}
	return box, nil
}

// Role says what an API key may do.
type Role string

// The roles, from all rights to least. What each may do is the API's business.
const (
	RoleAdmin    Role = "admin"
	RoleOperator Role = "operator"
	RoleProducer Role = "producer"
	RoleViewer   Role = "viewer"
)

// AllOrganizations as an API key's organization means every one of them.
const AllOrganizations = "*"

// APIKey lets a client use the API.
type APIKey struct {
	// Name is the label of the block; it appears in the audit log.
	Name string
	// Organization is the organization that the key belongs to, or
	// AllOrganizations, which a producer's key cannot have. It is required.
	Organization string
	// Role says what the key may do. It is required.
	Role Role
	// Token is the bearer token, 16 to 512 printable ASCII characters. It is required.
	Token secret.Value
	// Source is where the block is.
	Source Range
}

// Egress says which targets that are not public may be dialled, for every transport.
type Egress struct {
	// Allow lists networks (CIDR), addresses and host names. Defaults to none.
	Allow []string
	// AllowCIDRs are the networks and addresses of Allow.
	AllowCIDRs []string
	// AllowHosts are the host names of Allow, lower case.
	AllowHosts []string
}

// Ways to learn of new rows.
const (
	WakeNotify = "notify"
	WakePoll   = "poll"
)

// Queue is about the delivery queue and its history.
type Queue struct {
	// KeepCompleted is how long a delivered row stays in the queue, 0s to
	// 8,760h; 0 deletes it at once (the log keeps it). Defaults to 0s.
	KeepCompleted time.Duration
	// DeadLetterRetention is how long a dead letter can be replayed, 1h to 87,600h. Defaults to 168h (7 days).
	DeadLetterRetention time.Duration
	// LogRetention is how long the delivery log is kept, 24h to 87,600h. Defaults to 2160h (90 days).
	LogRetention time.Duration
	// AuditRetention is how long the audit log is kept, 24h to 876,000h. Defaults to 9600h (400 days).
	AuditRetention time.Duration
	// Wake says how daemons learn of rows that others wrote: "notify" (LISTEN,
	// and polling as well) or "poll" (behind PgBouncer in transaction mode, or
	// a database without LISTEN). Defaults to "notify".
	Wake string
	// PollInterval is the longest that a ready row of another writer waits
	// unseen, 50ms to 1m. Defaults to 1s.
	PollInterval time.Duration
	// Lease is how long a daemon owns its lanes without renewing, 3s to 10m:
	// the longest that its deliveries rest after it was killed. Defaults to 15s.
	Lease time.Duration
	// Renew is how often the lease is renewed, 1s to a third of Lease. Defaults to 5s.
	Renew time.Duration
	// DrainTimeout is how long running attempts may take to end when the daemon
	// stops, 0s to 10m. Defaults to 30s.
	DrainTimeout time.Duration
}

// Submit limits what a producer may submit.
type Submit struct {
	// MaxPayload is the most bytes of one payload, 1 KiB to 256 MiB. Defaults to 10 MiB.
	MaxPayload Size
	// MaxDestinations is the most destinations of one delivery, 1 to 1,000. Defaults to 50.
	MaxDestinations int
	// MaxBatch is the most deliveries in one batch request, 1 to 10,000. Defaults to 1000.
	MaxBatch int
	// IdempotencyRetention is how long an idempotency key is remembered, 1m to 8,760h. Defaults to 24h.
	IdempotencyRetention time.Duration
}

// Artifacts is about payloads too large for a queue row.
type Artifacts struct {
	// URL names a bucket or folder that keeps them: s3://bucket?region=..., or
	// file:///folder. Defaults to the database.
	URL string
	// MaxSize is the most bytes of an artifact, 1 MiB to 1 TiB. Defaults to 5 GiB.
	MaxSize Size
	// Retention is how long an artifact is kept after its upload, and after the last
	// delivery that needed it has ended, 1m to 8,760h. Defaults to 24h.
	Retention time.Duration
}

// Destination is one destination block. Resolve fills in what depends on its plugin.
type Destination struct {
	// Organization and Label name it; they are the labels of the block.
	Organization, Label string
	// Type is the transport. It is required.
	Type string
	// Default says whether deliveries to "default" of the organization go here.
	// Several destinations of an organization may be default: all of them
	// receive. Defaults to false.
	Default bool
	// Description says what it is, for people. Defaults to empty.
	Description string
	// Icon is a URL or the name of an icon, for people. Defaults to empty.
	Icon string
	// Instructions say how to set the peer up, for people. Defaults to empty.
	Instructions string
	// Disabled destinations keep their deliveries waiting. Defaults to false.
	Disabled bool
	// Settings are complete: own, else from the defaults block, else built in.
	Settings destination.Settings
	// Own holds only what the block itself gives: what to store, so that a
	// change of the defaults needs no change of what is stored.
	Own destination.Settings
	// Source is where the block is.
	Source Range

	// Resolved says whether ConfigJSON is valid for the plugin.
	Resolved bool
	// ConfigJSON is what config {} holds with the plugin's defaults filled in,
	// secrets in clear text: seal it before it is stored. Empty before Resolve.
	ConfigJSON secret.Bytes
	// SecretPaths are the JSON Pointers of what is secret in ConfigJSON, for
	// secret.Box.SealPaths: what the plugin's schema declares, and whatever
	// came from env() or file().
	SecretPaths []string

	place hcl.Range  // of the block
	block *hcl.Block // config {}, nil when there is none, and when it is resolved
	// places say where the attributes and blocks of config {} are, once it is
	// resolved: its syntax tree takes some hundred times as much memory.
	places map[string]hcl.Range
}

// String returns `organization/label`.
func (d Destination) String() string { return d.Key().String() }

// GoString is [Destination.String]: not even a wrong verb prints the configuration.
func (d Destination) GoString() string { return d.String() }

// Format writes [Destination.String] for every verb.
func (d Destination) Format(state fmt.State, _ rune) { _, _ = state.Write([]byte(d.String())) }

// Key names a destination.
type Key struct{ Organization, Label string }

// String returns `organization/label`.
func (k Key) String() string { return k.Organization + "/" + k.Label }

// Key returns the destination's key.
func (d Destination) Key() Key { return Key{d.Organization, d.Label} }

// Plugin returns the settings of a plugin: its block's, or the defaults.
func (c *Config) Plugin(name string) Plugin {
	for _, plugin := range c.PluginSettings {
		if plugin.Name == name {
			return *plugin
		}
	}
	plugin := newPlugin()
	plugin.Name = name
	return *plugin
}

// PinnedAt says where the sha256 of p is given; the zero Range when it is not.
func (c *Config) PinnedAt(p *Plugin) Range {
	where, ok := c.inner.loader.sources[&p.SHA256]
	if !ok {
		return Range{}
	}
	return rangeOf(where)
}
