package email

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/deliveryd/deliveryd/plugins/email/internal/intake"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// What a session insists on, or gives up before anything is sent.
func TestSessionIsRefused(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		script map[string]string
		change func(*Config)
		want   string
		never  string // a command that must not be said
	}{
		"no STARTTLS":       {nil, func(c *Config) { c.Security = "starttls" }, "config smtp.no_starttls", "MAIL"},
		"STARTTLS refused":  {map[string]string{"EHLO": "250-test\r\n250 STARTTLS", "STARTTLS": "454 4.7.0 TLS not available"}, func(c *Config) { c.Security = "starttls" }, "unavailable smtp.454", "MAIL"},
		"injected commands": {map[string]string{"EHLO": "250-test\r\n250 STARTTLS", "STARTTLS": "220 Go\r\n250 injected"}, func(c *Config) { c.Security = "starttls" }, "unavailable tls.failed", "MAIL"},
		"no TLS":            {nil, func(c *Config) { c.Security = "implicit" }, "unavailable tls.failed", "MAIL"},
		"no SMTPUTF8":       {nil, func(c *Config) { c.To = []string{"jürgen@acme.example"} }, "permanent smtp.no_smtputf8", "MAIL"},
		"larger than SIZE":  {map[string]string{"EHLO": "250-test\r\n250 SIZE 100"}, nil, "permanent smtp.552", "MAIL"},
		"no usable AUTH":    {map[string]string{"EHLO": "250-test\r\n250 AUTH GSSAPI"}, func(c *Config) { c.Username, c.Password = "u", "p" }, "config smtp.no_auth", "MAIL"},
		"password in clear": {nil, func(c *Config) { c.Username, c.Password = "u", "p" }, "config smtp.no_auth", "AUTH"},
		"too many to write to": {nil, func(c *Config) {
			c.To, c.Recipients, c.Limits.Recipients = nil, &Recipients{Field: "email", AllowedDomains: []string{"*"}}, 1
		}, "permanent email.too_many_recipients", "EHLO"},
		"nobody to write to": {nil, func(c *Config) {
			c.To, c.Recipients = nil, &Recipients{Field: "other", AllowedDomains: []string{"*"}}
		}, "permanent email.recipient", "EHLO"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScripted(t, row.script)
			e := opened(t, plain(s, row.change))
			d := event("item_1")
			d.Metadata = []byte(`{"email":{"to":["a@acme.example","b@acme.example"]}}`)
			_, err := e.Deliver(t.Context(), d)
			var failure *transport.Error
			if !errors.As(err, &failure) || failure.Class.String()+" "+failure.Code != row.want {
				t.Errorf("%v (%v), want %s", failure, err, row.want)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if all := strings.Join(s.commands, "\n"); strings.Contains(all, row.never) {
				t.Errorf("said %s in\n%s", row.never, all)
			}
		})
	}
}

// TestPipelining has a server answer nothing before it has heard all up to DATA.
func TestPipelining(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan string, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		r := bufio.NewReader(conn)
		until := func(last string) (all string) {
			for {
				line, err := r.ReadString('\n')
				if all += line; err != nil || line == last+"\r\n" {
					return all
				}
			}
		}
		_, _ = conn.Write([]byte("220 test\r\n"))
		_ = until("EHLO localhost")
		_, _ = conn.Write([]byte("250-test\r\n250 PIPELINING\r\n"))
		heard <- until("DATA")
		_, _ = conn.Write([]byte("250 sender\r\n250 a\r\n250 b\r\n354 go\r\n"))
		_ = until(".")
		_, _ = conn.Write([]byte("250 2.0.0 Ok: queued as Q1\r\n"))
		_ = until("QUIT")
	}()
	t.Cleanup(func() { _ = listener.Close() })
	e := opened(t, func(c *Config) {
		c.Host, c.Security, c.To = listener.Addr().String(), "none", []string{"a@acme.example", "b@acme.example"}
	})
	if receipt := sent(t, e, event("item_1")); receipt.Reference != "Q1" || receipt.Details["recipients"] != "2" {
		t.Errorf("%+v", receipt)
	}
	if all, want := <-heard, "MAIL FROM:<reports@acme.example>\r\nRCPT TO:<a@acme.example>\r\nRCPT TO:<b@acme.example>\r\nDATA\r\n"; all != want {
		t.Errorf("heard %q, want %q", all, want)
	}
}

