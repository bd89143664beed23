package schema

import (
	"encoding/pem"
	"fmt"
	"math"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// checkFormat checks text; its errors quote text, so the caller must not pass
// them on for a secret.
func checkFormat(format, text string) error {
	ok := true
	switch format {
	case FormatURL:
		ok = isURL(text)
	case FormatDuration:
		_, err := ParseDuration(text)
		return err
	case FormatSize:
		_, err := ParseSize(text)
		return err
	case FormatEmail:
		ok = isEmail(text)
	case FormatHost:
		ok = isHost(text)
	case FormatHostPort:
		ok = isHostPort(text)
	case FormatPath:
		ok = !strings.ContainsRune(text, 0) && len(text) <= 4096
	case FormatPEM:
		block, _ := pem.Decode([]byte(text))
		ok = block != nil
	case FormatCIDR:
		_, err := netip.ParsePrefix(text)
		ok = err == nil
	}
	if ok {
		return nil
	}
	if format == FormatPEM {
		return fmt.Errorf("want %s", formatHint(format)) // may be a key put into the wrong place
	}
	return fmt.Errorf("%q: want %s", clip(redactUserinfo(text), 128), formatHint(format))
}

func formatHint(format string) string {
	switch format {
	case FormatURL:
		return "an absolute URL such as https://host/path"
	case FormatDuration:
		return `a duration such as "500ms", "30s" or "1h30m"`
	case FormatSize:
		return `a size such as "512", "64KiB" or "10MB"`
	case FormatEmail:
		return "an e-mail address such as name@example.com"
	case FormatHost:
		return "a host name or an IP address"
	case FormatHostPort:
		return "a host and a port such as example.com:443"
	case FormatPath:
		return "a path"
	case FormatPEM:
		return "PEM text: -----BEGIN ..."
	case FormatCIDR:
		return "a network such as 10.0.0.0/8"
	default:
		return "a value of format " + format
	}
}

func isURL(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.Scheme != "" && u.Host != "" && u.Hostname() != "" && !strings.ContainsAny(text, " \t\r\n")
}

// redactUserinfo keeps the password of a mistyped URL out of a diagnostic.
func redactUserinfo(text string) string {
	scheme, rest, found := strings.Cut(text, "://")
	at := strings.LastIndexByte(rest, '@')
	if !found || at < 0 {
		return text
	}
	return scheme + "://***" + rest[at:]
}

func isEmail(text string) bool {
	a, err := mail.ParseAddress(text)
	return err == nil && a.Address == text && !strings.ContainsAny(text, "\r\n")
}

var hostLabel = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?$`)

func isHost(text string) bool {
	if _, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return true
	}
	name := strings.TrimSuffix(text, ".")
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if !hostLabel.MatchString(label) {
			return false
		}
	}
	return true
}

func isHostPort(text string) bool {
	host, port, err := net.SplitHostPort(text)
	if err != nil || !isHost(host) {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

// ParseDuration is time.ParseDuration without negative values.
func ParseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q: want %s", clip(text, 64), formatHint(FormatDuration))
	}
	return d, nil
}

// ParseSize reads a Size: digits with an optional fraction and one of B, KB, MB,
// GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024).
func ParseSize(text string) (Size, error) {
	wrong := fmt.Errorf("%q: want %s", clip(text, 64), formatHint(FormatSize))
	digits := strings.TrimRight(text, "BKMGTibkmgt ")
	unit := strings.TrimSpace(text[len(digits):])
	factor, known := map[string]float64{
		"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
		"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
	}[strings.ToLower(unit)]
	if !known || digits == "" || strings.Trim(digits, "0123456789.") != "" {
		return 0, wrong
	}
	if factor == 1 {
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil {
			return 0, wrong
		}
		return Size(n), nil
	}
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || n*factor >= math.MaxInt64 {
		return 0, wrong
	}
	return Size(math.Round(n * factor)), nil
}

// String is the shortest exact form with a binary unit.
func (s Size) String() string {
	for _, unit := range []struct {
		name  string
		bytes Size
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if s >= unit.bytes && s%unit.bytes == 0 {
			return strconv.FormatInt(int64(s/unit.bytes), 10) + unit.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}
