package schema_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/deliveryd/deliveryd/sdk/schema"
)

const minimal = `"url":"https://a.example"`

func TestCheckFindsMistakes(t *testing.T) {
	t.Parallel()
	s := of[everything](t)
	for config, want := range map[string]string{
		`{` + minimal + `}`:                                      "",
		`{` + minimal + `,"token":null}`:                         "",
		`{` + minimal + `,"name":"abc"}`:                         "",
		`{` + minimal + `,"target":[]}`:                          "",
		`{}`:                                                     `url: missing required attribute "url" (Where to.)`,
		``:                                                       `url: missing required`,
		`{"url":""}`:                                             `url: "url" must not be empty`,
		`[]`:                                                     `want an object, have a list`,
		`{`:                                                      `not JSON`,
		`{` + minimal + `} {}`:                                   `text after the value`,
		`{"url":"a.example"}`:                                    `url: "a.example": want an absolute URL`,
		`{"url":"https://u:hunter2@ a.example"}`:                 `url: "https://***@ a.example": want an absolute URL`,
		`{"url":5}`:                                              `url: want string, have a number`,
		`{` + minimal + `,"tokn":"x"}`:                           `tokn: unsupported attribute or block "tokn" (did you mean "token"?)`,
		`{` + minimal + `,"zzzzzzzz":"x"}`:                       `zzzzzzzz: unsupported attribute or block "zzzzzzzz" (supported here: url, token, mode`,
		`{` + minimal + `,"mode":"saef"}`:                        `mode: "saef" is not allowed (want one of fast, safe; did you mean "safe"?)`,
		`{` + minimal + `,"name":"Abc"}`:                         `name: "Abc" does not match the pattern [a-z]+`,
		`{` + minimal + `,"name":"abc\nabc"}`:                    `does not match the pattern`,
		`{` + minimal + `,"name":"abcdefghijk"}`:                 `name: 11 characters is more than the maximum of 10 characters`,
		`{` + minimal + `,"wait":"soon"}`:                        `wait: "soon": want a duration such as`,
		`{` + minimal + `,"wait":"-5s"}`:                         `wait: "-5s": want a duration`,
		`{` + minimal + `,"wait":"10ms"}`:                        `wait: 10ms is less than the minimum of 1s`,
		`{` + minimal + `,"wait":30}`:                            `wait: want string, have a number`,
		`{` + minimal + `,"limit":"2GiB"}`:                       `limit: 2GiB is more than the maximum of 1GiB`,
		`{` + minimal + `,"limit":"10 furlongs"}`:                `limit: "10 furlongs": want a size`,
		`{` + minimal + `,"retries":11}`:                         `retries: 11 is more than the maximum of 10`,
		`{` + minimal + `,"retries":"3"}`:                        `retries: want number, have a string`,
		`{` + minimal + `,"retries":1e999}`:                      `retries: the number is out of range`,
		`{` + minimal + `,"verbose":"yes"}`:                      `verbose: want bool, have a string`,
		`{` + minimal + `,"tags":["a","b","c","d"]}`:             `tags: 4 elements is more than the maximum of 3 elements`,
		`{` + minimal + `,"tags":["a",1]}`:                       `tags[1]: want string, have a number`,
		`{` + minimal + `,"tags":"a"}`:                           `tags: want list(string), have a string`,
		`{` + minimal + `,"tags":[null]}`:                        `tags[0]: want string, have null`,
		`{` + minimal + `,"headers":{"X-A":1}}`:                  `headers["X-A"]: want string, have a number`,
		`{` + minimal + `,"headers":[]}`:                         `headers: want map(string), have a list`,
		`{` + minimal + `,"networks":["10.0.0.0/8","10.0.0.1"]}`: `networks[1]: "10.0.0.1": want a network`,
		`{` + minimal + `,"proxy":"a.example"}`:                  `proxy: "a.example": want a host and a port`,
		`{` + minimal + `,"tls":{"ca":"hunter2"}}`:               `tls.ca: want PEM text`,
		`{` + minimal + `,"tls":[]}`:                             `tls: want an object, have a list`,
		`{` + minimal + `,"auth":{"user":"u"}}`:                  `auth.password: missing required attribute "password"`,
		`{` + minimal + `,"auth":{"user":"u","password":"p","pasword":"p"}}`:   `auth.pasword: unsupported`,
		`{` + minimal + `,"target":{}}`:                                        `target: want a list of objects`,
		`{` + minimal + `,"target":[{"host":"a"},{"host":"b c"}]}`:             `target[1].host: "b c": want a host name`,
		`{` + minimal + `,"target":[{"host":"a"},{"host":"b"},{"host":"c"}]}`:  `target: 3 blocks of type "target"; want 0 to 2`,
		`{` + minimal + `,"token":"hunter2"}`:                                  `token: 7 characters is less than the minimum of 8 characters`,
		`{"url":"https://a.example","x":"` + strings.Repeat("x", 2<<20) + `"}`: `at most 1048576 are allowed`,
	} {
		filled, d := schema.Check(s, []byte(config))
		if want == "" {
			if d.HasErrors() || filled == nil {
				t.Errorf("%s: %s; want no findings", config, d)
			}
			continue
		}
		if len(d) != 1 || !strings.HasPrefix(d.String(), want) && !strings.Contains(d.String(), want) || filled != nil {
			t.Errorf("%.100s: %s; want one finding %q", config, d, want)
		}
		if strings.Contains(d.String(), "hunter2") {
			t.Errorf("%.100s: a finding quotes a secret: %s", config, d)
		}
	}
}

