package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const plain = "s3cr3t-value-of-the-test"

func TestValueIsNeverPrinted(t *testing.T) {
	t.Parallel()
	value := New(plain)
	key := NewKey()
	type holder struct {
		Exported Value
		Document Bytes
		hidden   Value
		inMap    map[string]Value
		inSlice  []Value
		key      Key
	}
	held := holder{value, Bytes(plain), value, map[string]Value{"k": value}, []Value{value}, key}
	verbs := []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%t", "%10.3s"}
	var out strings.Builder
	for _, verb := range verbs {
		for _, operand := range []any{value, &value, held, &held, []any{held}, map[Value]int{value: 1}, key, &key, struct{ v *Value }{&value}, Bytes(plain), []Bytes{Bytes(plain)}} {
			fmt.Fprintf(&out, verb+"\n", operand)
		}
	}
	fmt.Fprintln(&out, value, held, fmt.Errorf("wrapped: %v", value))
	logs := &bytes.Buffer{}
	for _, handler := range []slog.Handler{slog.NewJSONHandler(logs, nil), slog.NewTextHandler(logs, nil)} {
		slog.New(handler).Info("m", "value", value, "pointer", &value, "held", held, "key", key, "document", Bytes(plain), slog.Group("g", "value", value))
	}
	out.Write(logs.Bytes())
	for _, operand := range []any{value, held, []Value{value}, map[string]Value{"a": value}, key} {
		encoded, err := json.Marshal(operand)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(encoded)
	}
	for _, leak := range append(forms(plain), forms(key.value.Reveal())...) {
		if len(leak) >= MinRedactSize && strings.Contains(out.String(), leak) {
			t.Errorf("the output contains %q", leak)
		}
	}
	for _, decimal := range []string{"115 51 99", "[115,51,99", "115,51,99"} {
		if strings.Contains(out.String(), decimal) {
			t.Errorf("the output contains the bytes %q", decimal)
		}
	}
	if !strings.Contains(out.String(), value.String()) || !IsRedacted(value.String()) {
		t.Errorf("String() = %q is not in the output or not the stand-in", value)
	}
}

func TestValue(t *testing.T) {
	t.Parallel()
	if v := New(""); !v.IsZero() || v.String() != "" || v.Reveal() != "" {
		t.Errorf("New(\"\") = %q", v)
	}
	if !New("a").Equal(New("a")) || New("a").Equal(New("b")) || New("a").Equal(Value{}) {
		t.Error("Equal is wrong")
	}
	if New("a").Fingerprint() == New("b").Fingerprint() || len(New("a").Fingerprint()) != 8 {
		t.Error("Fingerprint is wrong")
	}
	var body struct{ Token Value }
	if err := json.Unmarshal([]byte(`{"token":"abc"}`), &body); err != nil || body.Token.Reveal() != "abc" {
		t.Errorf("unmarshalled %q, %v", body.Token.Reveal(), err)
	}
}

func TestIsRedacted(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"***": true, "***(0a1b2c3d)": true, "": false, "**": false, "****": false,
		"***(0a1b2c3)": false, "***(0a1b2c3g)": false, "***(0a1b2c3d": false, "***(0a1b2c3d)x": false,
	} {
		if got := IsRedacted(text); got != want {
			t.Errorf("IsRedacted(%q) = %v", text, got)
		}
	}
}

func TestRedactorFindsEveryForm(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(12, 80, 200).Draw(t, "secret")
		before := rapid.StringN(0, 10, 40).Draw(t, "before")
		after := rapid.StringN(0, 10, 40).Draw(t, "after")
		redactor := NewRedactor(text)
		for _, form := range forms(text) {
			out := redactor.Text(before + form + after)
			if strings.Contains(out, form) && !strings.Contains(before+Redacted+after, form) {
				t.Fatalf("%q is still in %q", form, out)
			}
		}
		inJSON, err := json.Marshal(map[string]any{"a": []any{before + text + after}, text: 1})
		if err != nil {
			t.Fatal(err)
		}
		out := redactor.JSON(inJSON)
		if !json.Valid(out) {
			t.Fatalf("not JSON any more: %s", out)
		}
		if !bytes.Contains(out, []byte(Redacted)) {
			t.Fatalf("not redacted: %s", out)
		}
		if masked := redactor.Mask([]byte(before + text + after)); len(masked) != len(before+text+after) {
			t.Fatalf("Mask changed the length")
		}
	})
}

