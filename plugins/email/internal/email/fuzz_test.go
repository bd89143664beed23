package email

import (
	"bytes"
	"errors"
	"net/mail"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/plugins/email/internal/smtp"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// FuzzRecipients reads the recipients that a producer's metadata names: each is of
// an allowed domain, and none can break out of its SMTP command.
func FuzzRecipients(f *testing.F) {
	for _, seed := range []string{
		`{"email":{"to":["a@acme.example"],"cc":"b@acme.example","bcc":[]}}`, `{"email":{"to":["Zoë <z@bücher.example>"]}}`, `{"email":{"to":["a@evil.example"]}}`,
		`{"email":{"to":["a@acme.example\r\nRCPT TO:<b@evil.example>"]}}`, `{"email":{"to":["\"a b\"@acme.example"]}}`, `{"email":{"to":["a@acme.example>"]}}`,
		`{"email":{"to":["@acme.example"]}}`, `{"email":{"to":["a@acme.example@evil.example"]}}`, `{"email":{"to":[1]}}`, `{"email":"a@acme.example"}`, `{"email":{"to":["a@ACME.example","A@acme.example"]}}`,
		`{"email":{"to":["jürgen@acme.example"]}}`, `{"email":`, `[]`, ``, `{"email":{"to":["a@xn--bcher-kva.example"]}}`, `{"email":{"to":["g: a@acme.example, b@evil.example;"]}}`,
	} {
		f.Add([]byte(seed))
	}
	allowed := map[string]bool{"acme.example": true, "xn--bcher-kva.example": true}
	r := &Recipients{Field: "email", AllowedDomains: []string{"acme.example", "bücher.example"}}
	f.Fuzz(func(t *testing.T, metadata []byte) {
		own, err := r.of(metadata)
		if err != nil {
			return
		}
		for _, address := range own.envelope() {
			if !allowed[domainOf(address)] || strings.Count(address, "@") != 1 {
				t.Fatalf("%q", address)
			}
			if strings.ContainsAny(address, "\r\n\x00<> \t") || strings.ContainsFunc(address, isControl) {
				t.Fatalf("%q would break out of its command", address)
			}
		}
	})
}

// FuzzMessage composes a message of what a producer may write.
func FuzzMessage(f *testing.F) {
	f.Add("order.paid", "item_1", "corr-1", `{"s":"x","files":[{"name":"a.txt","content":"aGk=","content_type":"text/plain"}]}`)
	f.Add("a\r\nBcc: evil@acme.example\r\n\r\nbody", "\r\n.\r\n", "\x00\u2028", `{"s":"\r\nBcc: x@y.example"}`)
	f.Add("=?utf-8?q?x?=", strings.Repeat("é", 300), "--mixed_", `{"s":"\ud800","files":[{"name":"../../etc/passwd\r\nX: y","content":"","content_type":"text/html\r\nX: y"}]}`)
	f.Add("", "", "", `not JSON`)
	e := opened(f, func(c *Config) {
		c.Host, c.Subject, c.AttachmentsField, c.HTML = "mail.example", `{{.Type}} {{get .Data "s"}}`, "files", `<p title="{{get .Data "s"}}">{{.Type}}</p>`
		c.Attachments = []Attachment{{Name: "{type}{id}"}}
	})
	allowed := map[string]bool{
		"From": true, "To": true, "Subject": true, "Date": true, "Message-Id": true, "Mime-Version": true, "Content-Type": true, "X-Delivery-Id": true, "X-Correlation-Id": true,
	}
	f.Fuzz(func(t *testing.T, kind, id, correlation, data string) {
		d := event(id)
		d.DeliveryID, d.Type, d.CorrelationID, d.Data = id, kind, correlation, []byte(data)
		_, m, err := e.prepare(d, nil)
		if err != nil {
			var classified *transport.Error
			if !errors.As(err, &classified) {
				t.Fatalf("an error without a class: %v", err)
			}
			return
		}
		defer m.close()
		var b bytes.Buffer
		if err := m.write(&b); err != nil {
			t.Fatal(err)
		}
		if bare := strings.ReplaceAll(b.String(), "\r\n", ""); strings.ContainsAny(bare, "\r\n\x00") {
			t.Fatalf("a bare CR, LF or NUL in\n%q", b.String())
		}
		read, err := mail.ReadMessage(&b)
		if err != nil {
			t.Fatal(err)
		}
		for name, values := range read.Header {
			if !allowed[name] || len(values) != 1 {
				t.Fatalf("header %s: %q", name, values)
			}
		}
	})
}

// FuzzTemplate executes what a tenant may configure: it ends, within its bounds.
func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{
		`{{.Type}}: {{get .Data "title" | default "untitled"}}`, `{{range .Data.list}}{{.}}{{else}}none{{end}}`, `{{range 1000000000}}{{end}}`, `{{define "a"}}{{template "a"}}{{end}}{{template "a"}}`,
		`{{$x := "aa"}}{{range 60}}{{$x = print $x $x}}{{end}}{{len $x}}`, `<a href="{{.Data.title}}">{{.Type}}</a>`, `<script>{{.Data}}</script>`, `{{printf "%1000000000d" 1}}`, `{{printf "%[1000000000]*d" 1}}`,
		`{{with .Data}}{{range .list}}{{$.Type}}{{break}}{{end}}{{end}}`, `{{join "," .Data.list}}{{json .Data}}{{truncate 3 .Type}}{{date "2006" .CreatedAt}}{{size 5}}`, `{{slice .Type 0 1}}{{index .Data "title"}}{{call .Type}}`,
		`{{"a" | print "b" | printf "%s"}}`, `{{if and .Type (not .Data)}}{{end}}`, "{{`\r\n`}}", `{{.Step}}{{.Step 1}}`, `{{truncate -1 "x"}}`, `{{block "x" .}}{{end}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, html := range []bool{false, true} {
			parsed, err := parseTemplate("text", text, html)
			if err != nil {
				continue
			}
			d := event("item_1")
			d.Data = []byte(`{"title":"x","list":["a","b"]}`)
			start, v := time.Now(), viewOf(d)
			v.steps = maxSteps - 5000
			out, err := render(parsed, v)
			if len(out) > maxRendered {
				t.Fatalf("%d bytes, %v", len(out), err)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Fatalf("took %s", took)
			}
		}
	})
}

// FuzzAnswer classifies any answer at any stage: there is always a class, and a
// time only where the server asks to come back.
func FuzzAnswer(f *testing.F) {
	for _, text := range []string{"try again in 300 seconds", "wait 999999 hours", "in 0 s", "Too many connections", "Access denied", "queued as <x>", ""} {
		f.Add(450, "4.7.1", text)
		f.Add(554, "5.7.1", text)
		f.Add(250, "2.0.0", text)
	}
	e := opened(f, func(c *Config) { c.Host = "mail.example" })
	f.Fuzz(func(t *testing.T, code int, enhanced, text string) {
		if code < 200 || code > 599 {
			return
		}
		reply := smtp.Reply{Code: code, Enhanced: enhanced, Lines: []string{text}}
		for _, stage := range []smtp.Stage{smtp.StageConnect, smtp.StageTLS, smtp.StageAuth, smtp.StageMail, smtp.StageRcpt, smtp.StageData, smtp.StageContent} {
			var classified *transport.Error
			if err := classify(&smtp.Error{Stage: stage, Reply: reply}); !errors.As(err, &classified) || classified.RetryAfter < 0 || classified.RetryAfter > 0 && code/100 != 4 {
				t.Fatalf("%s %s: %v", stage, reply, err)
			}
			if classified.Class == transport.ClassPermanent && code/100 == 4 {
				t.Fatalf("%s %s is permanent", stage, reply)
			}
		}
		_ = e.reference(reply, "id")
	})
}
