package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"

	"github.com/deliveryd/deliveryd/daemon/internal/destination"
)

// maxName is the length of the columns that names are stored in.
const maxName = 255

// Lengths of an API token. 16 random characters of base64 are 96 bits.
const (
	minToken = 16
	maxToken = 512
)

var (
	transportName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,49}$`)
	sha256Digest  = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)
	variableName  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	hostName      = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?$`)
)

func checkName(name string) error {
	switch {
	case name == "" || strings.TrimSpace(name) != name:
		return errors.New("it must not be empty, nor start or end with a space")
	case utf8.RuneCountInString(name) > maxName:
		return fmt.Errorf("it has %d characters; at most %d are allowed", utf8.RuneCountInString(name), maxName)
	case strings.ContainsFunc(name, unicode.IsControl):
		return errors.New("it holds a control character")
	case name == AllOrganizations:
		return errors.New(`"*" means all organizations and cannot be a name`)
	}
	return nil
}

func checkOrganizationOrAll(name string) error {
	if name == AllOrganizations {
		return nil
	}
	return checkName(name)
}

func checkTransport(name string) error {
	if !transportName.MatchString(name) {
		return fmt.Errorf("%s is not the name of a transport: want lower-case letters, digits and '-', at most 50", shown(name))
	}
	return nil
}

func checkSHA256(digest string) error {
	if !sha256Digest.MatchString(digest) {
		return errors.New("it must be 64 hexadecimal digits, as `sha256sum` prints them")
	}
	return nil
}

// checkToken says nothing of the token but what it lacks.
func checkToken(token string) error {
	switch {
	case len(token) < minToken:
		return fmt.Errorf("the token has %d characters and could be guessed; it must have %d or more: `openssl rand -base64 32` prints a good one", len(token), minToken)
	case len(token) > maxToken:
		return fmt.Errorf("the token has %d characters; at most %d are allowed", len(token), maxToken)
	case strings.Trim(token, "\r\n") != token:
		return errors.New("the token starts or ends with a line break, which no request can carry; write trimspace(file(...))")
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("the token holds characters other than printable ASCII, or a space, which no request can carry")
	case strings.Count(token, token[:1]) == len(token):
		return errors.New("all characters of the token are equal; `openssl rand -base64 32` prints a good one")
	}
	return nil
}

// checkDatabaseURL only tells a connection string from something else; the
// driver reads it. Its errors do not quote it: it may hold a password.
func checkDatabaseURL(text string) error {
	const want = "want postgres://user:password@host:5432/name, or keywords such as \"host=/run/postgresql dbname=deliveryd\""
	if strings.TrimSpace(text) != text || text == "" {
		return errors.New("the connection string is empty, or starts or ends with a space or line break; " + want)
	}
	if scheme, _, ok := strings.Cut(text, "://"); ok {
		if scheme != "postgres" && scheme != "postgresql" {
			return errors.New("the connection string is a URL of another kind; " + want)
		}
		if _, err := url.Parse(text); err != nil {
			return errors.New("the connection string is not a valid URL (is a special character of the password not escaped?); " + want)
		}
		return nil
	}
	if !strings.Contains(text, "=") {
		return errors.New("that is no connection string; " + want)
	}
	return nil
}

func checkListenAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf(`%s is not host:port, such as "127.0.0.1:8080" or ":8080"`, shown(address))
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("%s is not a port; want 0 to 65535", shown(port))
	}
	if host == "" {
		return nil
	}
	if _, err := netip.ParseAddr(host); err != nil && !hostName.MatchString(host) {
		return fmt.Errorf("%s is neither an IP address nor a host name", shown(host))
	}
	return nil
}

// checkVariable accepts the name of an environment variable that the daemon does
// not set for a plugin itself.
func checkVariable(name string) error {
	if !variableName.MatchString(name) {
		return fmt.Errorf("%s is not the name of an environment variable; want letters, digits and '_'", shown(name))
	}
	if strings.HasPrefix(name, "PLUGIN_") || slices.Contains([]string{"DELIVERYD_PLUGIN", "PATH", "TMPDIR", "HOME"}, name) {
		return fmt.Errorf("%s is set by the daemon", name)
	}
	return nil
}

