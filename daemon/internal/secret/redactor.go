package secret

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// MinRedactSize is the length from which a secret is looked for in text. A
// shorter one would blot out words that have nothing to do with it.
const MinRedactSize = 4

// LongSize is the length of secrets that nobody guesses by trying; see
// [Redactor.LongText].
const LongSize = 16

// minLineSize is the length from which a single line of a secret of many
// lines, such as a PEM key, is a secret of its own: logs are cut at newlines.
const minLineSize = 16

// maxRedactSize bounds one secret: from a longer one, its first bytes and
// (as text of many lines) its lines are enough to find it.
const maxRedactSize = 64 << 10

// maxRedactorBytes bounds the forms of all secrets of a Redactor: 20,000 webhook
// secrets take 25 MiB.
const maxRedactorBytes = 128 << 20

// Redactor replaces known secrets in text that others wrote: errors of a peer,
// log lines of a plugin, response excerpts. It also finds the forms that a
// secret takes on its way: JSON-escaped, URL-escaped, hexadecimal, and base64,
// also in the middle of a longer base64 text (as in HTTP basic auth).
// A Redactor is safe for concurrent use; the nil Redactor changes nothing. It
// costs about 1 KB per secret, and one map look-up per byte of text.
type Redactor struct {
	mu      sync.Mutex
	buckets map[[MinRedactSize]byte]*bucket
	bytes   int // of all forms
	most    int // bound of bytes
}

// bucket holds the forms that begin with the same 4 bytes. Thousands may: all
// webhook secrets begin with "whsec_".
type bucket struct {
	uses map[string]uses // by form
	// sorted are the forms; nil where they have changed since somebody looked:
	// sorting at each change would make opening n destinations cost n² log n.
	sorted []string
	// shorter is the index of the longest other form that a form begins with, or -1.
	shorter []int32
}

// uses counts the secrets that have a form, and of these the long ones.
type uses struct{ all, long int32 }

// link makes sorted and shorter. In sorted order, the forms that one begins with
// are those on a stack of what began so before it.
func (b *bucket) link() {
	b.sorted = slices.Sorted(maps.Keys(b.uses))
	b.shorter = make([]int32, len(b.sorted))
	var stack []int32
	for i, form := range b.sorted {
		for len(stack) > 0 && !strings.HasPrefix(form, b.sorted[stack[len(stack)-1]]) {
			stack = stack[:len(stack)-1]
		}
		b.shorter[i] = -1
		if len(stack) > 0 {
			b.shorter[i] = stack[len(stack)-1]
		}
		stack = append(stack, int32(i))
	}
}

// match returns the length of the longest form, of long secrets only or of all, that
// text begins with, or 0. Whatever sorts between a form that text begins with and text itself begins
// with that form too: so it is the last form that sorts before text, or one
// that this one begins with.
func (b *bucket) match(text string, long bool) int {
	if b.sorted == nil {
		b.link()
	}
	i, found := slices.BinarySearch(b.sorted, text)
	if !found {
		i--
	}
	for ; i >= 0; i = int(b.shorter[i]) {
		form := b.sorted[i]
		if strings.HasPrefix(text, form) && (!long || b.uses[form].long > 0) {
			return len(form)
		}
	}
	return 0
}

// NewRedactor returns a redactor that knows secrets. Those shorter than
// [MinRedactSize] are ignored.
func NewRedactor(secrets ...string) *Redactor {
	r := &Redactor{buckets: make(map[[MinRedactSize]byte]*bucket), most: maxRedactorBytes}
	r.Add(secrets...)
	return r
}

// Add makes secrets known until forget is called. It reports whether all of them
// found room: of what did not, nothing is known.
func (r *Redactor) Add(secrets ...string) (forget func(), all bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all = true
	var known []addition
	for _, text := range secrets {
		added := addition{forms(text[:min(len(text), maxRedactSize)]), uses{all: 1}}
		if len(text) >= LongSize {
			added.uses.long = 1
		}
		if !r.room(added.forms) {
			all = false
			continue
		}
		for _, form := range added.forms {
			r.change(form, added.uses)
		}
		known = append(known, added)
	}
	return sync.OnceFunc(func() { r.forget(known) }), all
}

// addition is what a secret has added.
type addition struct {
	forms []string
	uses  uses
}

// room reports whether forms may be added.
func (r *Redactor) room(forms []string) bool {
	fresh := 0
	for _, form := range forms {
		if b := r.buckets[headOf(form)]; b == nil || b.uses[form].all == 0 {
			fresh += len(form)
		}
	}
	return r.bytes+fresh <= r.most
}

// change adds to the uses of a form, or takes from them.
func (r *Redactor) change(form string, by uses) {
	head := headOf(form)
	b := r.buckets[head]
	if b == nil {
		b = &bucket{uses: map[string]uses{}}
		r.buckets[head] = b
	}
	before := b.uses[form]
	now := uses{before.all + by.all, before.long + by.long}
	b.uses[form] = now
	switch {
	case before.all == 0:
		b.sorted = nil
		r.bytes += len(form)
	case now.all == 0:
		delete(b.uses, form)
		b.sorted = nil
		r.bytes -= len(form)
	}
	if len(b.uses) == 0 {
		delete(r.buckets, head)
	}
}

func (r *Redactor) forget(known []addition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, added := range known {
		for _, form := range added.forms {
			r.change(form, uses{-added.uses.all, -added.uses.long})
		}
	}
}

func headOf(form string) [MinRedactSize]byte {
	return [MinRedactSize]byte([]byte(form[:MinRedactSize]))
}

// Text returns text with every known secret replaced by "***".
func (r *Redactor) Text(text string) string { return r.text(text, false) }

// LongText is Text for secrets of [LongSize] and more only. It is for what a caller
// may be shown: who can make a text quote him would learn from it which of his
// guesses is a secret of somebody else.
func (r *Redactor) LongText(text string) string { return r.text(text, true) }

func (r *Redactor) text(text string, long bool) string {
	if r == nil || len(text) < MinRedactSize {
		return text
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var out strings.Builder
	kept := 0
	for i := 0; i+MinRedactSize <= len(text); {
		n := r.match(text[i:], long)
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
	if r == nil {
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
	r.mu.Lock()
	defer r.mu.Unlock()
	source := string(text)
	for i := 0; i+MinRedactSize <= len(source); {
		n := r.match(source[i:], false)
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
func (r *Redactor) match(text string, long bool) int {
	b := r.buckets[headOf(text)]
	if b == nil {
		return 0
	}
	return b.match(text, long)
}

// forms returns the ways in which a secret may be written, those that are long
// enough to be looked for, each once.
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
	slices.Sort(all)
	all = slices.Compact(all)
	return slices.DeleteFunc(all, func(form string) bool { return len(form) < MinRedactSize })
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
