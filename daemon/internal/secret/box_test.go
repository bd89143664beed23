package secret

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func base64Of(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

func newBox(t interface {
	Helper()
	Fatal(...any)
}, keys ...Key,
) *Box {
	t.Helper()
	if len(keys) == 0 {
		keys = []Key{NewKey()}
	}
	box, err := NewBox(keys[0], keys[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	return box
}

func TestSealAndOpen(t *testing.T) {
	t.Parallel()
	box := newBox(t)
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(0, 200, 1000).Draw(t, "text")
		place := rapid.String().Draw(t, "place")
		sealed, err := box.Seal(text, place)
		if err != nil {
			t.Fatal(err)
		}
		again, err := box.Seal(text, place)
		if err != nil || again == sealed {
			t.Fatalf("sealing twice gave the same text, %v", err)
		}
		if !IsSealed(sealed) {
			t.Fatalf("IsSealed(%q) = false", sealed)
		}
		quoted, err := json.Marshal(sealed)
		if err != nil || string(quoted) != `"`+sealed+`"` {
			t.Fatalf("JSON has to escape %q", sealed)
		}
		opened, err := box.Open(sealed, place)
		if err != nil || opened != text {
			t.Fatalf("Open = %q, %v; want %q", opened, err, text)
		}
		if _, err := box.Open(sealed, place+"x"); !errors.Is(err, ErrOpen) {
			t.Fatalf("opened in another place: %v", err)
		}
		i := rapid.IntRange(len(sealedPrefix)+keyIDSize+1, len(sealed)-1).Draw(t, "i")
		changed := []byte(sealed)
		changed[i] = map[bool]byte{true: 'A', false: 'B'}[changed[i] != 'A']
		if _, err := box.Open(string(changed), place); !errors.Is(err, ErrOpen) {
			t.Fatalf("opened a changed text: %v", err)
		}
	})
}

func TestSealedWebhookSecretFitsItsColumn(t *testing.T) {
	t.Parallel()
	// The longest form of a 64-byte secret: whsec_ and padded base64.
	text := "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 64))
	sealed, err := newBox(t).Seal(text, "any")
	if err != nil || len(sealed) > 255 {
		t.Fatalf("%d characters, %v", len(sealed), err)
	}
	t.Logf("%d characters for a secret of 64 bytes (%d as text)", len(sealed), len(text))
}

func TestKeyRotation(t *testing.T) {
	t.Parallel()
	oldKey, newKey := NewKey(), NewKey()
	sealed, err := newBox(t, oldKey).Seal(plain, "p")
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := SealedKeyID(sealed); !ok || id != oldKey.ID() {
		t.Errorf("SealedKeyID = %q, %v", id, ok)
	}
	if _, err := newBox(t, newKey).Open(sealed, "p"); !errors.Is(err, ErrUnknownKey) || !strings.Contains(err.Error(), oldKey.ID()) {
		t.Errorf("without the old key: %v", err)
	}
	both := newBox(t, newKey, oldKey)
	if opened, err := both.Open(sealed, "p"); err != nil || opened != plain {
		t.Errorf("with both: %q, %v", opened, err)
	}
	if both.KeyID() != newKey.ID() || both.Fingerprint("a") == newBox(t, oldKey).Fingerprint("a") || both.Fingerprint("a") != newBox(t, newKey).Fingerprint("a") {
		t.Error("the first key does not decide id and fingerprint")
	}
	document := []byte(`{"a":"` + sealed + `"}`)
	if needs, err := both.NeedsSeal(document, []string{"/a"}); err != nil || !needs {
		t.Errorf("NeedsSeal of an old seal = %v, %v", needs, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	box := newBox(t)
	for text, want := range map[string]error{
		"": ErrNotSealed, "abc": ErrNotSealed, "enc:v1:": ErrNotSealed, "enc:v1:0011223:AAAA": ErrNotSealed,
		"enc:v1:0011223X:AAAA": ErrNotSealed, "enc:v2:00112233:AAAA": ErrNotSealed, "enc:v1:00112233:": ErrNotSealed,
		"enc:v1:00112233:AAAA": ErrUnknownKey, "enc:v1:" + box.KeyID() + ":AAAA": ErrOpen, "enc:v1:" + box.KeyID() + ":!": ErrOpen,
	} {
		if _, err := box.Open(text, ""); !errors.Is(err, want) {
			t.Errorf("Open(%q) = %v, want %v", text, err, want)
		}
	}
	if _, err := box.Seal(strings.Repeat("a", MaxSealSize+1), ""); err == nil {
		t.Error("sealed more than MaxSealSize")
	}
	if _, err := NewBox(Key{}); !errors.Is(err, ErrKey) {
		t.Errorf("NewBox of no key: %v", err)
	}
}

func TestParseKey(t *testing.T) {
	t.Parallel()
	key := NewKey()
	for _, text := range []string{
		key.Base64(), strings.TrimRight(key.Base64(), "="), " " + key.Base64() + "\n",
		strings.NewReplacer("+", "-", "/", "_").Replace(key.Base64()),
	} {
		if parsed, err := ParseKey(text); err != nil || !parsed.Equal(key) {
			t.Errorf("ParseKey: %v", err)
		}
	}
	short := base64.StdEncoding.EncodeToString([]byte("sixteen bytes !!"))
	for _, text := range []string{"", "short", "not base64 at all, not base64 at all !!!", short, base64.StdEncoding.EncodeToString(make([]byte, 32))} {
		_, err := ParseKey(text)
		if !errors.Is(err, ErrKey) || (len(text) > 4 && strings.Contains(err.Error(), text)) {
			t.Errorf("ParseKey(%q) = %v", text, err)
		}
	}
}

const document = `{"auth":{"user":"u","password":"pw-123456"},"headers":{"X.Key":"h-123456","a/b~c":"h2-123456"},"n":12345678901234567890.5,
"servers":[{"token":"t-one-11"},{"token":null},{"name":"x"}],"tags":["tag-a","tag-b"]}`

func TestPathsRoundTrip(t *testing.T) {
	t.Parallel()
	box := newBox(t)
	paths := []string{"/auth/password", "/headers/*", "/servers/*/token", "/tags", "/absent/x", "/n"}
	sealed, err := box.SealPaths([]byte(document), paths, "acme/billing")
	if err != nil {
		t.Fatal(err)
	}
	for _, leak := range []string{"pw-123456", "h-123456", "h2-123456", "t-one-11", "tag-a", "12345678901234567890"} {
		if strings.Contains(string(sealed), leak) {
			t.Errorf("%q is in the sealed document", leak)
		}
	}
	if !strings.Contains(string(sealed), `"user":"u"`) || !strings.Contains(string(sealed), `"X.Key":"enc:v1:`) {
		t.Errorf("sealed too much or too little: %s", sealed)
	}
	again, err := box.SealPaths(sealed, paths, "acme/billing")
	if err != nil || string(again) != string(sealed) {
		t.Errorf("sealing twice changed the document: %v", err)
	}
	if needs, err := box.NeedsSeal(sealed, paths); err != nil || needs {
		t.Errorf("NeedsSeal(sealed) = %v, %v", needs, err)
	}
	if needs, err := box.NeedsSeal([]byte(document), paths); err != nil || !needs {
		t.Errorf("NeedsSeal(plain) = %v, %v", needs, err)
	}
	opened, err := box.OpenPaths(sealed, "acme/billing")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(mustDecode(t, document), mustDecode(t, string(opened))); diff != "" {
		t.Errorf("opened differs (-want +got):\n%s", diff)
	}
	if _, err := box.OpenPaths(sealed, "acme/other"); !errors.Is(err, ErrOpen) {
		t.Errorf("opened as another destination's: %v", err)
	}
}

func TestSealedValueStaysInItsPlace(t *testing.T) {
	t.Parallel()
	box := newBox(t)
	sealed, err := box.SealPaths([]byte(`{"password":"pw-123456"}`), []string{"/password"}, "d")
	if err != nil {
		t.Fatal(err)
	}
	moved := strings.Replace(string(sealed), "password", "x_header", 1)
	if _, err := box.OpenPaths([]byte(moved), "d"); !errors.Is(err, ErrOpen) {
		t.Errorf("a sealed value opened in another place of the document: %v", err)
	}
}

func TestRedactPaths(t *testing.T) {
	t.Parallel()
	box := newBox(t)
	paths := []string{"/auth/password", "/headers/*", "/servers/*/token"}
	sealed, err := box.SealPaths([]byte(document), append(slices.Clone(paths), "/tags"), "d")
	if err != nil {
		t.Fatal(err)
	}
	fromSealed, err := RedactPaths(sealed, paths, box, "d")
	if err != nil {
		t.Fatal(err)
	}
	fromPlain, err := RedactPaths([]byte(document), append(slices.Clone(paths), "/tags"), box, "d")
	if err != nil {
		t.Fatal(err)
	}
	if string(fromSealed) != string(fromPlain) {
		t.Errorf("sealed and plain look different:\n%s\n%s", fromSealed, fromPlain)
	}
	if want := mask(box.Fingerprint("pw-123456")); !strings.Contains(string(fromSealed), want) {
		t.Errorf("%s has no %s", fromSealed, want)
	}
	without, err := RedactPaths(sealed, nil, nil, "")
	if err != nil || strings.Contains(string(without), "enc:v1:") || !strings.Contains(string(without), `"password":"***"`) {
		t.Errorf("without a box: %s, %v", without, err)
	}
	kept, err := KeepPaths(fromSealed, []byte(document), append(slices.Clone(paths), "/tags"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(mustDecode(t, document), mustDecode(t, string(kept))); diff != "" {
		t.Errorf("sending the shown document back changed it (-want +got):\n%s", diff)
	}
}

func TestKeepPaths(t *testing.T) {
	t.Parallel()
	paths := []string{"/password", "/headers/*", "/auth/token"}
	for _, test := range []struct{ name, update, current, want string }{
		{"omitted", `{"url":"new"}`, `{"url":"old","password":"p"}`, `{"url":"new","password":"p"}`},
		{"changed", `{"password":"q"}`, `{"password":"p"}`, `{"password":"q"}`},
		{"removed", `{"password":null}`, `{"password":"p"}`, `{"password":null}`},
		{"shown", `{"password":"***(00112233)"}`, `{"password":"p"}`, `{"password":"p"}`},
		{"whole block removed", `{}`, `{"auth":{"token":"t"}}`, `{}`},
		{"in a block", `{"auth":{}}`, `{"auth":{"token":"t","user":"u"}}`, `{"auth":{"token":"t"}}`},
		{"map", `{"headers":{"b":"2"}}`, `{"headers":{"a":"1"}}`, `{"headers":{"a":"1","b":"2"}}`},
		{"not an object", `{"auth":"x"}`, `{"auth":{"token":"t"}}`, `{"auth":"x"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := KeepPaths([]byte(test.update), []byte(test.current), paths)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(mustDecode(t, test.want), mustDecode(t, string(got))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestPathsRefuse(t *testing.T) {
	t.Parallel()
	box := newBox(t)
	for _, bad := range []string{"", "{", "{} {}", `{"a":"` + plain} {
		_, err := box.SealPaths([]byte(bad), nil, "")
		if err == nil || strings.Contains(err.Error(), plain) {
			t.Errorf("SealPaths(%q) = %v", bad, err)
		}
	}
	if _, err := box.SealPaths([]byte("{}"), []string{"no/pointer"}, ""); err == nil {
		t.Error("took a path that is no pointer")
	}
	if _, err := box.OpenPaths(make([]byte, MaxDocumentSize+1), ""); err == nil {
		t.Error("took a document over the limit")
	}
}

func mustDecode(t *testing.T, document string) any {
	t.Helper()
	value, err := decode([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	return value
}