func TestDeprecatedIsAWarning(t *testing.T) {
	t.Parallel()
	filled, d := schema.Check(of[everything](t), []byte(`{`+minimal+`,"old":"x"}`))
	if len(d) != 1 || !d[0].Warning || d.HasErrors() || filled == nil || d.String() != `old: "old" is deprecated (use name)` {
		t.Errorf("%s, filled %s", d, filled)
	}
}

func TestFindingsAreBounded(t *testing.T) {
	t.Parallel()
	many := map[string]int{}
	for i := range 1000 {
		many[strings.Repeat("z", i+20)] = 1
	}
	config, err := json.Marshal(many)
	if err != nil {
		t.Fatal(err)
	}
	if _, d := schema.Check(of[everything](t), config); len(d) != 100 {
		t.Errorf("%d findings, want 100", len(d))
	}
}

func TestDecodeGivesDefaultsAndValues(t *testing.T) {
	t.Parallel()
	s := of[everything](t)
	decoded := func(config string) everything {
		t.Helper()
		filled, d := schema.Check(s, []byte(config))
		if d.HasErrors() {
			t.Fatalf("%s: %s", config, d)
		}
		var e everything
		if d := schema.Decode(filled, &e); len(d) > 0 {
			t.Fatalf("%s: %s", config, d)
		}
		return e
	}
	compare := cmp.AllowUnexported(everything{})
	defaults := everything{
		URL: "https://a.example", Mode: "safe", Wait: 30 * time.Second, Limit: 10 << 20, Retries: 3, Ratio: 0.5, Small: 7, Verbose: true,
		Ports: []int{80, 443}, TLS: tlsBlock{Verify: true},
	}
	if diff := cmp.Diff(defaults, decoded(`{`+minimal+`}`), compare); diff != "" {
		t.Error(diff)
	}
	no := false
	want := everything{
		URL: "https://a.example", Token: "12345678", Mode: "fast", Name: "abc", Wait: 90 * time.Minute / 2, Limit: 1500, Retries: 10, Ratio: 1e-3, Small: 255,
		Verbose: false, Old: "o", Tags: []string{"a", "b"}, Ports: []int{}, Headers: map[string]string{"X": "y"}, Networks: []string{"::/0"}, Maybe: &no,
		TLS: tlsBlock{Verify: false}, Auth: &authBlock{User: "u", Password: "p"}, Targets: []targetBlock{{Host: "a"}, {Host: "127.0.0.1", Token: "t"}},
		shared: shared{Proxy: "p.example:3128"},
	}
	got := decoded(`{"url":"https://a.example","token":"12345678","mode":"fast","name":"abc","wait":"45m","limit":"1.5KB","retries":1e1,"ratio":0.001,"small":255,
		"verbose":false,"old":"o","tags":["a","b"],"ports":[],"headers":{"X":"y"},"networks":["::/0"],"maybe":false,"tls":{"verify":false},
		"auth":{"user":"u","password":"p"},"target":[{"host":"a"},{"host":"127.0.0.1","token":"t"}],"proxy":"p.example:3128"}`)
	if diff := cmp.Diff(want, got, compare); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeKnowsGoTypes(t *testing.T) {
	t.Parallel()
	for config, want := range map[string]string{
		`{"retries":1.5}`: "retries: want a whole number", `{"small":256}`: "small: the number is out of range", `{"small":-1}`: "small: want a whole number that is not negative",
		`{"retries":1e300}`: "retries: want a whole number", `{"ports":[1,1.5]}`: "ports[1]: want a whole number",
		`{"tags":1}`: "tags: want []string", `{"wait":"x"}`: `wait: "x": want a duration`, `{"verbose":1}`: "verbose: want bool",
	} {
		var e everything
		if d := schema.Decode([]byte(config), &e); len(d) != 1 || !strings.HasPrefix(d.String(), want) {
			t.Errorf("%s: %s; want %q", config, d, want)
		}
	}
	if d := schema.Decode([]byte(`{}`), everything{}); len(d) != 1 {
		t.Errorf("decoding into a value: %s", d)
	}
}

func TestCheckIsIdempotentAndDecodes(t *testing.T) {
	t.Parallel()
	s := of[everything](t)
	rapid.Check(t, func(t *rapid.T) {
		config := map[string]any{"url": "https://" + rapid.StringMatching(`[a-z]{1,20}`).Draw(t, "host")}
		optional := func(name string, value any) {
			if rapid.Bool().Draw(t, "has "+name) {
				config[name] = value
			}
		}
		optional("wait", (time.Second + time.Duration(rapid.Int64Range(0, int64(time.Hour-time.Second)).Draw(t, "wait"))).String())
		optional("limit", schema.Size(rapid.Int64Range(0, 1<<30).Draw(t, "limit")).String())
		optional("retries", rapid.IntRange(0, 10).Draw(t, "retries"))
		optional("tags", rapid.SliceOfN(rapid.String(), 0, 3).Draw(t, "tags"))
		optional("headers", rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "headers"))
		encoded, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		once, d := schema.Check(s, encoded)
		if d.HasErrors() {
			t.Fatal(d)
		}
		twice, d := schema.Check(s, once)
		if d.HasErrors() || string(once) != string(twice) {
			t.Fatalf("%s became %s: %s", once, twice, d)
		}
		var e everything
		if d := schema.Decode(once, &e); len(d) > 0 {
			t.Fatal(d)
		}
		if want, ok := config["limit"]; ok && e.Limit.String() != want {
			t.Fatalf("size %s became %s", want, e.Limit)
		}
		if want, ok := config["wait"]; ok && e.Wait.String() != want {
			t.Fatalf("duration %s became %s", want, e.Wait)
		}
	})
}

