package email

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/mail"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

// What a producer writes can reach subject, file names, ids and addresses; none
// of it may become a header, end the header, or break a line.
func TestNothingFromOutsideBecomesAHeader(t *testing.T) {
	t.Parallel()
	e := opened(t, func(c *Config) {
		c.Host, c.Subject, c.AttachmentsField, c.ArtifactName = "mail.example", "{{.Type}} {{.Data.s}}", "files", "{filename}"
		c.Recipients = &Recipients{Field: "email", AllowedDomains: []string{"*"}, Add: true}
		c.ListUnsubscribe = &ListUnsubscribe{Mailto: "u@acme.example"}
	})
	allowed := map[string]bool{
		"From": true, "To": true, "Subject": true, "Date": true, "Message-Id": true, "Mime-Version": true, "Content-Type": true, "X-Delivery-Id": true,
		"X-Correlation-Id": true, "List-Unsubscribe": true,
	}
	rapid.Check(t, func(r *rapid.T) {
		evil := rapid.Custom(func(r *rapid.T) string {
			return strings.Join(rapid.SliceOfN(rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"\r\n", "\n", "\r", "\r\n\r\n", "Bcc: a@b.c", ":", "=?", "?=", "\u2028", "\x00", "\"", "<x@y.z>"})), 0, 8).Draw(r, "pieces"), "")
		})
		name := evil.Draw(r, "name")
		data, err := json.Marshal(map[string]any{"s": evil.Draw(r, "s"), "files": []any{map[string]any{"name": name, "content": "aGk=", "content_type": evil.Draw(r, "type")}}})
		if err != nil {
			r.Fatal(err)
		}
		metadata, _ := json.Marshal(map[string]any{"email": map[string]any{"to": []string{evil.Draw(r, "to")}}})
		d := event(evil.Draw(r, "id"))
		d.Type, d.Data, d.Metadata, d.CorrelationID, d.DeliveryID = evil.Draw(r, "event"), data, metadata, evil.Draw(r, "correlation"), evil.Draw(r, "delivery")
		to, err := e.recipients(d)
		if err != nil {
			d.Metadata = nil
			if to, err = e.recipients(d); err != nil {
				r.Fatal(err)
			}
		}
		v := viewOf(d)
		files, err := e.files(d, v)
		if err != nil {
			r.Fatal(err)
		}
		m, err := e.compose(d, v, to, files)
		if err != nil {
			r.Fatal(err)
		}
		var b bytes.Buffer
		if err := m.write(&b); err != nil {
			r.Fatal(err)
		}
		if bare := strings.ReplaceAll(b.String(), "\r\n", ""); strings.ContainsAny(bare, "\r\n\x00") {
			r.Fatalf("a bare CR, LF or NUL in\n%q", b.String())
		}
		read, err := mail.ReadMessage(&b)
		if err != nil {
			r.Fatal(err)
		}
		for name, values := range read.Header {
			if !allowed[name] || len(values) != 1 {
				r.Fatalf("header %s: %q", name, values)
			}
		}
	})
}

// A template of one organization must not stop the mail of the others.
func TestTemplatesAreBounded(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"endless": `{{range 1000000000000}}{{end}}`, "nested": `{{range 100000}}{{range 100000}}{{end}}{{end}}`,
		"long": `{{range 1000000}}` + strings.Repeat("a", 1000) + `{{end}}`, "doubling": `{{$x := "aa"}}{{range 60}}{{$x = print $x $x}}{{end}}`,
		"escapes": `{{$x := "<\\"}}{{range 60}}{{$x = js $x}}{{end}}`, "padded": `{{printf "%1000000s%1000000s" "a" "b"}}`,
		"padded a little": `{{printf "` + strings.Repeat("%99999d", 1000) + `" 1}}`, "indexes": `{{$x := printf "%900000s" "a"}}{{printf "` + strings.Repeat("%[1]s", 1000) + `" $x}}`,
		"named often": `{{$x := printf "%900000s" "a"}}{{print` + strings.Repeat(" $x", 1000) + `}}`, "width by argument": `{{printf "%*d" 900000 1}}`,
		"precise": `{{printf "` + strings.Repeat("%.99999f", 1000) + `" 1.0}}`,
	} {
		for _, html := range []bool{false, true} {
			parsed, err := parseTemplate("text", text, html)
			if err != nil {
				continue // refused at once
			}
			if out, err := render(parsed, &View{steps: maxSteps - 5000}); err == nil {
				t.Errorf("%s: %d bytes and no error", name, len(out))
			}
		}
	}
}

// What a producer sends must not be a bomb for a template that shows it.
func TestValuesAreBounded(t *testing.T) {
	t.Parallel()
	deep := `{"x":` + strings.Repeat("[", 5000) + strings.Repeat("0,", 10_000) + "0" + strings.Repeat("]", 5000) + `}`
	for name, row := range map[string]struct{ text, data, want string }{
		"indented":  {`{{json .Data}}`, deep, ""},
		"joined":    {`{{join .Data.s .Data.list}}`, `{"s":"` + strings.Repeat("x", 1<<19) + `","list":[1,2,3,4,5]}`, errTooLong.Error()},
		"every one": {`{{range .Data.x}}{{get $.Data "s"}}{{end}}`, `{"s":"` + strings.Repeat("x", 1<<17) + `","x":[` + strings.Repeat("0,", 50) + `0]}`, errTooMuch.Error()},
	} {
		parsed, err := parseTemplate("text", row.text, false)
		if err != nil {
			t.Fatal(err)
		}
		d := event("item_1")
		d.Data = []byte(row.data)
		out, err := render(parsed, viewOf(d))
		if len(out) > maxRendered || row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: %d bytes, %v, want %q", name, len(out), err, row.want)
		}
	}
}