func checkEgress(entry string) error {
	_, _, err := parseEgress(entry)
	return err
}

// parseEgress returns an entry of egress.allow as a network or as a host name.
func parseEgress(entry string) (cidr, host string, err error) {
	if prefix, err := netip.ParsePrefix(entry); err == nil {
		if prefix != prefix.Masked() {
			return "", "", fmt.Errorf("%q has bits behind its length; want %q", entry, prefix.Masked())
		}
		return prefix.String(), "", nil
	}
	if address, err := netip.ParseAddr(strings.Trim(entry, "[]")); err == nil && address.Zone() == "" {
		return netip.PrefixFrom(address, address.BitLen()).String(), "", nil
	}
	// A last label of digits would be an IPv4 address in some notation.
	labels := strings.Split(strings.TrimSuffix(entry, "."), ".")
	if !hostName.MatchString(entry) || strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return "", "", fmt.Errorf(`%s is neither a network ("10.0.0.0/8") nor an address nor a host name without port and wildcard`, shown(entry))
	}
	return "", strings.ToLower(strings.TrimSuffix(entry, ".")), nil
}

func (l *loader) checkLabels(spec *block, b *hcl.Block) {
	for i, label := range b.Labels {
		if err := spec.checkLabel(label); err != nil {
			l.add(problemAt(b.LabelRanges[i], "Invalid "+spec.labels[i], "%s", sentence(err)))
		}
	}
}

// checkAll checks what concerns more than one setting.
func (l *loader) checkAll() {
	c := l.config
	l.checkDatabase(c)
	if c.Encryption.Key.IsZero() {
		c.Encryption.Key = l.options.EncryptionKey
	}
	_, given := l.first[topLevel("encryption")]
	if c.Encryption.Key.IsZero() && !given && !l.incomplete {
		l.add(problem("No encryption key", "Secrets of destinations are encrypted at rest. Write encryption { key = env(\"DELIVERYD_KEY\") }; `openssl rand -base64 32` prints a key."))
	}
	for _, old := range c.Encryption.PreviousKeys {
		if old.Equal(c.Encryption.Key) {
			l.add(problemAt(l.sources[&c.Encryption.PreviousKeys], "The key is also a previous key", "previous_keys must hold other keys than key."))
		}
	}
	for _, entry := range c.Egress.Allow {
		cidr, host, err := parseEgress(entry)
		switch {
		case err != nil: // reported where it is
		case cidr != "":
			c.Egress.AllowCIDRs = append(c.Egress.AllowCIDRs, cidr)
		default:
			c.Egress.AllowHosts = append(c.Egress.AllowHosts, host)
		}
	}
	l.checkAPIKeys(c)
	l.checkAlerts(c)
	l.checkLess(&c.Submit.MaxPayload, &c.HTTP.MaxBody, c.HTTP.MaxBody < c.Submit.MaxPayload+4*KiB,
		"A request cannot hold the largest payload",
		"http.max_body is %s, submit.max_payload is %s; max_body must be greater by 4KiB or more, for what is around the payload.", c.HTTP.MaxBody, c.Submit.MaxPayload)
	l.checkLess(&c.Queue.Renew, &c.Queue.Lease, c.Queue.Renew > c.Queue.Lease/3,
		"The lease is renewed too late",
		"queue.renew is %s, queue.lease is %s; renew must be a third of lease or less, so that one lost renewal is no lost lease.", formatDuration(c.Queue.Renew), formatDuration(c.Queue.Lease))
}

// topLevel is the name of a top-level block without labels in loader.first.
func topLevel(name string) string { return "\x00" + name + "\x00" }

