package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// MaxDocumentSize is the most bytes of JSON that the functions on paths take.
const MaxDocumentSize = 4 << 20

// Paths into a JSON document are JSON Pointers (RFC 6901), in which a step "*"
// stands for every element of a list and every key of a map: "/auth/password",
// "/headers/Authorization", "/servers/*/token". A path that leads nowhere in a
// document is no error: an optional secret is often absent.

// Pointer returns the JSON Pointer of steps.
func Pointer(steps ...string) string {
	var pointer strings.Builder
	for _, step := range steps {
		pointer.WriteByte('/')
		_, _ = escapeStep.WriteString(&pointer, step)
	}
	return pointer.String()
}

//nolint:gochecknoglobals // never changed: a Replacer is safe for concurrent use
var (
	escapeStep   = strings.NewReplacer("~", "~0", "/", "~1")
	unescapeStep = strings.NewReplacer("~1", "/", "~0", "~")
)

// SealPaths returns the JSON document with the value at each path (a string,
// or anything else but null) replaced by its sealed text. Values that are
// sealed already stay as they are, so sealing twice is sealing once. The
// associated data names what the document belongs to, such as a destination;
// each value is also bound to its own place in the document.
func (b *Box) SealPaths(document []byte, paths []string, associatedData string) ([]byte, error) {
	return rewrite("sealing", document, paths, func(place string, value any) (any, error) {
		if text, ok := value.(string); ok && IsSealed(text) {
			return value, nil
		}
		plain, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		return b.Seal(string(plain), placeData(associatedData, place))
	})
}

// OpenPaths is the inverse of [Box.SealPaths]: it opens every sealed text in
// the document, wherever it is, so that it needs no schema. Plain values stay
// as they are: another program may have written them.
func (b *Box) OpenPaths(document []byte, associatedData string) ([]byte, error) {
	root, err := decode(document)
	if err != nil {
		return nil, fmt.Errorf("opening secrets of a document: %w", err)
	}
	opened, err := walk(root, "", func(place string, value any) (any, error) {
		text, ok := value.(string)
		if !ok || !IsSealed(text) {
			return value, nil
		}
		plain, err := b.Open(text, placeData(associatedData, place))
		if err != nil {
			return nil, err
		}
		return decode([]byte(plain))
	})
	if err != nil {
		return nil, fmt.Errorf("opening secrets of a document: %w", err)
	}
	return json.Marshal(opened)
}

// ResealPaths returns the document with what is plain at one of the paths sealed
// and, with rekey, what another than the box's first key sealed, wherever it is,
// sealed with that one. Everything else keeps its text. Errors are those of
// [Box.Open], or say that this is no document.
func (b *Box) ResealPaths(document []byte, paths []string, associatedData string, rekey bool) (resealed []byte, changed bool, err error) {
	resealed, err = rewrite("sealing", document, paths, func(place string, value any) (any, error) {
		if text, ok := value.(string); ok && IsSealed(text) {
			return value, nil
		}
		changed = true
		plain, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		return b.Seal(string(plain), placeData(associatedData, place))
	})
	if err != nil || !rekey {
		return resealed, changed, err
	}
	root, err := decode(resealed)
	if err != nil {
		return nil, false, fmt.Errorf("sealing secrets of a document: %w", err)
	}
	root, err = walk(root, "", func(place string, value any) (any, error) {
		text, ok := value.(string)
		if id, sealed := SealedKeyID(text); !ok || !sealed || id == b.primary {
			return value, nil
		}
		plain, err := b.Open(text, placeData(associatedData, place))
		if err != nil {
			return nil, err
		}
		changed = true
		return b.Seal(plain, placeData(associatedData, place))
	})
	if err != nil {
		return nil, false, fmt.Errorf("sealing secrets of a document: %w", err)
	}
	resealed, err = json.Marshal(root)
	return resealed, changed, err
}

// NeedsSeal reports whether a value at one of the paths is plain or sealed
// with another key than the box's first: what a sweep or a key rotation has to
// rewrite.
func (b *Box) NeedsSeal(document []byte, paths []string) (bool, error) {
	needs := false
	_, err := rewrite("looking for plain secrets", document, paths, func(_ string, value any) (any, error) {
		text, ok := value.(string)
		id, sealed := SealedKeyID(text)
		needs = needs || !ok || !sealed || id != b.primary
		return value, nil
	})
	return needs, err
}

