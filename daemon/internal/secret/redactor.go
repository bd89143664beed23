package secret

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// MinRedactSize is the length from which a secret is looked for in text. A
// shorter one would blot out words that have nothing to do with it.
const MinRedactSize = 4

// minLineSize is the length from which a single line of a secret of many
// lines, such as a PEM key, is a secret of its own: logs are cut at newlines.
const minLineSize = 16

// maxRedactSize bounds one secret: from a longer one, its first bytes and
// (as text of many lines) its lines are enough to find it.
const maxRedactSize = 64 << 10

// Redactor replaces known secrets in text that others wrote: errors of a peer,
// log lines of a plugin, response excerpts. It also finds the forms that a
// secret takes on its way: JSON-escaped, URL-escaped, hexadecimal, and base64,
// also in the middle of a longer base64 text (as in HTTP basic auth).
// A Redactor is immutable and safe for concurrent use; the nil Redactor
// changes nothing. It costs about 1 KB per secret, and one map look-up per
// byte of text.
type Redactor struct {
	buckets map[[MinRedactSize]byte]*bucket
}

// bucket holds the forms that begin with the same 4 bytes, sorted. Thousands
// may: all webhook secrets begin with "whsec_".
type bucket struct {
	forms []string
	// shorter is the index of the longest other form that a form begins with, or -1.
	shorter []int32
}

// link fills in shorter. In sorted order, the forms that one begins with are
// those on a stack of what began so before it.
func (b *bucket) link() {
	slices.Sort(b.forms)
	b.shorter = make([]int32, len(b.forms))
	var stack []int32
	for i, form := range b.forms {
		for len(stack) > 0 && !strings.HasPrefix(form, b.forms[stack[len(stack)-1]]) {
			stack = stack[:len(stack)-1]
		}
		b.shorter[i] = -1
		if len(stack) > 0 {
			b.shorter[i] = stack[len(stack)-1]
		}
		stack = append(stack, int32(i))
	}
}

// match returns the length of the longest form that text begins with, or 0.
// Whatever sorts between a form that text begins with and text itself begins
// with that form too: so it is the last form that sorts before text, or one
// that this one begins with.
func (b *bucket) match(text string) int {
	i, found := slices.BinarySearch(b.forms, text)
	if found {
		return len(text)
	}
	for i--; i >= 0; i = int(b.shorter[i]) {
		if strings.HasPrefix(text, b.forms[i]) {
			return len(b.forms[i])
		}
	}
	return 0
}

// NewRedactor returns a redactor for secrets. Secrets shorter than
// [MinRedactSize] are ignored.
func NewRedactor(secrets ...string) *Redactor {
	redactor := &Redactor{buckets: make(map[[MinRedactSize]byte]*bucket)}
	seen := make(map[string]bool)
	for _, text := range secrets {
		if len(text) > maxRedactSize {
			text = text[:maxRedactSize]
		}
		for _, form := range forms(text) {
			if len(form) >= MinRedactSize && !seen[form] {
				seen[form] = true
				head := [MinRedactSize]byte([]byte(form[:MinRedactSize]))
				if redactor.buckets[head] == nil {
					redactor.buckets[head] = &bucket{}
				}
				redactor.buckets[head].forms = append(redactor.buckets[head].forms, form)
			}
		}
	}
	for _, b := range redactor.buckets {
		b.link()
	}
	return redactor
}

// With returns a redactor for the secrets of both: while a reload swaps one
// configuration for the next, the secrets of both are in use.
func (r *Redactor) With(other *Redactor) *Redactor {
	both := &Redactor{buckets: make(map[[MinRedactSize]byte]*bucket)}
	for _, one := range []*Redactor{r, other} {
		if one == nil {
			continue
		}
		for head, b := range one.buckets {
			merged := &bucket{forms: slices.Clone(b.forms)}
			if have := both.buckets[head]; have != nil {
				merged.forms = append(merged.forms, have.forms...)
			}
			slices.Sort(merged.forms)
			merged.forms = slices.Compact(merged.forms)
			both.buckets[head] = merged
		}
	}
	for _, b := range both.buckets {
		b.link()
	}
	return both
}

