package email

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/deliveryd/deliveryd/plugins/email/internal/intake"
	"github.com/deliveryd/deliveryd/sdk/egress"
	"github.com/deliveryd/deliveryd/sdk/plugintest/postfix"
	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/tlsconfig"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

func loopback(t testing.TB) transport.Instance {
	t.Helper()
	guard, err := egress.New(egress.Policy{AllowCIDRs: []string{"127.0.0.0/8"}})
	if err != nil {
		t.Fatal(err)
	}
	return transport.Instance{ID: "d1", OrganizationID: "acme", Label: "mail", Egress: guard, Concurrency: 8}
}

// defaulted fills in what the schema would, and wants c to be valid.
func defaulted(t testing.TB, change func(*Config)) *Config {
	t.Helper()
	c := new(Config)
	if d := schema.Decode([]byte(`{"from":"Acme Reports <reports@acme.example>","to":["alice@acme.example"]}`), c); d.HasErrors() {
		t.Fatal(d)
	}
	change(c)
	return c
}

func opened(t testing.TB, change func(*Config)) *email {
	t.Helper()
	c := defaulted(t, change)
	if d := c.Validate(); d.HasErrors() {
		t.Fatal(d)
	}
	e, err := open(loopback(t), c, intake.New())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close(context.Background()) })
	return e
}

// at makes the configuration of a destination at s.
func at(s *postfix.Server, change func(*Config)) func(*Config) {
	return func(c *Config) {
		c.Host, c.Port, c.Username, c.Password, c.TLS = "localhost", s.Port, postfix.User, postfix.Password, &tlsconfig.Config{CA: s.CA}
		if change != nil {
			change(c)
		}
	}
}

func event(id string) *transport.Delivery {
	return &transport.Delivery{
		ID: id, Attempt: 1, DeliveryID: "dlv_1", OrganizationID: "acme", Type: "order.paid", CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Data: []byte(`{"customer":{"name":"Zoë <b>"},"total":1.50,"pdf":"JVBERi0xLjQK"}`), ContentType: "application/json", CorrelationID: "corr-1",
	}
}

// parsed is a message as Python's email package reads it.
type parsed struct {
	Headers map[string]string
	Defects []string
	Parts   []struct {
		Type, Name, Disposition, ID, SHA256, Text string
		Size                                      int
	}
}

const reader = `
import email, email.policy, hashlib, json, sys
m = email.message_from_binary_file(open(sys.argv[1], "rb"), policy=email.policy.default)
out = {"Headers": {k: str(v) for k, v in m.items()}, "Defects": [], "Parts": []}
for p in m.walk():
    out["Defects"] += [str(d) for d in p.defects]
    if p.is_multipart():
        continue
    body = p.get_payload(decode=True)
    out["Parts"].append({"Type": p.get_content_type(), "Name": p.get_filename() or "", "Disposition": p.get_content_disposition() or "", "ID": p["Content-ID"] or "",
        "SHA256": hashlib.sha256(body).hexdigest(), "Size": len(body), "Text": p.get_content() if p.get_content_maintype() == "text" else ""})
json.dump(out, sys.stdout)
`

func read(t *testing.T, path string) (m parsed) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "python3", "-c", reader, path).Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &m); err != nil {
		t.Fatal(err)
	}
	if len(m.Defects) > 0 {
		t.Errorf("defects: %v", m.Defects)
	}
	return m
}

