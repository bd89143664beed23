package delivery

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
)

// pieces are what JSON texts are put together from: each string piece is alone
// harmless or not, and some are harmless only in the right order.
var pieces = []string{
	"a", " ", `\"`, `\\`, `\n`, `\/`, "é", "😀", `\u00e9`, `\ud83d\ude00`, `\ud83d`, `\ude00`, `\u0000`, `\\u0000`, `\uDBFF\uDFFF`, "\xff", "\xed\xa0\x80", `u0000`, "1e5", "]", "{",
}

func jsonString(t *rapid.T) string {
	return `"` + strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 5).Draw(t, "string"), "") + `"`
}

func jsonText(t *rapid.T, depth int) string {
	space := rapid.SampledFrom([]string{"", " ", "\n\t"}).Draw(t, "space")
	kind := rapid.IntRange(0, 7).Draw(t, "kind")
	if depth <= 0 {
		kind %= 4
	}
	switch kind {
	case 0:
		return space + rapid.SampledFrom([]string{"null", "true", "false", "0", "-1.5", "1e3", "1E-7", "12345678901234567890", "0.1e+2"}).Draw(t, "scalar") + space
	case 1, 2, 3:
		return jsonString(t)
	case 4, 5:
		var members []string
		for range rapid.IntRange(0, 3).Draw(t, "members") {
			members = append(members, space+jsonString(t)+space+":"+jsonText(t, depth-1))
		}
		return "{" + space + strings.Join(members, ",") + "}"
	default:
		var elements []string
		for range rapid.IntRange(0, 3).Draw(t, "elements") {
			elements = append(elements, jsonText(t, depth-1))
		}
		return "[" + space + strings.Join(elements, ",") + "]" + space
	}
}

// TestCheckJSONSaysWhatTheDatabaseSays holds the check against PostgreSQL's own:
// what it lets pass must be kept, since a refusal by the database would come for a
// whole statement, and what it refuses must be refused there too.
func TestCheckJSONSaysWhatTheDatabaseSays(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t)
	good, bad := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		text := jsonText(rt, 4)
		found := checkJSON([]byte(text), "/data")
		_, err := pool.Exec(t.Context(), "select $1::text::jsonb", text)
		if (found != nil) != (err != nil) {
			rt.Fatalf("%q: we say %v, the database %v", text, found, err)
		}
		if found == nil {
			good++
		} else {
			bad++
		}
	})
	if good == 0 || bad == 0 {
		t.Errorf("%d good and %d bad texts prove nothing", good, bad)
	}
}

func TestCheckJSONLimitsAreWithinTheDatabases(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t)
	nested := func(n int) string { return strings.Repeat(`[`, n) + strings.Repeat(`]`, n) }
	for _, text := range []string{
		nested(maxDepth), strings.Repeat(`{"a":`, maxDepth) + "1" + strings.Repeat(`}`, maxDepth),
		strings.Repeat("9", maxExponent), fmt.Sprintf("1e%d", maxExponent), fmt.Sprintf("1e-%d", maxExponent),
		strings.Repeat("9", maxExponent-5) + fmt.Sprintf("e%d", maxExponent),
	} {
		if found := checkJSON([]byte(text), ""); found != nil {
			t.Errorf("refused at the limit: %v", found)
		}
		if _, err := pool.Exec(t.Context(), "select $1::text::jsonb", text); err != nil {
			t.Errorf("the database: %v", err)
		}
	}
	for text, part := range map[string]string{
		nested(maxDepth + 2):                "nests deeper",
		strings.Repeat("9", maxExponent+10): "digits",
		fmt.Sprintf("1e%d", maxExponent+1):  "exponent", "1e99999999999999999999": "exponent", "[1e-99999]": "exponent",
	} {
		if found := checkJSON([]byte(text), "/p"); found == nil || found.Code != CodeInvalidPayload || !strings.Contains(found.Message, part) {
			t.Errorf("%.20s…: %v", text, found)
		}
	}
}

func TestCheckJSONNamesThePlace(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"a":[1,{"b":"\u0000"}]}`:    "/p/a/1/b",
		`{"x/y":{"~":"\ud800"}}`:      "/p/x~1y/~0",
		`{"\u0000":1}`:                "/p",
		`["ok","\udc00x"]`:            "/p/1",
		"[\"\xff\"]":                  "/p/0",
		`{"a":1,"b":2,"c":[1e77777]}`: "/p/c/0",
		`"\ud83d\u0041"`:              "/p",
	} {
		if found := checkJSON([]byte(text), "/p"); found == nil || found.Field != want {
			t.Errorf("%s: %+v, want %s", text, found, want)
		}
	}
	if found := checkJSON([]byte(`{"a": tru}`), "/p"); found == nil || found.Code != CodeMalformedJSON || !strings.Contains(found.Message, "byte 10") {
		t.Errorf("%v", found)
	}
}

func FuzzCheckJSON(f *testing.F) {
	for _, seed := range []string{``, `{}`, `{"a":"\u0000"}`, `["\ud83d\ude00"]`, `{"a":1e9,"b":[[]]}`, "\"\xff\"", `"\\u0000"`, `1e`, `[1,`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		found := checkJSON(text, "")
		if found == nil && !json.Valid(text) {
			t.Fatalf("%q is not JSON and passes", text)
		}
		if found != nil && (found.Message == "" || len(found.Field) > 250) {
			t.Fatalf("%q: %+v", text, found)
		}
	})
}
