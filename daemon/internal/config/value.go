package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Size is a number of bytes.
type Size int64

// Binary units.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

// shown quotes a value for an error, unless it is so long or so odd that it is
// something else than was meant: the rest of a file behind a missing quote.
func shown(text string) string {
	if len(text) > 80 || strings.ContainsFunc(text, unicode.IsControl) {
		return "the value"
	}
	return strconv.Quote(text)
}

type sizeUnit struct {
	name  string
	bytes Size
}

// sizeUnits has the longest names first, so that "MiB" is not read as "B".
func sizeUnits() []sizeUnit {
	return []sizeUnit{
		{"TiB", TiB},
		{"GiB", GiB},
		{"MiB", MiB},
		{"KiB", KiB},
		{"TB", 1e12},
		{"GB", 1e9},
		{"MB", 1e6},
		{"kB", 1e3},
		{"KB", 1e3},
		{"B", 1},
	}
}

// String returns the size in the greatest binary unit that needs no fraction.
func (s Size) String() string {
	for _, unit := range sizeUnits()[:4] {
		if s != 0 && s%unit.bytes == 0 {
			return strconv.FormatInt(int64(s/unit.bytes), 10) + unit.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// MarshalText returns [Size.String].
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// ParseSize reads a size such as "10MiB", "64KiB", "1.5GiB", "10MB" or "512B".
func ParseSize(text string) (Size, error) {
	trimmed := strings.TrimSpace(text)
	for _, unit := range sizeUnits() {
		number, ok := strings.CutSuffix(trimmed, unit.name)
		if !ok {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || math.IsNaN(value) || value < 0 || !isDecimal(strings.TrimSpace(number)) {
			break
		}
		if bytes := value * float64(unit.bytes); bytes < math.MaxInt64 {
			return Size(bytes), nil
		}
		return 0, fmt.Errorf("%s is too large for a size", shown(text))
	}
	return 0, fmt.Errorf(`%s is not a size: write a number and a unit, such as "512B", "64KiB", "10MiB" or "2GiB"`, shown(text))
}

func isDecimal(number string) bool { return number != "" && strings.Trim(number, "0123456789.") == "" }

// ParseDuration reads a duration such as "500ms", "30s", "5m", "72h", "1h30m",
// and days of 24 hours as in "7d" or "1d12h". A bare number is refused: it
// would not say its unit.
func ParseDuration(text string) (time.Duration, error) {
	bad := fmt.Errorf(`%s is not a duration: write a number and a unit, such as "500ms", "30s", "5m", "72h" or "7d"`, shown(text))
	days, rest, found := strings.Cut(strings.TrimSpace(text), "d")
	if !found {
		days, rest = "", days
	}
	var total time.Duration
	if found {
		n, err := strconv.ParseFloat(days, 64)
		if err != nil || !isDecimal(days) || n*24 > math.MaxInt64/float64(time.Hour) {
			return 0, bad
		}
		total = time.Duration(n * 24 * float64(time.Hour))
		if rest == "" {
			return total, nil
		}
	}
	if strings.ContainsAny(rest, "+-") || strings.Trim(rest, "0123456789.") == "" {
		return 0, bad
	}
	part, err := time.ParseDuration(rest)
	if err != nil || total+part < total {
		return 0, bad
	}
	return total + part, nil
}

// formatDuration is the inverse of ParseDuration, without the zeros that
// time.Duration prints: "72h", not "72h0m0s".
func formatDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
