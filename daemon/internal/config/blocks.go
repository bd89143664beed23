package config

import (
	"os"
	"path/filepath"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/artifact"
	"github.com/deliveryd/deliveryd/daemon/internal/backoff"
	"github.com/deliveryd/deliveryd/daemon/internal/breaker"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	"github.com/deliveryd/deliveryd/daemon/internal/setting"
	"github.com/deliveryd/deliveryd/daemon/internal/transform"
)

const (
	day  = 24 * time.Hour
	year = 365 * day
)

// newConfig returns a configuration that holds the defaults.
func newConfig(lookup func(string) (string, bool)) *Config {
	return &Config{
		Database: Database{MaxConnections: 20, ConnectTimeout: 10 * time.Second, Migrate: true},
		Plugins:  Plugins{Directory: defaultPluginDirectory(), StateDir: defaultStateDir(lookup)},
		HTTP:     HTTP{Address: "127.0.0.1:8080", MaxBody: 32 * MiB},
		Log:      Log{Level: "info", Format: "text"},
		Queue: Queue{
			DeadLetterRetention: 7 * day, LogRetention: 90 * day, AuditRetention: 400 * day, Wake: WakeNotify, PollInterval: time.Second,
			Lease: 15 * time.Second, Renew: 5 * time.Second, DrainTimeout: 30 * time.Second,
		},
		Submit:    Submit{MaxPayload: 10 * MiB, MaxDestinations: 50, MaxBatch: 1000, IdempotencyRetention: day},
		Artifacts: Artifacts{MaxSize: 5 * GiB, Retention: day},
	}
}

func newPlugin() *Plugin { return &Plugin{AutoMTLS: true, LogLevel: "info", Environment: []string{}} }

func defaultPluginDirectory() string {
	executable, err := os.Executable()
	if err != nil {
		return "plugins"
	}
	return filepath.Join(filepath.Dir(executable), "plugins")
}

func defaultStateDir(lookup func(string) (string, bool)) string {
	if dir, ok := lookup("STATE_DIRECTORY"); ok && filepath.IsAbs(dir) {
		return dir
	}
	if dir, err := os.UserCacheDir(); err == nil {
		return filepath.Join(dir, "deliveryd")
	}
	return filepath.Join(os.TempDir(), "deliveryd")
}

// root describes a whole file, in the order of the documentation.
func root() *block {
	b := &block{open: func(parent any, _ []string) any { return parent }}
	return b.with([]any{
		databaseBlock(), pluginsBlock(), pluginBlock(), httpBlock(), logBlock(), encryptionBlock(),
		apiKeyBlock(), egressBlock(), queueBlock(), submitBlock(), artifactsBlock(), defaultsBlock(), destinationBlock(), alertsBlock(),
	})
}

func databaseBlock() *block {
	return single("database", func(c *Config) *Database { return &c.Database },
		"Where the data is: exactly one of `url` and `embedded` must be given.",
		set("url", func(d *Database) *secret.Value { return &d.URL },
			"Connection string of a PostgreSQL: `postgres://user:password@host:5432/name?sslmode=verify-full`, or keywords. It may name PgBouncer.",
			restart(), unset("none"), check(checkDatabaseURL)),
		set("embedded", func(d *Database) *string { return &d.Embedded },
			"Directory of a private PostgreSQL that the daemon runs itself.", restart(), isPath(), unset("none")),
		set("max_connections", func(d *Database) *int { return &d.MaxConnections },
			"The most connections that the daemon opens.", between(4, 1000), restart()),
		set("connect_timeout", func(d *Database) *time.Duration { return &d.ConnectTimeout },
			"Bounds one attempt to connect.", between(time.Second, 5*time.Minute), restart()),
		set("migrate", func(d *Database) *bool { return &d.Migrate },
			"Whether the daemon brings the schema up to date when it starts; otherwise `deliveryd migrate up` must.", restart()),
	)
}

func pluginsBlock() *block {
	return single("plugins", func(c *Config) *Plugins { return &c.Plugins },
		"Where transports come from.",
		set("directory", func(p *Plugins) *string { return &p.Directory },
			"Holds the binaries `deliveryd-transport-*`.", restart(), isPath(), unset("the directory `plugins` beside the daemon's binary")),
		set("state_dir", func(p *Plugins) *string { return &p.StateDir },
			"Holds verified copies of the binaries and their sockets; it must be writable.", restart(), isPath(),
			unset("`$STATE_DIRECTORY` (systemd), else `deliveryd` in the user's cache directory")),
	)
}