func sent(t *testing.T, e *email, d *transport.Delivery) transport.Receipt {
	t.Helper()
	receipt, err := e.Deliver(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	return receipt
}

func TestPostfix(t *testing.T) {
	t.Parallel()
	s := postfix.Start(t, "alice", "mech", "plain", "never", "after", "zoe", "jürgen", "carol", "hidden", "dora", "erin", "frank", "grace")
	t.Run("mechanisms", func(t *testing.T) {
		t.Parallel()
		for _, mechanism := range []string{"auto", "plain", "login", "cram-md5", "scram-sha-256"} {
			e := opened(t, at(s, func(c *Config) { c.Mechanism, c.To = mechanism, []string{"mech@acme.example"} }))
			receipt := sent(t, e, event("item_"+mechanism))
			if receipt.Status != 250 {
				t.Errorf("%s: status %d", mechanism, receipt.Status)
			}
			s.AwaitLog(t, receipt.Reference+": client=") // Postfix' queue id
		}
		s.Await(t, "mech", 5)
		e := opened(t, at(s, func(c *Config) { c.Port, c.Security = s.TLSPort, "implicit" }))
		sent(t, e, event("item_implicit"))
		for name, change := range map[string]func(*Config){
			"auth smtp.535":               func(c *Config) { c.Password = "wrong" },
			"config smtp.no_auth":         func(c *Config) { c.Security, c.Mechanism, c.OAuth2 = "starttls", "xoauth2", nil },
			"unavailable tls.certificate": func(c *Config) { c.TLS = nil },
		} {
			c := defaulted(t, at(s, change))
			e, err := open(loopback(t), c, intake.New())
			if err != nil {
				t.Fatal(err)
			}
			_, err = e.Deliver(t.Context(), event("item_refused"))
			var classified *transport.Error
			if !errors.As(err, &classified) || classified.Class.String()+" "+classified.Code != name {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("message", func(t *testing.T) { t.Parallel(); testMessage(t, s) })
	t.Run("default", func(t *testing.T) {
		t.Parallel()
		e := opened(t, at(s, func(c *Config) { c.To = []string{"plain@acme.example"} }))
		d := event("item_default")
		sent(t, e, d)
		file := s.Await(t, "plain", 1)[0]
		raw, _ := os.ReadFile(file)
		digest := sha256.Sum256(event("").Data)
		if m := read(t, file); !strings.Contains(m.Parts[0].Text, hex.EncodeToString(digest[:])) || len(m.Parts) != 2 || bytes.Contains(raw, []byte("Zo")) {
			t.Errorf("%+v\n%s", m, raw)
		}
	})
	t.Run("recipients", func(t *testing.T) { t.Parallel(); testRecipients(t, s) })
	t.Run("upload", func(t *testing.T) { t.Parallel(); testUpload(t, s) })
	t.Run("connection", func(t *testing.T) {
		t.Parallel()
		e := opened(t, at(s, func(c *Config) { c.To = []string{"never@acme.example"} }))
		var names []string
		for _, step := range e.TestConnection(t.Context(), false) {
			names = append(names, step.Name)
			if step.Err != nil {
				t.Errorf("%s: %v", step.Name, step.Err)
			}
		}
		if got := strings.Join(names, " "); got != "dns tcp tls auth sender" {
			t.Errorf("steps %s", got)
		}
		sent(t, opened(t, at(s, func(c *Config) { c.To = []string{"after@acme.example"} })), event("item_after"))
		s.Await(t, "after", 1)
		if n := len(s.Messages("never")); n != 0 {
			t.Errorf("a test of the connection sent %d messages", n)
		}
	})
}

func testMessage(t *testing.T, s *postfix.Server) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	e := opened(t, at(s, func(c *Config) {
		c.To, c.CC, c.BCC = []string{"Zoë <zoe@bücher.example>", "jürgen@acme.example"}, []string{"carol@acme.example"}, []string{"hidden@acme.example"}
		c.ReplyTo = []string{"help@acme.example"}
		c.Subject = "Order für {{.Data.customer.name}}\n\rBcc: evil@acme.example"
		c.HTML = `<h1>Hi {{.Data.customer.name}}</h1><p>Total <a href="https://acme.example/?t={{.Data.total}}">{{.Data.total}}</a></p><img src="cid:logo">`
		c.Headers = map[string]string{"X-Stream": "reports"}
		c.Inline = []Inline{{ID: "logo", Name: "logo.png", Content: base64.StdEncoding.EncodeToString([]byte("\x89PNG"))}}
		c.Attachments = []Attachment{{Name: "{id}.{ext}"}, {Name: "Beleg für {type}.pdf", Field: "pdf", Encoding: "base64"}, {Name: "none", Field: "absent", Optional: true}}
		c.ListUnsubscribe = &ListUnsubscribe{URL: "https://acme.example/u?d={{.DeliveryID | urlquery}}", Mailto: "u@acme.example", OneClick: true}
		c.DKIM = &DKIM{Domain: "acme.example", Selector: "s1", Key: key}
	}))
	d := event("item_message")
	sent(t, e, d)
	for _, mailbox := range []string{"zoe", "jürgen", "hidden"} {
		s.Await(t, mailbox, 1)
	}
	file := s.Await(t, "carol", 1)[0]
	m := read(t, file)
	for name, want := range map[string]string{
		"Subject": "Order für Zoë <b> Bcc: evil@acme.example", "To": "Zoë <zoe@xn--bcher-kva.example>, jürgen@acme.example", "Cc": "carol@acme.example",
		"From": "Acme Reports <reports@acme.example>", "Reply-To": "help@acme.example", "Message-ID": "<item_message@acme.example>", "X-Delivery-ID": "dlv_1",
		"X-Correlation-ID": "corr-1", "X-Stream": "reports", "List-Unsubscribe": "<https://acme.example/u?d=dlv_1>, <mailto:u@acme.example>",
		"List-Unsubscribe-Post": "List-Unsubscribe=One-Click", "Bcc": "",
	} {
		if m.Headers[name] != want {
			t.Errorf("%s: %q, want %q", name, m.Headers[name], want)
		}
	}
	var shape []string
	for _, p := range m.Parts {
		shape = append(shape, fmt.Sprintf("%s %s %s%s", p.Type, p.Disposition, p.Name, p.ID))
	}
	if got, want := strings.Join(shape, "; "), "text/plain  ; text/html  ; image/png inline logo.png<logo>; application/json attachment item_message.json; application/pdf attachment Beleg für order.paid.pdf"; got != want {
		t.Errorf("parts %s\nwant %s", got, want)
	}
	digest := sha256.Sum256(event("").Data)
	if len(m.Parts) == 5 && (m.Parts[3].SHA256 != hex.EncodeToString(digest[:]) || !strings.Contains(m.Parts[1].Text, "Zoë &lt;b&gt;") || !strings.Contains(m.Parts[0].Text, "Hi Zoë <b>\n\nTotal 1.50 (https://acme.example/?t=1.50)")) {
		t.Errorf("contents: %+v", m.Parts)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	signed := raw[bytes.Index(raw, []byte("DKIM-Signature")):]
	found, err := dkim.VerifyWithOptions(bytes.NewReader(bytes.ReplaceAll(signed, []byte("\n"), []byte("\r\n"))), &dkim.VerifyOptions{LookupTXT: func(domain string) ([]string, error) {
		return []string{"v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public)}, nil
	}})
	if err != nil || len(found) != 1 || found[0].Err != nil || found[0].Domain != "acme.example" {
		t.Errorf("signature: %+v, %v", found, err)
	}
}

func testRecipients(t *testing.T, s *postfix.Server) {
	e := opened(t, at(s, func(c *Config) {
		c.To, c.Recipients = nil, &Recipients{Field: "email", AllowedDomains: []string{"acme.example"}}
	}))
	d := event("item_partial")
	d.Metadata = []byte(`{"email":{"to":["dora@acme.example","nobody@acme.example"],"bcc":"erin@acme.example"}}`)
	receipt, err := e.Deliver(t.Context(), d)
	var classified *transport.Error
	if !errors.As(err, &classified) || classified.Class != transport.ClassPermanent || !strings.Contains(err.Error(), "1 of 3 recipients refused: nobody@acme.example: 550 5.1.1") {
		t.Fatalf("error %v", err)
	}
	if log := string(classified.Excerpt); !strings.Contains(log, "dora@acme.example: 250 2.1.5") || !strings.Contains(log, "nobody@acme.example: 550 5.1.1") {
		t.Errorf("excerpt %s", log)
	}
	s.Await(t, "dora", 1)
	s.Await(t, "erin", 1)
	// A replay goes only to the one who has it not.
	d.Attempt, d.Resume = 2, receipt.Resume
	if _, err := e.Deliver(t.Context(), d); !errors.As(err, &classified) || classified.Class != transport.ClassPermanent {
		t.Fatalf("replay: %v", err)
	}
	sent(t, opened(t, at(s, func(c *Config) { c.To = []string{"dora@acme.example"} })), event("item_later"))
	s.Await(t, "dora", 2) // and no third, which Postfix would have delivered before
	if n := len(s.Messages("dora")); n != 2 {
		t.Errorf("%d messages, want 2", n)
	}
	d.Metadata = []byte(`{"email":{"to":"x@evil.example"}}`)
	if _, err := e.Deliver(t.Context(), d); !errors.As(err, &classified) || classified.Code != "email.recipient" {
		t.Errorf("foreign domain: %v", err)
	}
}

func testUpload(t *testing.T, s *postfix.Server) {
	body := bytes.Repeat([]byte("0123456789abcdef\x00\xff"), 50_000) // 0.9 MB
	digest := sha256.Sum256(body)
	d := event("item_upload")
	d.Data, d.Artifact = nil, &transport.Artifact{Name: "export.csv", ContentType: "text/csv", Size: int64(len(body)), SHA256: digest[:]}
	e := opened(t, at(s, func(c *Config) { c.To = []string{"frank@acme.example"} }))
	if _, err := e.Upload(t.Context(), d, bytes.NewReader(body)); err != nil {
		t.Fatal(err)
	}
	m := read(t, s.Await(t, "frank", 1)[0])
	if last := m.Parts[len(m.Parts)-1]; last.SHA256 != hex.EncodeToString(digest[:]) || last.Name != "export.csv" || last.Type != "text/csv" {
		t.Errorf("%+v", last)
	}
	testSignedUpload(t, s, body)
	// A damaged upload must not be delivered, in part or at all.
	for _, damage := range []error{transport.ErrDamagedUpload, io.ErrUnexpectedEOF, io.EOF} {
		_, err := e.Upload(t.Context(), d, io.MultiReader(bytes.NewReader(body[:1<<19]), iotest.ErrReader(damage)))
		var classified *transport.Error
		if !errors.As(err, &classified) || classified.Class != transport.ClassTransient || classified.Code != "email.source" {
			t.Errorf("damaged by %v: %v", damage, err)
		}
	}
	sent(t, opened(t, at(s, func(c *Config) { c.To = []string{"frank@acme.example"} })), event("item_upload_2"))
	if n := len(s.Await(t, "frank", 2)); n != 2 {
		t.Errorf("%d messages, want 2", n)
	}
}

const verifier = `
import dkim, sys
raw = open(sys.argv[1], "rb").read()
sys.exit(0 if dkim.verify(raw[raw.index(b"DKIM-Signature"):], dnsfunc=lambda name, timeout=5: sys.argv[2].encode()) else 1)
`

// testSignedUpload has Python's dkimpy verify the signature of a message whose
// attachment is streamed.
func testSignedUpload(t *testing.T, s *postfix.Server, body []byte) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	e := opened(t, at(s, func(c *Config) {
		c.To = []string{"grace@acme.example"}
		c.DKIM = &DKIM{Domain: "acme.example", Selector: "s1", Key: string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))}
	}))
	digest := sha256.Sum256(body)
	d := event("item_signed")
	d.Data, d.Artifact = nil, &transport.Artifact{Name: "export.csv", ContentType: "text/csv", Size: int64(len(body)), SHA256: digest[:]}
	if _, err := e.Upload(t.Context(), d, bytes.NewReader(body)); err != nil {
		t.Fatal(err)
	}
	file := s.Await(t, "grace", 1)[0]
	record := "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(public)
	// The interpreter that Debian's packages belong to.
	if out, err := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", verifier, file, record).CombinedOutput(); err != nil {
		t.Errorf("the signature is not valid: %v\n%s", err, out)
	}
	if m := read(t, file); m.Parts[len(m.Parts)-1].SHA256 != hex.EncodeToString(digest[:]) {
		t.Errorf("%+v", m)
	}
}