// Text returns text with every known secret replaced by "***".
func (r *Redactor) Text(text string) string {
	if r == nil || len(r.buckets) == 0 || len(text) < MinRedactSize {
		return text
	}
	var out strings.Builder
	kept := 0
	for i := 0; i+MinRedactSize <= len(text); {
		n := r.match(text[i:])
		if n == 0 {
			i++
			continue
		}
		out.WriteString(text[kept:i])
		out.WriteString(Redacted)
		i += n
		kept = i
	}
	if kept == 0 {
		return text
	}
	out.WriteString(text[kept:])
	return out.String()
}

// JSON returns a JSON document with every known secret in its strings and keys
// replaced; what is not JSON is treated as text. (Text alone could cut a JSON
// escape in two.)
func (r *Redactor) JSON(document []byte) []byte {
	if r == nil || len(r.buckets) == 0 {
		return document
	}
	root, err := decode(document)
	if err != nil {
		return []byte(r.Text(string(document)))
	}
	redacted, err := json.Marshal(r.value(root))
	if err != nil {
		return []byte(r.Text(string(document)))
	}
	return redacted
}

func (r *Redactor) value(value any) any {
	switch node := value.(type) {
	case string:
		return r.Text(node)
	case json.Number:
		if text := r.Text(node.String()); text != node.String() {
			return text
		}
	case map[string]any:
		clean := make(map[string]any, len(node))
		for key, child := range node {
			clean[r.Text(key)] = r.value(child)
		}
		return clean
	case []any:
		for i := range node {
			node[i] = r.value(node[i])
		}
	}
	return value
}

// Mask returns a copy of text in which every known secret is overwritten with
// as many asterisks as it has bytes, so that offsets stay right.
func (r *Redactor) Mask(text []byte) []byte {
	out := slices.Clone(text)
	if r == nil {
		return out
	}
	source := string(text)
	for i := 0; i+MinRedactSize <= len(source); {
		n := r.match(source[i:])
		if n == 0 {
			i++
			continue
		}
		for j := i; j < i+n; j++ {
			if out[j] != '\n' && out[j] != '\r' {
				out[j] = '*'
			}
		}
		i += n
	}
	return out
}

// match returns the length of the longest form that text begins with, or 0.
func (r *Redactor) match(text string) int {
	b := r.buckets[[MinRedactSize]byte([]byte(text[:MinRedactSize]))]
	if b == nil {
		return 0
	}
	return b.match(text)
}

// forms returns the ways in which a secret may be written.
func forms(text string) []string {
	if len(text) < MinRedactSize {
		return nil
	}
	all := plainForms(text)
	if strings.ContainsAny(text, "\r\n") {
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			if len(line) >= minLineSize && !strings.HasPrefix(line, "-----") { // not a PEM header
				all = append(all, plainForms(line)...)
			}
		}
		all = append(all, plainForms(strings.TrimSpace(text))...)
	}
	return all
}

func plainForms(text string) []string {
	raw := []byte(text)
	all := []string{text, url.QueryEscape(text), url.PathEscape(text), hex.EncodeToString(raw), strings.ToUpper(hex.EncodeToString(raw))}
	if quoted, err := json.Marshal(text); err == nil {
		all = append(all, string(quoted[1:len(quoted)-1]))
	}
	if quoted := strings.Trim(strconv.Quote(text), `"`); quoted != text {
		all = append(all, quoted)
	}
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		all = append(all, encoding.EncodeToString(raw))
	}
	return append(all, innerBase64(raw)...)
}

// innerBase64 returns what base64 of any longer text with raw inside contains,
// whichever of the three alignments raw has in it: the characters that depend
// on raw alone.
func innerBase64(raw []byte) []string {
	var all []string
	for shift := range 3 {
		padded := append(make([]byte, shift, shift+len(raw)), raw...)
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			text := encoding.EncodeToString(padded)
			first := (shift*8 + 5) / 6         // characters before it hold bits of what stands before raw
			last := (shift + len(raw)) * 8 / 6 // and after it of what stands behind
			// A short core would match unrelated text: 8 characters hold 6 bytes.
			if last-first >= 8 {
				all = append(all, text[first:last])
			}
		}
	}
	return all
}