func TestFormats(t *testing.T) {
	t.Parallel()
	type formatted struct {
		Email    string `config:"email" doc:"d" format:"email"`
		Host     string `config:"host" doc:"d" format:"host"`
		HostPort string `config:"hostport" doc:"d" format:"hostport"`
		Size     string `config:"size" doc:"d" format:"size"`
		URL      string `config:"url" doc:"d" format:"url"`
		Path     string `config:"path" doc:"d" format:"path"`
		CIDR     string `config:"cidr" doc:"d" format:"cidr"`
	}
	s := of[formatted](t)
	for name, c := range map[string]struct{ good, bad []string }{
		"email":    {[]string{"a@b.example", "a+b@c.example"}, []string{"a", "A <a@b.example>", "a@b\n", "@b"}},
		"host":     {[]string{"a", "a.example", "a.example.", "127.0.0.1", "::1", "[::1]", "xn--zrich-kva.example", "_dmarc.a"}, []string{"a b", "-a", "a..b", "a/b", "a:1", strings.Repeat("a", 64), strings.Repeat("a.", 130) + "a"}},
		"hostport": {[]string{"a:1", "127.0.0.1:65535", "[::1]:80"}, []string{"a", "a:0", "a:65536", "::1:80", "a:http", ":80"}},
		"size":     {[]string{"0", "1", "1B", "64KiB", "10MB", "1.5GiB", "2 TiB", "1kb"}, []string{"x", "-1", "1.5", "KiB", "1XB", "99999999999999999999", "1e3", "9999999TiB"}},
		"url":      {[]string{"https://a", "http://a:1/b?c", "ftp://a"}, []string{"a", "//a", "https://", "https://a b", "http://[::1", "https://:80"}},
		"path":     {[]string{"/a", "a/b", "."}, []string{"a\x00b", strings.Repeat("a", 5000)}},
		"cidr":     {[]string{"10.0.0.0/8", "::/0"}, []string{"10.0.0.0", "10.0.0.0/33", "a/8"}},
	} {
		for _, value := range append(append([]string{}, c.good...), c.bad...) {
			config, err := json.Marshal(map[string]string{name: value})
			if err != nil {
				t.Fatal(err)
			}
			bad := false
			for _, b := range c.bad {
				bad = bad || b == value
			}
			if _, d := schema.Check(s, config); d.HasErrors() != bad {
				t.Errorf("%s %.60q: %s; want an error: %t", name, value, d, bad)
			}
		}
	}
}

func FuzzCheck(f *testing.F) {
	s, err := schema.Of[everything]()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{` + minimal + `,"token":"12345678","target":[{"host":"a"}],"tls":{"verify":false},"ports":[1,2],"headers":{"a":"b"}}`))
	f.Add([]byte(`{"url":null,"wait":1e999,"tags":[[]],"auth":[],"target":{}}`))
	f.Fuzz(func(t *testing.T, config []byte) {
		filled, d := schema.Check(s, config)
		if (filled == nil) != d.HasErrors() {
			t.Fatalf("filled %s with %s", filled, d)
		}
		_ = d.Proto()
		if filled == nil {
			return
		}
		again, d := schema.Check(s, filled)
		if d.HasErrors() || string(again) != string(filled) {
			t.Fatalf("not stable: %s, %s, %s", filled, again, d)
		}
		var e everything
		schema.Decode(filled, &e)
		if _, err := schema.Redact(s, filled); err != nil {
			t.Fatal(err)
		}
	})
}