// RedactPaths returns the document with the value at each path, and every
// sealed text elsewhere, replaced by "***". A box, when it is not nil and can
// open the value, adds the fingerprint.
func RedactPaths(document []byte, paths []string, box *Box, associatedData string) ([]byte, error) {
	hide := func(place string, value any) (any, error) {
		if text, ok := value.(string); ok && IsRedacted(text) {
			return value, nil
		}
		return redactedValue(box, placeData(associatedData, place), value), nil
	}
	redacted, err := rewrite("redacting", document, paths, hide)
	if err != nil {
		return nil, err
	}
	root, err := decode(redacted)
	if err != nil {
		return nil, fmt.Errorf("redacting a document: %w", err)
	}
	root, err = walk(root, "", func(place string, value any) (any, error) {
		if text, ok := value.(string); ok && IsSealed(text) {
			return hide(place, value)
		}
		return value, nil
	})
	if err != nil {
		return nil, fmt.Errorf("redacting a document: %w", err)
	}
	return json.Marshal(root)
}

func redactedValue(box *Box, placeData string, value any) string {
	if box == nil {
		return Redacted
	}
	if text, ok := value.(string); ok && IsSealed(text) {
		plain, err := box.Open(text, placeData)
		if err != nil {
			return Redacted
		}
		if value, err = decode([]byte(plain)); err != nil {
			return Redacted
		}
	}
	text, ok := value.(string)
	if !ok {
		plain, err := json.Marshal(value)
		if err != nil {
			return Redacted
		}
		text = string(plain)
	}
	return mask(box.Fingerprint(text))
}

// KeepPaths returns the document update in which each secret that is absent,
// or that is the stand-in of [RedactPaths], has the value that current has at
// the same place. It is what makes an update keep the secrets that it omits;
// to remove one, the update sets it to null.
func KeepPaths(update, current []byte, paths []string) ([]byte, error) {
	updated, err := decode(update)
	if err != nil {
		return nil, fmt.Errorf("keeping secrets: the new document: %w", err)
	}
	old, err := decode(current)
	if err != nil {
		return nil, fmt.Errorf("keeping secrets: the current document: %w", err)
	}
	for _, path := range paths {
		steps, err := splitPointer(path)
		if err != nil {
			return nil, fmt.Errorf("keeping secrets: %w", err)
		}
		updated, _ = keep(updated, old, steps)
	}
	return json.Marshal(updated)
}

// keep returns updated with the value of old at steps where updated has none.
// The second result is false when there is nothing to put at this place.
func keep(updated, old any, steps []string) (any, bool) {
	if old == nil {
		return updated, updated != nil
	}
	if len(steps) == 0 {
		if text, ok := updated.(string); ok && IsRedacted(text) {
			return old, true
		}
		return updated, true
	}
	switch from := old.(type) {
	case map[string]any:
		to, ok := updated.(map[string]any)
		if !ok {
			return updated, updated != nil
		}
		for _, key := range matchingKeys(from, steps[0]) {
			value, given := to[key]
			switch {
			case given:
				to[key], _ = keep(value, from[key], steps[1:])
			case len(steps) == 1:
				to[key] = from[key]
			}
		}
	case []any:
		to, ok := updated.([]any)
		if !ok {
			return updated, updated != nil
		}
		for i := range min(len(from), len(to)) {
			if steps[0] == "*" || steps[0] == strconv.Itoa(i) {
				to[i], _ = keep(to[i], from[i], steps[1:])
			}
		}
	}
	return updated, true
}

func matchingKeys(object map[string]any, step string) []string {
	if _, ok := object[step]; ok {
		return []string{step}
	}
	if step != "*" {
		return nil
	}
	keys := make([]string, 0, len(object))
	for key := range object {
		keys = append(keys, key)
	}
	return keys
}

// replace maps the value at place to another. A place is a pointer in which
// list indexes are "*": a list may be reordered by whoever edits the document.
type replace func(place string, value any) (any, error)