func (l *loader) checkDatabase(c *Config) {
	block, given := l.first[topLevel("database")]
	urlAt, url := l.sources[&c.Database.URL]
	embeddedAt, embedded := l.sources[&c.Database.Embedded]
	switch {
	case url && embedded:
		l.add(problemAt(embeddedAt, "Two databases", "embedded is given, and url at %s; want one of them.", rangeOf(urlAt)))
	case url || embedded:
	case l.options.Embedded != "":
		c.Database.Embedded = l.options.Embedded
	case given:
		if !l.broken[block.Filename] {
			l.add(problemAt(block, "No database", "Give url = env(\"DATABASE_URL\"), or embedded = \"./data\" for a PostgreSQL that the daemon runs itself."))
		}
	case !l.incomplete:
		l.add(problem("No database", "Write database { url = env(\"DATABASE_URL\") }, or database { embedded = \"./data\" } for a PostgreSQL that the daemon runs itself."))
	}
}

// checkLess reports a pair of settings that do not fit, where the first or
// else the second is given.
func (l *loader) checkLess(first, second any, bad bool, summary, format string, args ...any) {
	if !bad {
		return
	}
	where, ok := l.sources[first]
	other, both := l.sources[second]
	if !ok {
		where = other
	}
	d := problemAt(where, summary, format, args...)
	if ok && both {
		d.Detail += fmt.Sprintf(" The other one is at %s.", rangeOf(other))
	}
	l.add(d)
}

func (l *loader) checkAPIKeys(c *Config) {
	owners := map[string]*APIKey{}
	for _, key := range c.APIKeys {
		if key.Role == RoleProducer && key.Organization == AllOrganizations {
			l.add(problemAt(l.sources[&key.Organization], "Invalid organization", "A producer submits for one organization; name it."))
		}
		if key.Token.IsZero() {
			continue
		}
		if other, ok := owners[key.Token.Reveal()]; ok {
			l.add(problemAt(cmp.Or(l.sources[&key.Token], l.sources[key]), "A token is given twice",
				"api_key %q at %s has the same token; a request must name one key.", other.Name, rangeOf(l.sources[&other.Token])))
			continue
		}
		owners[key.Token.Reveal()] = key
	}
}

// finishSettings fills in the settings that are not given and checks the result.
func (l *loader) finishSettings() {
	c := l.config
	spec := defaultsBlock()
	c.Defaults = complete(c.Defaults, destination.Settings{})
	defaultsOK := l.checkSettings(spec, &c.Defaults, &c.Defaults, l.first[topLevel("defaults")])
	own := destinationBlock()
	for _, d := range c.Destinations {
		d.Own = d.Settings.Merge(destination.Settings{})
		d.Settings = complete(d.Settings, c.Defaults)
		if defaultsOK { // else each destination would repeat what is wrong there
			l.checkSettings(own, d, &d.Settings, l.sources[d])
		}
	}
}

// complete merges settings in place: the source of a setting is known by its address.
func complete(own, defaults destination.Settings) destination.Settings {
	merged := own.Merge(defaults).WithDefaults()
	if own.RateLimit != nil && merged.RateLimit != nil {
		*own.RateLimit = *merged.RateLimit
		merged.RateLimit = own.RateLimit
	}
	return merged
}

// checkSettings reports what is wrong with complete settings, each finding at
// the attribute that it is about.
func (l *loader) checkSettings(spec *block, value any, settings *destination.Settings, blockAt hcl.Range) bool {
	problems := destination.FieldErrors(settings.Validate())
	if len(problems) == 0 {
		return true
	}
	ranges := map[string]hcl.Range{}
	names := map[string]string{}
	spec.walk(value, nil, func(path []string, a *attribute, pointer any) {
		field := strings.Join(append(path[:len(path):len(path)], a.jsonName()), ".")
		names[field] = strings.Join(append(path[:len(path):len(path)], a.name), ".")
		if where, ok := l.sources[pointer]; ok {
			ranges[field] = where
		}
	})
	for _, one := range problems {
		where, ok := ranges[one.Field]
		if !ok {
			where = blockAt
		}
		name := cmp.Or(names[one.Field], one.Field)
		l.add(problemAt(where, "Invalid "+name, "%s %s.", name, one.Problem))
	}
	return false
}