func pluginBlock() *block {
	b := labelled("plugin", []string{"name"},
		func(c *Config) *[]*Plugin { return &c.PluginSettings },
		func(labels []string) *Plugin { p := newPlugin(); p.Name = labels[0]; return p },
		func(p *Plugin) []string { return []string{p.Name} },
		"Settings of one plugin, by the name of its transport. A plugin needs none. Several files may each give a part of them: `deliveryd plugin lock` writes the digests to a file of their own.",
		set("sha256", func(p *Plugin) *string { return &p.SHA256 },
			"Digest that the binary must have, 64 hexadecimal digits.", unset("any"), check(checkSHA256)),
		set("auto_mtls", func(p *Plugin) *bool { return &p.AutoMTLS },
			"Whether host and plugin authenticate each other with one-time certificates. Turn it off for languages without P-521."),
		set("user", func(p *Plugin) *string { return &p.User },
			"System user that the process runs as; needs a daemon started by root.", unset("the daemon's user")),
		set("memory_max", func(p *Plugin) *Size { return &p.MemoryMax },
			"Bounds the memory of the process; `\"0B\"` means no bound.", between(32*MiB, 1*TiB), zeroIs(0, "no bound")),
		set("log_level", func(p *Plugin) *string { return &p.LogLevel },
			"Least level of the plugin's log lines that is kept.", oneOf("debug", "info", "warn", "error")),
		set("environment", func(p *Plugin) *[]string { return &p.Environment },
			"Names of variables of the daemon's environment that the plugin gets as well, where they are set. Every destination of the plugin can use them.", unset("none"), check(checkVariable)),
	)
	b.joins = true
	return b
}

func httpBlock() *block {
	return single("http", func(c *Config) *HTTP { return &c.HTTP },
		"Listener of the API.",
		set("address", func(h *HTTP) *string { return &h.Address },
			"host:port to listen on; port 0 picks a free one.", restart(), check(checkListenAddress)),
		set("max_body", func(h *HTTP) *Size { return &h.MaxBody },
			"The most bytes of a request's body; it must hold the largest payload.", between(64*KiB, 1*GiB)),
		single("tls", func(h *HTTP) *TLS { return &h.TLS },
			"Turns HTTPS on. The files are read again on reload.",
			set("cert_file", func(t *TLS) *string { return &t.CertFile }, "Certificate with its chain, PEM.", required(), isPath()),
			set("key_file", func(t *TLS) *string { return &t.KeyFile }, "Private key, PEM.", required(), isPath()),
		),
	)
}

func logBlock() *block {
	return single("log", func(c *Config) *Log { return &c.Log },
		"The daemon's own log, on standard error.",
		set("level", func(l *Log) *string { return &l.Level }, "Least level that is written.", oneOf("debug", "info", "warn", "error")),
		set("format", func(l *Log) *string { return &l.Format }, "For people or for machines.", oneOf("text", "json"), restart()),
	)
}

func encryptionBlock() *block {
	return single("encryption", func(c *Config) *Encryption { return &c.Encryption },
		"Secrets at rest.",
		set("key", func(e *Encryption) *secret.Key { return &e.Key },
			"Encrypts: 32 bytes in base64, as `openssl rand -base64 32` prints them.", required(), restart()),
		set("previous_keys", func(e *Encryption) *[]secret.Key { return &e.PreviousKeys },
			"Still decrypt what was encrypted before a rotation.", restart(), unset("none")),
	)
}

func apiKeyBlock() *block {
	return labelled("api_key", []string{"name"},
		func(c *Config) *[]*APIKey { return &c.APIKeys },
		func(labels []string) *APIKey { return &APIKey{Name: labels[0]} },
		func(k *APIKey) []string { return []string{k.Name} },
		"Lets a client use the API. The name appears in the log.",
		set("organization", func(k *APIKey) *string { return &k.Organization },
			"The organization that the key belongs to; `\"*\"` for all, which a producer's key cannot have.", required(), check(checkOrganizationOrAll)),
		set("role", func(k *APIKey) *Role { return &k.Role },
			"What the key may do.", required(), oneOf(string(RoleAdmin), string(RoleOperator), string(RoleProducer), string(RoleViewer))),
		set("token", func(k *APIKey) *secret.Value { return &k.Token },
			"Bearer token, 16 to 512 printable ASCII characters without spaces.", required(), check(checkToken)),
	)
}