func TestFunctions(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{{get .Data "a.b"}} {{get .Data "list.1.n"}} {{get .Data "a.x.y" | default "none"}} {{get .Data "list.7"}}`: "2 5 none ",
		`{{printf "%05.2f %-4s| %d%% %q" 1.5 "ab" 7 "x"}}`:                                                           `01.50 ab  | 7% "x"`,
		`{{print 1 2 "a" "b" 3}} {{upper "a"}}{{lower "B"}}{{trim " c "}} {{truncate 2 "äöü"}}`:                      "1 2ab3 Abc äö…",
		`{{join ", " .Data.names}} {{json .Data.a}} {{size 2048}} {{date "2006-01-02" .CreatedAt}}`:                  "x, y {\n  \"b\": 2\n} 2KiB 2026-01-02",
		`{{date "15:04" .Data.at}} {{default "none" .Data.nothing}} {{len .Data.names}}`:                             "11:00 none 2",
	} {
		parsed, err := parseTemplate("text", text, false)
		if err != nil {
			t.Fatal(err)
		}
		d := event("item_1")
		d.Data = []byte(`{"a":{"b":2},"list":[{"n":4},{"n":5}],"names":["x","y"],"at":"2026-01-02T12:00:00+01:00","nothing":null}`)
		if out, err := render(parsed, viewOf(d)); err != nil || out != want {
			t.Errorf("%s: %q, %v, want %q", text, out, err, want)
		}
	}
}

func TestMistakesNameThePlace(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"template":     {func(c *Config) { c.HTML = "<p>\n{{.Type" }, "html: html:2: unclosed action"},
		"function":     {func(c *Config) { c.Text = "{{shell}}" }, `text: text:1: function "shell" not defined`},
		"context":      {func(c *Config) { c.HTML = `<a href="{{if .Type}}">{{end}}` }, "branches end in different contexts"},
		"define":       {func(c *Config) { c.Text = `{{define "a"}}{{end}}` }, "text: define, block and template"},
		"attachment":   {func(c *Config) { c.Attachments = []Attachment{{Name: "{{.ID}}.json"}} }, "attachment[0].name: there is no placeholder {{.ID}"},
		"no server":    {func(c *Config) { c.Host = "" }, "host: no server is named"},
		"region":       {func(c *Config) { c.Host, c.Provider = "", "ses" }, "region: provider ses"},
		"from":         {func(c *Config) { c.From = "nobody" }, `from: "nobody"`},
		"to":           {func(c *Config) { c.To = []string{"a@b.c", "x@y\r\nz"} }, "to[1]"},
		"nobody":       {func(c *Config) { c.To = nil }, "to: no recipient"},
		"password":     {func(c *Config) { c.Username = "u" }, "password: a user name without"},
		"clear text":   {func(c *Config) { c.Security, c.Username, c.Password, c.Mechanism = "none", "u", "p", "plain" }, "mechanism: plain would send"},
		"header":       {func(c *Config) { c.Headers = map[string]string{"Bcc": "x"} }, `headers["Bcc"]: header "Bcc" is reserved`},
		"header value": {func(c *Config) { c.Headers = map[string]string{"X-A": "x\r\nBcc: y"} }, `headers["X-A"]`},
		"dkim":         {func(c *Config) { c.DKIM = &DKIM{Domain: "a", Selector: "b", Key: "hunter2"} }, "dkim.key: no private key"},
		"xoauth2":      {func(c *Config) { c.Mechanism = "xoauth2" }, "oauth2: xoauth2 needs"},
	} {
		c := defaulted(t, func(c *Config) { c.Host = "mail.example"; row.change(c) })
		if d := c.Validate(); !strings.Contains(d.String(), row.want) || strings.Contains(d.String(), "hunter2") {
			t.Errorf("%s: %s, want %s", name, d, row.want)
		}
	}
}

func TestChecksComeBeforeConnecting(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		change func(*Config)
		data   string
		want   string
	}{
		"field":       {func(c *Config) { c.HTML = "\n{{.Data.nme}}" }, `{"name":"x"}`, `config email.template template html: html:2:7: executing "html" at <.Data.nme>`},
		"absent":      {func(c *Config) { c.Attachments = []Attachment{{Name: "a", Field: "pdf"}} }, `{}`, "permanent email.attachment"},
		"not base64":  {func(c *Config) { c.Attachments = []Attachment{{Name: "a", Field: "pdf", Encoding: "base64"}} }, `{"pdf":"%"}`, "permanent email.attachment"},
		"too large":   {func(c *Config) { c.Attachments, c.Limits.Attachment = []Attachment{{Name: "a"}}, 4 }, `{"a":1}`, "permanent email.too_large"},
		"all of them": {func(c *Config) { c.Attachments, c.Limits.Total = []Attachment{{Name: "a"}, {Name: "b"}}, 10 }, `{"a":1}`, "permanent email.too_large"},
		"too many":    {func(c *Config) { c.Attachments, c.Limits.Attachments = []Attachment{{Name: "a"}, {Name: "b"}}, 1 }, `{"a":1}`, "permanent email.too_large"},
	} {
		e := opened(t, func(c *Config) { c.Host, c.Port = "192.0.2.1", 1; row.change(c) }) // an address that nobody answers at
		d := event("item_1")
		d.Data = []byte(row.data)
		_, err := e.Deliver(t.Context(), d)
		var failure *transport.Error
		if !errors.As(err, &failure) {
			t.Fatalf("%s: %v", name, err)
		}
		if got := failure.Class.String() + " " + failure.Code + " " + err.Error(); !strings.HasPrefix(got, row.want) {
			t.Errorf("%s: %s, want %s", name, got, row.want)
		}
	}
}
