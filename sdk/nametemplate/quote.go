package nametemplate

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxReplaced bounds what Replace returns, in bytes: the file systems of
	// servers take names of 255.
	maxReplaced = 150
	// maxExtension is the longest ending of a name, its dot included, that Shorten
	// keeps.
	maxExtension = 20
	// markBytes of a digest tell shortened names apart.
	markBytes = 8
)

// Escape keeps a value in its place and tells any two values apart: slashes,
// backslashes, the percent sign and what cannot be printed become %XX, one for
// each byte. An empty value is "_".
func Escape(value string) string {
	if value == "" {
		return "_"
	}
	// "." and ".." lead to other directories, and "_" is taken.
	if strings.Trim(value, ".") == "" || value == "_" {
		return escapeAll(value)
	}
	var b strings.Builder
	for i, r := range value {
		_, n := utf8.DecodeRuneInString(value[i:]) // not of r: a broken byte is one byte
		if broken := r == utf8.RuneError && n == 1; broken || r == '/' || r == '\\' || r == '%' || !unicode.IsPrint(r) {
			b.WriteString(escapeAll(value[i : i+n]))
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func escapeAll(value string) string {
	var b strings.Builder
	for i := range len(value) {
		fmt.Fprintf(&b, "%%%02X", value[i])
	}
	return b.String()
}

// Replace makes a value fit for a file name on any system, for people to read:
// slashes, backslashes, "<>:|?*, and what cannot be printed become "_", and so
// do values that are empty or made of dots and spaces. It has at most 150 bytes.
// Two values can become one.
func Replace(value string) string {
	value = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || strings.ContainsRune(`/\"<>:|?*`, r) || !unicode.IsPrint(r) {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(value, "_"))
	if strings.Trim(value, ". ") == "" {
		return "_"
	}
	return Shorten(value, maxReplaced)
}

// Shorten cuts a name that has more bytes than most, at least 64, and puts a mark
// in the place of what is gone, so that names that differ there only stay apart.
// It keeps the extension: the end of a name tells what it is.
func Shorten(name string, most int) string {
	if len(name) <= most {
		return name
	}
	ext := path.Ext(name)
	if len(ext) > maxExtension {
		ext = ""
	}
	digest := sha256.Sum256([]byte(name))
	end := "~" + hex.EncodeToString(digest[:markBytes]) + ext
	return strings.ToValidUTF8(name[:most-len(end)], "") + end
}