func egressBlock() *block {
	return single("egress", func(c *Config) *Egress { return &c.Egress },
		"Private, loopback, link-local, multicast and metadata targets are refused when a transport dials, unless they are allowed here.",
		set("allow", func(e *Egress) *[]string { return &e.Allow },
			"Networks (`10.0.0.0/8`), addresses and host names. A host name allows whatever it resolves to.", unset("none"), check(checkEgress)),
	)
}

func queueBlock() *block {
	return single("queue", func(c *Config) *Queue { return &c.Queue },
		"The delivery queue and its history.",
		set("keep_completed", func(q *Queue) *time.Duration { return &q.KeepCompleted },
			"How long a delivered row stays in the queue; `\"0s\"` deletes it at once (the log keeps it).", between(0, year)),
		set("dead_letter_retention", func(q *Queue) *time.Duration { return &q.DeadLetterRetention },
			"How long a dead letter can be replayed.", between(time.Hour, 10*year)),
		set("log_retention", func(q *Queue) *time.Duration { return &q.LogRetention },
			"How long the delivery log is kept.", between(day, 10*year)),
		set("audit_retention", func(q *Queue) *time.Duration { return &q.AuditRetention },
			"How long the audit log is kept: who changed what, through the API or the configuration file.", between(day, 100*year)),
		set("wake", func(q *Queue) *string { return &q.Wake },
			"How daemons learn of rows that others wrote: `notify` (LISTEN, and polling as well) or `poll` (behind PgBouncer in transaction mode, or a database without LISTEN).",
			oneOf(WakeNotify, WakePoll), restart()),
		set("poll_interval", func(q *Queue) *time.Duration { return &q.PollInterval },
			"The longest that a ready row of another writer waits unseen.", between(50*time.Millisecond, time.Minute)),
		set("lease", func(q *Queue) *time.Duration { return &q.Lease },
			"How long a daemon owns its lanes without renewing: the longest that its deliveries rest after it was killed.",
			between(3*time.Second, 10*time.Minute), restart()),
		set("renew", func(q *Queue) *time.Duration { return &q.Renew },
			"How often the lease is renewed; at most a third of `lease`.", between(time.Second, 200*time.Second), restart()),
		set("drain_timeout", func(q *Queue) *time.Duration { return &q.DrainTimeout },
			"How long running attempts may take to end when the daemon stops.", between(0, 10*time.Minute)),
	)
}

func submitBlock() *block {
	return single("submit", func(c *Config) *Submit { return &c.Submit },
		"What a producer may submit.",
		set("max_payload", func(s *Submit) *Size { return &s.MaxPayload }, "The most bytes of one payload.", between(KiB, 256*MiB)),
		set("max_destinations", func(s *Submit) *int { return &s.MaxDestinations }, "The most destinations of one delivery.", between(1, 1000)),
		set("max_batch", func(s *Submit) *int { return &s.MaxBatch }, "The most deliveries in one batch request.", between(1, 10_000)),
		set("idempotency_retention", func(s *Submit) *time.Duration { return &s.IdempotencyRetention },
			"How long an idempotency key is remembered.", between(time.Minute, year)),
	)
}

func artifactsBlock() *block {
	return single("artifacts", func(c *Config) *Artifacts { return &c.Artifacts },
		"Payloads too large for a queue row: files that `POST /v1/artifacts` and `deliveryd send --file` take.",
		set("url", func(a *Artifacts) *string { return &a.URL },
			"Bucket or folder that keeps them: `s3://bucket?region=eu-central-1` (credentials as the AWS SDK finds them; `endpoint=` and `use_path_style=true` for other makers), or `file:///folder`, which all daemons must share.",
			restart(), unset("the database"), check(artifact.CheckURL)),
		set("max_size", func(a *Artifacts) *Size { return &a.MaxSize }, "The most bytes of an artifact.", between(MiB, TiB), restart()),
		set("retention", func(a *Artifacts) *time.Duration { return &a.Retention },
			"How long an artifact is kept after its upload, and after the last delivery that needed it has ended.", between(time.Minute, year), restart()),
	)
}

func defaultsBlock() *block {
	return single("defaults", func(c *Config) *destination.Settings { return &c.Defaults },
		"What every destination starts from, those made through the API as well.",
		settingsMembers(func(s *destination.Settings) *destination.Settings { return s })...)
}