// Connections carry credentials: two destinations at one server share none, and a
// new generation of a destination begins with its own.
func TestInstancesShareNoConnection(t *testing.T) {
	t.Parallel()
	s := newScripted(t, nil)
	for n, name := range []string{"one", "two", "one"} {
		e := opened(t, plain(s, func(c *Config) {
			c.Username, c.Password, c.Mechanism, c.PlaintextOK = name, "secret-of-"+name, "plain", true
		}))
		for m := range 2 {
			sent(t, e, event(fmt.Sprint("item_", n, "_", m)))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	auth := 0
	for _, command := range s.commands {
		if strings.HasPrefix(command, "AUTH ") {
			auth++
		}
	}
	if s.sessions != 3 || auth != 3 || len(s.messages) != 6 {
		t.Errorf("%d sessions, %d of them authenticated, %d messages; want 3, 3, 6", s.sessions, auth, len(s.messages))
	}
}

// A delivery that fails before it is sent must not forget who has the message.
func TestProgressOutlivesAnAttemptThatSendsNothing(t *testing.T) {
	t.Parallel()
	s := newScripted(t, map[string]string{"RCPT TO:<b@": "450 4.2.1 Busy"})
	e := opened(t, plain(s, func(c *Config) {
		c.To, c.Recipients = nil, &Recipients{Field: "email", AllowedDomains: []string{"acme.example"}}
		c.Attachments = []Attachment{{Name: "a", Field: "pdf"}}
	}))
	d := event("item_1")
	d.Metadata = []byte(`{"email":{"to":["a@acme.example","b@acme.example"]}}`)
	first, err := e.Deliver(t.Context(), d)
	if err == nil || len(first.Resume) == 0 {
		t.Fatalf("%+v, %v", first, err)
	}
	for name, change := range map[string]func(*transport.Delivery){
		"recipients": func(d *transport.Delivery) { d.Metadata = []byte(`{"email":{"to":["x@evil.example"]}}`) },
		"attachment": func(d *transport.Delivery) { d.Data = []byte(`{}`) },
	} {
		d := event("item_1")
		d.Metadata, d.Resume = []byte(`{"email":{"to":["a@acme.example","b@acme.example"]}}`), first.Resume
		change(d)
		if receipt, err := e.Deliver(t.Context(), d); err == nil || string(receipt.Resume) != string(first.Resume) {
			t.Errorf("%s: %s, %v", name, receipt.Resume, err)
		}
	}
}

// A message that waits on disk is the one that would have waited in memory, however
// often it is written.
func TestLargeMessagesWaitOnDisk(t *testing.T) {
	t.Parallel()
	s := newScripted(t, nil)
	s.hangUp = true // so that the second message is begun at a connection that is gone
	e := opened(t, plain(s, func(c *Config) {
		c.Text, c.Attachments = "{{.Type}}\n.\n..", []Attachment{{Name: "{filename}"}}
	}))
	large := func() *transport.Delivery {
		d := event("item_1")
		d.Data = fmt.Appendf(nil, "%q", strings.Repeat("0123456789\n.\n", intake.Large/13))
		return d
	}
	sent(t, e, large())
	for ok := true; ok; { // no room is left
		_, ok = e.intake.Keep(intake.Large)
	}
	_, m, err := e.prepare(large(), nil)
	if err != nil || m.spooled == nil {
		t.Fatalf("not on disk: %v", err)
	}
	m.close()
	sent(t, e, large())
	dateless := func(message string) string {
		before, rest, _ := strings.Cut(message, "Date: ")
		_, after, _ := strings.Cut(rest, "\r\n")
		return before + after
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.messages) != 2 || len(s.messages[0]) < intake.Large || dateless(s.messages[0]) != dateless(s.messages[1]) {
		t.Errorf("%d messages, which differ", len(s.messages))
	}
}