// rewrite applies f to the value at each path of the document.
func rewrite(doing string, document []byte, paths []string, f replace) ([]byte, error) {
	root, err := decode(document)
	if err != nil {
		return nil, fmt.Errorf("%s secrets of a document: %w", doing, err)
	}
	for _, path := range paths {
		steps, err := splitPointer(path)
		if err != nil {
			return nil, fmt.Errorf("%s secrets of a document: %w", doing, err)
		}
		if root, err = at(root, "", steps, f); err != nil {
			return nil, fmt.Errorf("%s the value at %s: %w", doing, path, err)
		}
	}
	return json.Marshal(root)
}

// at applies f to what steps lead to below value.
func at(value any, place string, steps []string, f replace) (any, error) {
	if value == nil {
		return nil, nil
	}
	if len(steps) == 0 {
		return f(place, value)
	}
	switch node := value.(type) {
	case map[string]any:
		for _, key := range matchingKeys(node, steps[0]) {
			child, err := at(node[key], place+Pointer(key), steps[1:], f)
			if err != nil {
				return nil, err
			}
			node[key] = child
		}
	case []any:
		for i := range node {
			if steps[0] != "*" && steps[0] != strconv.Itoa(i) {
				continue
			}
			child, err := at(node[i], place+"/*", steps[1:], f)
			if err != nil {
				return nil, err
			}
			node[i] = child
		}
	case string:
		// The whole of this value was sealed by a shorter path: leave it.
	}
	return value, nil
}

// walk applies f to every leaf below value.
func walk(value any, place string, f replace) (any, error) {
	switch node := value.(type) {
	case map[string]any:
		for key, child := range node {
			replaced, err := walk(child, place+Pointer(key), f)
			if err != nil {
				return nil, err
			}
			node[key] = replaced
		}
		return node, nil
	case []any:
		for i, child := range node {
			replaced, err := walk(child, place+"/*", f)
			if err != nil {
				return nil, err
			}
			node[i] = replaced
		}
		return node, nil
	default:
		return f(place, value)
	}
}

// placeData binds a sealed value to its place. The separator cannot be part
// of an escaped pointer's first byte, so no two pairs give the same text.
func placeData(associatedData, place string) string {
	return strconv.Itoa(len(associatedData)) + ":" + associatedData + place
}

// Steps returns the steps of a JSON Pointer, unescaped, or nil when it is none.
func Steps(pointer string) []string {
	steps, err := splitPointer(pointer)
	if err != nil {
		return nil
	}
	return steps
}

// TextsAt returns every string, and every number as text, at or below the
// paths of a document: what a [Redactor] has to look for.
func TextsAt(document []byte, paths []string) []string {
	var texts []string
	_, _ = rewrite("reading", document, paths, func(place string, value any) (any, error) {
		return walk(value, place, func(_ string, leaf any) (any, error) {
			switch leaf := leaf.(type) {
			case string:
				texts = append(texts, leaf)
			case json.Number:
				texts = append(texts, leaf.String())
			}
			return leaf, nil
		})
	})
	return texts
}

// SealedAt returns the paths at which sealed texts stand in a document.
func SealedAt(document []byte) []string {
	var paths []string
	root, err := decode(document)
	if err != nil {
		return nil
	}
	_, _ = walk(root, "", func(place string, value any) (any, error) {
		if text, ok := value.(string); ok && IsSealed(text) {
			paths = append(paths, place)
		}
		return value, nil
	})
	return paths
}

func splitPointer(path string) ([]string, error) {
	rest, ok := strings.CutPrefix(path, "/")
	if !ok {
		return nil, fmt.Errorf("path %q is not a JSON Pointer: it must start with \"/\"", path)
	}
	steps := strings.Split(rest, "/")
	for i, step := range steps {
		steps[i] = unescapeStep.Replace(step)
	}
	return steps, nil
}

var errDocument = errors.New("not one JSON value")

// decode reads one JSON value and keeps numbers as they are written. Its
// errors never quote the document, which encoding/json's sometimes do.
func decode(document []byte) (any, error) {
	if len(document) > MaxDocumentSize {
		return nil, fmt.Errorf("the document has %d bytes, at most %d are allowed", len(document), MaxDocumentSize)
	}
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.UseNumber()
	var root any
	if err := decoder.Decode(&root); err != nil {
		return nil, errDocument
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errDocument
	}
	return root, nil
}