func destinationBlock() *block {
	members := []any{
		set("type", func(d *Destination) *string { return &d.Type },
			"The transport: the name of a plugin, such as `webhook`.", required(), check(checkTransport)),
		set("default", func(d *Destination) *bool { return &d.Default },
			"Whether deliveries to `default` of the organization go here. Several may be default: all of them receive."),
		set("description", func(d *Destination) *string { return &d.Description }, "What it is, for people.", unset("empty")),
		set("icon", func(d *Destination) *string { return &d.Icon }, "URL or name of an icon, for people.", unset("empty")),
		set("instructions", func(d *Destination) *string { return &d.Instructions }, "How to set the peer up, for people.", unset("empty")),
		set("disabled", func(d *Destination) *bool { return &d.Disabled }, "A disabled destination keeps its deliveries waiting."),
	}
	for _, member := range settingsMembers(func(d *Destination) *destination.Settings { return &d.Settings }) {
		members = append(members, inheriting(member))
	}
	members = append(members, &block{
		name: "config", plugin: true,
		doc: "What the transport needs: see the documentation of its plugin. Values from env() and file() are kept as secrets.",
	})
	return labelled("destination", []string{"organization", "label"},
		func(c *Config) *[]*Destination { return &c.Destinations },
		func(labels []string) *Destination { return &Destination{Organization: labels[0], Label: labels[1]} },
		func(d *Destination) []string { return []string{d.Organization, d.Label} },
		"Where deliveries of an organization may go. What is not given here comes from `defaults`.", members...)
}

// inheriting returns a member of the settings whose default is the defaults block's.
func inheriting(member any) any {
	switch member := member.(type) {
	case attribute:
		member.unset = inherited
		return member
	case *block:
		for i := range member.attributes {
			member.attributes[i].unset = inherited
		}
	}
	return member
}

// inherited is the documented default of a destination's settings.
const inherited = "from `defaults`"

// settingsMembers describes destination.Settings, as settings finds it in a block's value.
func settingsMembers[B any](settings func(*B) *destination.Settings) []any {
	return []any{
		set("concurrency", func(b *B) *int { return &settings(b).Concurrency },
			"The most attempts at work at once, over all daemons.", between(1, destination.MaxConcurrency)),
		set("timeout", func(b *B) *setting.Duration { return &settings(b).Timeout },
			"Hard end of one attempt.", between(time.Second, destination.MaxTimeout)),
		set("expiry", func(b *B) *setting.Duration { return &settings(b).Expiry },
			"How long a delivery may wait for its success before it becomes a dead letter.", between(time.Minute, destination.MaxExpiry)),
		set("max_in_flight_bytes", func(b *B) *int64 { return &settings(b).MaxInFlightBytes },
			"Bounds the payloads at work at once; one payload may always go.", between(Size(destination.MinInFlightBytes), Size(destination.MaxInFlightBytes))),
		optional("rate_limit", func(b *B) **destination.RateLimit { return &settings(b).RateLimit },
			"The most attempts started in a time, over all daemons: a token bucket.",
			set("events", func(r *destination.RateLimit) *int { return &r.Events },
				"Number of attempts.", between(1, destination.MaxRateLimitEvents), zeroIs(destination.Off, "no limit"), unset("no limit")),
			set("per", func(r *destination.RateLimit) *setting.Duration { return &r.Per },
				"The time.", between(time.Second, day), unset("`\"1s\"`")),
		),
		single("retry", func(b *B) *backoff.Policy { return &settings(b).Retry },
			"When a failed delivery is attempted again: exponential backoff with full jitter; `Retry-After` is honoured.", retryMembers()...),
		single("circuit_breaker", func(b *B) *breaker.Settings { return &settings(b).Breaker },
			"When a destination counts as down. An open breaker delays deliveries and burns no attempts.", breakerMembers()...),
		single("auto_disable", func(b *B) *destination.AutoDisable { return &settings(b).AutoDisable },
			"When a destination that only fails is switched off; both conditions must hold.",
			set("failures", func(a *destination.AutoDisable) *int { return &a.Failures },
				"Deliveries in a row that must have failed, each counted once however often it was attempted.", between(1, destination.MaxAutoDisableCount), zeroIs(destination.Off, "never")),
			set("after", func(a *destination.AutoDisable) *setting.Duration { return &a.After },
				"How long nothing has succeeded.", between(time.Millisecond, destination.MaxExpiry)),
		),
		single("health_check", func(b *B) *destination.HealthCheck { return &settings(b).HealthCheck },
			"When the connection is tested though nothing is delivered, each destination by one daemon of the fleet. A test that passes may close an open circuit breaker before its time and ends a hold.",
			set("interval", func(h *destination.HealthCheck) *setting.Duration { return &h.Interval },
				"Time between two tests while something is wrong, give or take a fifth.", between(destination.MinCheckInterval, day), zeroIs(destination.Off, "never")),
			set("idle", func(h *destination.HealthCheck) *setting.Duration { return &h.Idle },
				"How long nothing may be heard of a destination that is well before it is tested, give or take a fifth.",
				between(destination.MinCheckInterval, destination.MaxExpiry), zeroIs(destination.Off, "never")),
		),
		single("transform", func(b *B) *transform.Settings { return &settings(b).Transform },
			"What is done to everything that goes to the destination, before it goes: compressed, then encrypted. A file is called by it afterwards (`report.csv.gz.age`); an event's data goes as a file, too. Its type and metadata, which go beside it, stay readable.",
			set("compress", func(s *transform.Settings) *string { return &s.Compress },
				"How it is compressed.", oneOf(transform.None, transform.Gzip, transform.Zstd)),
			set("encrypt_to", func(s *transform.Settings) *[]string { return &s.EncryptTo },
				"Public keys, any of whose owners can read it: all of age (`age1...`, or of SSH), or all of OpenPGP (armored, such as `nonsensitive(file(\"partner.asc\"))`). `[]` encrypts to nobody.", unset("none"), check(transform.CheckKey)),
		),
	}
}