// The longest match, against the obvious way to find it.
func TestRedactorFindsTheLongest(t *testing.T) {
	t.Parallel()
	alphabet := rapid.OneOf(rapid.StringMatching(`[abc]{4,9}`), rapid.StringMatching(`[ab]{14,18}`))
	rapid.Check(t, func(t *rapid.T) {
		secrets := rapid.SliceOfN(alphabet, 1, 30).Draw(t, "secrets")
		split := rapid.IntRange(0, len(secrets)).Draw(t, "split")
		text := rapid.OneOf(rapid.StringMatching(`[abc]{4,20}`), rapid.SampledFrom(secrets)).Draw(t, "text")
		redactor := NewRedactor(secrets[:split]...)
		forget, _ := redactor.Add(secrets[split:]...)
		if rapid.Bool().Draw(t, "looked") {
			redactor.Text(text)
		}
		if rapid.Bool().Draw(t, "forgotten") {
			forget()
			forget() // once is enough, twice is no harm
			secrets = secrets[:split]
		}
		for _, long := range []bool{false, true} {
			want := 0
			for _, one := range secrets {
				for _, form := range forms(one) {
					if strings.HasPrefix(text, form) && (!long || len(one) >= LongSize) {
						want = max(want, len(form))
					}
				}
			}
			if got := redactor.match(text, long); got != want {
				t.Fatalf("match(%q, long %v) = %d, want %d", text, long, got, want)
			}
		}
	})
}

// What comes and goes leaves nothing, and what would be too much is said.
func TestRedactorIsBounded(t *testing.T) {
	t.Parallel()
	r := NewRedactor()
	kept, ok := r.Add("a secret that stays")
	before := r.bytes
	if !ok || before == 0 {
		t.Fatalf("%d bytes, all %v", before, ok)
	}
	r.most = before + 2000
	var forgets []func()
	full := false
	for i := range 100 {
		forget, all := r.Add(fmt.Sprintf("another secret, the %dth", i), "a secret that stays")
		forgets, full = append(forgets, forget), full || !all
		if r.bytes > r.most {
			t.Fatalf("%d bytes, at most %d are allowed", r.bytes, r.most)
		}
	}
	if !full || r.Text("a secret that stays") != Redacted || r.Text("another secret, the 0th") != Redacted {
		t.Errorf("full %v: %q, %q", full, r.Text("a secret that stays"), r.Text("another secret, the 0th"))
	}
	for _, forget := range forgets {
		forget()
	}
	if r.bytes != before || r.Text("a secret that stays") != Redacted || r.Text("another secret, the 0th") == Redacted {
		t.Errorf("%d bytes are left, want %d: %q, %q", r.bytes, before, r.Text("a secret that stays"), r.Text("another secret, the 0th"))
	}
	if kept(); r.bytes != 0 || len(r.buckets) != 0 {
		t.Errorf("%d bytes in %d buckets are left", r.bytes, len(r.buckets))
	}
}

func TestRedactorInBasicAuth(t *testing.T) {
	t.Parallel()
	redactor := NewRedactor("correct horse battery")
	for _, user := range []string{"", "a", "ab", "abc", "abcd"} {
		header := "Basic " + base64Of(user+":correct horse battery")
		if out := redactor.Text(header); strings.Contains(out, base64Of("horse")[:6]) || !strings.Contains(out, Redacted) {
			t.Errorf("user %q: %q", user, out)
		}
	}
}

func TestRedactorLinesOfKeys(t *testing.T) {
	t.Parallel()
	pem := "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\r\nAASCBKcwggSjAgEAAoIBAQC7VJTU\n-----END PRIVATE KEY-----\n"
	out := NewRedactor(pem).Text("line 1: MIIEvQIBADANBgkqhkiG9w0BAQEF, header -----BEGIN PRIVATE KEY-----")
	if want := "line 1: ***, header -----BEGIN PRIVATE KEY-----"; out != want {
		t.Errorf("got %q", out)
	}
}

func TestRedactorLeavesOtherTextAlone(t *testing.T) {
	t.Parallel()
	text := `{"a": "b", "n": 1}`
	var none *Redactor
	if none.Text(text) != text || string(none.JSON([]byte(text))) != text || string(none.Mask([]byte(text))) != text {
		t.Error("the nil Redactor changed something")
	}
	if got := NewRedactor("abc", "").Text("abc abcd"); got != "abc abcd" {
		t.Errorf("a short secret was redacted: %q", got)
	}
	if got := NewRedactor("secret", "secret-longer").Text("a secret-longer one, a secret"); got != "a *** one, a ***" {
		t.Errorf("got %q", got)
	}
	if got := NewRedactor("nabcd", `abcd\`).JSON([]byte(`["\nabcd","abcd\""]`)); string(got) != `["\nabcd","abcd\""]` {
		t.Errorf("got %s", got)
	}
}
