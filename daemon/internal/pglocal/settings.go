package pglocal

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const mib = 1 << 20

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)

// settings are the server's settings without the ones that follow from a start (port, socket).
//
// Measured on 2 cores with PostgreSQL 15: autovacuum_naptime 1 s holds the queue's heap at 48 MB after 24 s of full
// speed (10 s: 221-416 MB); jit costs 761 ms against 8.5 ms on the statement that reads lanes.
func settings(memory int64, durable bool) map[string]string {
	s := map[string]string{
		"listen_addresses": loopback,
		"max_connections":  "200",
		"timezone":         "UTC",
		"log_timezone":     "UTC",

		// An eighth of the memory, since the daemon, its plugins and the page cache want the rest; beyond 2 GB a queue
		// whose rows are deleted gains nothing.
		"shared_buffers":       megabytes(min(max(memory/8, 128*mib), 2048*mib)),
		"effective_cache_size": megabytes(min(max(memory/2, 256*mib), 1<<40)),
		"work_mem":             "16MB",
		"maintenance_work_mem": megabytes(min(max(memory/32, 64*mib), 256*mib)),
		"max_wal_size":         "4GB",
		"checkpoint_timeout":   "15min",
		"random_page_cost":     "1.1",
		"jit":                  "off",
		"autovacuum_naptime":   "1s",

		// Statements and their values may hold secrets; clients get their errors anyway.
		"log_min_error_statement": "panic",
		"log_error_verbosity":     "terse",
		"log_min_messages":        "warning",
		"log_checkpoints":         "off",
		"log_line_prefix":         "",
		"logging_collector":       "off",
		"log_destination":         "stderr",
		"cluster_name":            "deliveryd",

		"unix_socket_permissions": "0700",
		"password_encryption":     "scram-sha-256",
	}
	if !durable {
		s["fsync"] = "off"
		s["full_page_writes"] = "off"
		s["shared_buffers"] = "256MB"
		s["max_connections"] = "500"
		s["max_wal_size"] = "1GB"
		s["autovacuum_max_workers"] = "2"
	}
	return s
}

// checkSettings refuses what would write more than one line into the configuration file.
func checkSettings(settings map[string]string) error {
	for name, value := range settings {
		if !settingName.MatchString(name) || strings.ContainsAny(value, "\n\r\x00") {
			return fmt.Errorf("PostgreSQL setting %q = %q: want a name of letters, digits, _ and . and a value of one line", name, value)
		}
	}
	return nil
}

func megabytes(bytes int64) string { return strconv.FormatInt(bytes/mib, 10) + "MB" }

// writeConfig replaces the server's configuration files, so that a setting from an older deliveryd never lingers.
func (c *Cluster) writeConfig(ctx context.Context, port int, socketDir string) error {
	all := settings(availableMemory(), !c.opts.DisableFsync)
	if c.supportsLZ4(ctx) {
		all["wal_compression"] = "lz4"
	}
	maps.Copy(all, c.opts.Settings)
	all["port"] = strconv.Itoa(port)
	all["unix_socket_directories"] = socketDir

	var conf strings.Builder
	conf.WriteString("# Written by deliveryd at each start; changes are lost.\n")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&conf, "%s = %s\n", name, quoteSetting(all[name]))
	}
	hba := "local all,replication all peer map=deliveryd\n" +
		"host all,replication all " + loopback + "/32 scram-sha-256\n"
	ident := new(strings.Builder)
	for _, name := range c.systemUsers() {
		fmt.Fprintf(ident, "deliveryd %s %s\n", quoteIdent(name), Role)
	}
	for name, text := range map[string]string{
		"postgresql.conf": conf.String(), "pg_hba.conf": hba, "pg_ident.conf": ident.String(),
	} {
		if err := c.writeDataFile(name, text); err != nil {
			return err
		}
	}
	return nil
}

// systemUsers are those whom the server lets in over the socket without a password.
func (c *Cluster) systemUsers() []string {
	names := []string{c.account.name}
	if self, err := user.LookupId(strconv.Itoa(os.Geteuid())); err == nil && self.Username != c.account.name {
		names = append(names, self.Username)
	}
	return names
}

// writeDataFile puts a file into the data directory by renaming it into place: root must not follow a link that the
// server's user could have put there.
func (c *Cluster) writeDataFile(name, text string) error {
	tmp := filepath.Join(c.dir.root, name+".new")
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := c.account.own(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(c.dir.data, name)); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// supportsLZ4 asks the server's binary: lz4 came with 15 and is a choice of whoever built it. pglz, the alternative,
// costs more CPU than it saves.
func (c *Cluster) supportsLZ4(ctx context.Context) bool {
	inv := c.account.program(ctx, c.bin.path("postgres"))
	defer inv.close()
	data, err := inv.dir(c.dir.data)
	if err != nil {
		return false
	}
	inv.cmd.Args = append(inv.cmd.Args, "-D", data, "-C", "wal_compression", "-c", "wal_compression=lz4")
	out, err := inv.cmd.Output()
	return err == nil && strings.TrimSpace(string(out)) == "lz4"
}

func quoteSetting(value string) string { return "'" + strings.ReplaceAll(value, "'", "''") + "'" }

func quoteIdent(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