func retryMembers() []any {
	type policy = backoff.Policy
	return []any{
		set("max", func(p *policy) *int { return &p.MaxRetries },
			"Retries after the first attempt.", between(1, 1000), zeroIs(backoff.NoRetries, "none"), field("max_retries")),
		set("base", func(p *policy) *setting.Duration { return &p.Base },
			"Greatest delay before the first retry.", between(time.Millisecond, day)),
		set("factor", func(p *policy) *float64 { return &p.Factor },
			"Multiplies the greatest delay from retry to retry.", between(1.0, 100.0)),
		set("cap", func(p *policy) *setting.Duration { return &p.Cap },
			"Greatest delay before any retry; at least `base`.", between(time.Millisecond, day)),
		set("max_rate_limited", func(p *policy) *int { return &p.MaxRateLimited },
			"Rate-limited results that burn no attempt; each further one does.", between(1, 100_000)),
		set("rate_limit_base", func(p *policy) *setting.Duration { return &p.RateLimitBase },
			"Greatest delay after the first rate-limited result; it grows by `factor`.", between(time.Millisecond, day)),
		set("rate_limit_cap", func(p *policy) *setting.Duration { return &p.RateLimitCap },
			"Greatest delay after any rate-limited result, unless the peer asks for more; at least `rate_limit_base`.", between(time.Millisecond, day)),
	}
}

func breakerMembers() []any {
	type settings = breaker.Settings
	const maxCount = 1_000_000
	return []any{
		set("failures", func(s *settings) *int { return &s.Failures },
			"Failures in a row that open the breaker.", between(1, maxCount)),
		set("window", func(s *settings) *setting.Duration { return &s.Window },
			"How long a result stays in the window.", between(time.Second, day)),
		set("window_minimum", func(s *settings) *int { return &s.WindowMin },
			"Least number of results in the window for `window_ratio` to count.", between(1, maxCount), field("window_min")),
		set("window_ratio", func(s *settings) *float64 { return &s.WindowRatio },
			"Share of failures in the window above which the breaker opens; 1 turns this rule off.", between(0.001, 1.0)),
		set("open_for", func(s *settings) *setting.Duration { return &s.OpenFor },
			"How long the breaker stays open the first time; each failed probe doubles it.", between(time.Millisecond, day)),
		set("max_open_for", func(s *settings) *setting.Duration { return &s.MaxOpenFor },
			"Where the doubling ends; at least `open_for`.", between(time.Millisecond, day)),
		set("successes", func(s *settings) *int { return &s.Successes },
			"Successes while half-open that close the breaker.", between(1, maxCount)),
		set("max_pause", func(s *settings) *setting.Duration { return &s.MaxPause },
			"The longest that rate-limited results make the whole lane pause.", between(time.Second, day)),
	}
}
