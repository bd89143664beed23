package email

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scripted answers each command that begins with a key of its script with the
// value; "" cuts the connection. It takes everything else.
type scripted struct {
	port int

	mu       sync.Mutex
	script   map[string]string
	commands []string
	messages []string
	sessions int
	hangUp   bool   // after each message
	farewell string // said before that, though nobody asked
}

func newScripted(t testing.TB, script map[string]string) *scripted {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &scripted{port: listener.Addr().(*net.TCPAddr).Port, script: script}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer func() { _ = conn.Close() }()
				s.talk(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		all.Wait()
	})
	return s
}

func (s *scripted) answer(command, otherwise string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commands = append(s.commands, command)
	for prefix, answer := range s.script {
		if strings.HasPrefix(command, prefix) {
			return answer
		}
	}
	return otherwise
}

func (s *scripted) talk(conn net.Conn) {
	s.mu.Lock()
	s.sessions++
	s.mu.Unlock()
	r := bufio.NewReader(conn)
	say := func(line string) bool {
		_, err := conn.Write([]byte(line + "\r\n"))
		return err == nil && line != "" && !strings.HasPrefix(line, "421")
	}
	if !say(s.answer("CONNECT", "220 test")) {
		return
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSpace(line)
		otherwise := "250 2.0.0 Ok"
		switch {
		case strings.HasPrefix(line, "EHLO"):
			otherwise = "250-test\r\n250-AUTH PLAIN XOAUTH2\r\n250 PIPELINING"
		case line == "DATA":
			otherwise = "354 Go"
		case strings.HasPrefix(line, "AUTH"):
			otherwise = "235 2.7.0 Ok"
		}
		answer := s.answer(line, otherwise)
		if !say(answer) || line == "QUIT" {
			return
		}
		if line == "DATA" && strings.HasPrefix(answer, "354") {
			var b strings.Builder
			for {
				text, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if text == ".\r\n" {
					break
				}
				b.WriteString(text)
			}
			s.mu.Lock()
			s.messages = append(s.messages, b.String())
			s.mu.Unlock()
			if !say(s.answer(".", "250 2.0.0 Ok: queued as Q1")) {
				return
			}
			if s.hangUp {
				if s.farewell != "" {
					_ = say(s.farewell)
				}
				return
			}
		}
	}
}

// plain makes the configuration of a destination at s, without TLS.
func plain(s *scripted, change func(*Config)) func(*Config) {
	return func(c *Config) {
		c.Host, c.Port, c.Security = "127.0.0.1", s.port, "none"
		if change != nil {
			change(c)
		}
	}
}

func TestClasses(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ command, answer, want string }{
		{"CONNECT", "421 4.3.2 Shutting down", "unavailable smtp.421"},
		{"CONNECT", "421 4.7.0 Too many connections from your address", "rate_limited smtp.421"},
		{"CONNECT", "554 5.7.1 No SMTP service here", "unavailable smtp.554"},
		{"CONNECT", "HTTP/1.1 400 Bad Request", "unavailable smtp.connect"},
		{"CONNECT", "", "unavailable smtp.connect"},
		{"EHLO", "550 5.7.1 Go away", "unavailable smtp.550"},
		{"AUTH", "535 5.7.8 Authentication failed", "auth smtp.535"},
		{"AUTH", "534 5.7.9 Mechanism too weak", "auth smtp.534"},
		{"AUTH", "454 4.7.0 Temporary authentication failure", "transient smtp.454"},
		{"AUTH", "504 5.5.4 Unrecognized authentication type", "config smtp.504"},
		{"MAIL", "530 5.7.0 Authentication required", "auth smtp.530"},
		{"MAIL", "550 5.7.1 Sender not verified", "config smtp.550"},
		{"MAIL", "552 5.3.4 Message too big", "permanent smtp.552"},
		{"MAIL", "451 4.3.0 Try later", "transient smtp.451"},
		{"MAIL", "452 4.3.1 Insufficient storage", "transient smtp.452"},
		{"MAIL", "550 5.4.5 Daily sending limit exceeded", "rate_limited smtp.550"},
		{"RCPT", "550 5.1.1 No such user", "permanent smtp.recipients_refused"},
		{"RCPT", "553 5.1.3 Bad address", "permanent smtp.recipients_refused"},
		{"RCPT", "450 4.2.0 Greylisted, try again in 300 seconds", "transient smtp.450 5m0s"},
		{"RCPT", "450 4.7.28 Unusual rate of mail", "rate_limited smtp.450"},
		{"RCPT", "552 5.2.2 Mailbox full", "transient smtp.552"},
		{"RCPT", "421 4.3.2 Shutting down", "unavailable smtp.421"},
		{"RCPT", "", "transient smtp.cut"},
		{"DATA", "451 4.3.5 Try later", "transient smtp.451"},
		{"DATA", "554 5.7.1 Refused", "permanent smtp.554"},
		{"DATA", "", "transient smtp.cut"},
		{".", "550 5.7.1 Looks like spam", "permanent smtp.550"},
		{".", "552 5.3.4 Too large", "permanent smtp.552"},
		{".", "451 4.3.0 Queue file write error", "transient smtp.451"},
		{".", "421 4.7.0 Rate limit exceeded, wait 2 minutes", "rate_limited smtp.421 2m0s"},
		{".", "", "unknown_outcome smtp.cut"},
	} {
		for _, pipelining := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s %s %t", row.command, row.answer, pipelining), func(t *testing.T) {
				t.Parallel()
				script := map[string]string{row.command: row.answer}
				if !pipelining && row.command != "EHLO" {
					script["EHLO"] = "250-test\r\n250 AUTH PLAIN"
				}
				s := newScripted(t, script)
				e := opened(t, plain(s, func(c *Config) {
					if row.command == "AUTH" {
						c.Username, c.Password, c.Mechanism, c.PlaintextOK = "u", "hunter2hunter2", "plain", true
					}
				}))
				_, err := e.Deliver(t.Context(), event("item_1"))
				var got *transport.Error
				if !errors.As(err, &got) {
					t.Fatalf("error %v", err)
				}
				text := got.Class.String() + " " + got.Code
				if got.RetryAfter > 0 {
					text += " " + got.RetryAfter.String()
				}
				if text != row.want || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("%s (%v), want %s", text, err, row.want)
				}
				if n := len(s.messages); n > 1 {
					t.Errorf("%d messages for one attempt", n)
				}
			})
		}
	}
}

func TestRetryGoesOnlyToThoseWithoutTheMessage(t *testing.T) {
	t.Parallel()
	s := newScripted(t, map[string]string{"RCPT TO:<b@": "450 4.2.1 Busy", "RCPT TO:<c@": "550 5.1.1 Unknown"})
	e := opened(t, plain(s, func(c *Config) { c.To = []string{"a@acme.example", "b@acme.example", "c@acme.example"} }))
	d := event("item_1")
	receipt, err := e.Deliver(t.Context(), d)
	var failure *transport.Error
	if !errors.As(err, &failure) || failure.Class != transport.ClassTransient || !strings.Contains(err.Error(), "1 of 3 recipients have the message; b@acme.example: 450 4.2.1 Busy") {
		t.Fatalf("first attempt: %v", err)
	}
	s.mu.Lock()
	delete(s.script, "RCPT TO:<b@")
	s.commands = nil
	s.mu.Unlock()
	d.Attempt, d.Resume = 2, receipt.Resume
	if _, err = e.Deliver(t.Context(), d); !errors.As(err, &failure) || failure.Class != transport.ClassPermanent {
		t.Fatalf("second attempt: %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if all := strings.Join(s.commands, "\n"); strings.Contains(all, "<a@") || strings.Contains(all, "<c@") || !strings.Contains(all, "RCPT TO:<b@") {
		t.Errorf("second attempt said\n%s", all)
	}
	id := func(message string) string {
		_, rest, _ := strings.Cut(message, "Message-ID: ")
		line, _, _ := strings.Cut(rest, "\r\n")
		return line
	}
	if len(s.messages) != 2 || id(s.messages[0]) != id(s.messages[1]) || id(s.messages[0]) != "<item_1@acme.example>" {
		t.Errorf("%d messages, ids %q", len(s.messages), id(s.messages[0]))
	}
}

func TestPool(t *testing.T) {
	t.Parallel()
	s := newScripted(t, nil)
	e := opened(t, plain(s, func(c *Config) { c.MessagesPerConnection = 3 }))
	for i := range 7 {
		sent(t, e, event("item_"+strconv.Itoa(i)))
	}
	if s.sessions != 3 {
		t.Errorf("%d sessions for 7 messages of 3 each", s.sessions)
	}
	// A server that went away while the connection was idle costs no attempt.
	for _, farewell := range []string{"", "421 4.4.2 Timeout exceeded", "421 4.3.2 Shutting down"} {
		stale := newScripted(t, nil)
		stale.hangUp, stale.farewell = true, farewell
		e = opened(t, plain(stale, nil))
		for i := range 3 {
			sent(t, e, event("item_"+strconv.Itoa(i)))
		}
		if len(stale.messages) != 3 || stale.sessions != 3 {
			t.Errorf("%s: %d messages in %d sessions", farewell, len(stale.messages), stale.sessions)
		}
	}
}

// Every connection is busy until the deadline of one more message: that is no
// attempt, and the lane slows down.
func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	s := newScripted(t, nil)
	e := opened(t, plain(s, func(c *Config) { c.MaxConnections = 1 }))
	held, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = held.Close() })
	e.server.Port = held.Addr().(*net.TCPAddr).Port // accepts, and says nothing
	busy, release := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := e.Deliver(busy, event("item_1"))
		first <- err
	}()
	conn, err := held.Accept() // the one connection is taken
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	late, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = e.Deliver(late, event("item_2"))
	var failure *transport.Error
	if !errors.As(err, &failure) || failure.Class.String()+" "+failure.Code != "rate_limited smtp.busy" {
		t.Errorf("%v", err)
	}
	release()
	if err := <-first; !errors.As(err, &failure) || failure.Class != transport.ClassUnavailable {
		t.Errorf("a server that says nothing: %v", err)
	}
}

// An idle connection is closed with a goodbye.
func TestIdleConnectionsEnd(t *testing.T) {
	t.Parallel()
	s := newScripted(t, nil)
	e := opened(t, plain(s, func(c *Config) { c.IdleTimeout = time.Millisecond }))
	sent(t, e, event("item_1"))
	deadline := time.Now().Add(time.Minute)
	for {
		s.mu.Lock()
		said := strings.Join(s.commands, " ")
		s.mu.Unlock()
		if strings.HasSuffix(said, "QUIT") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no goodbye after a minute: %s", said)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// What SES documents of its answers.
func TestAnswersOfSES(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ command, answer, want string }{
		{".", "454 Throttling failure: Maximum sending rate exceeded.", "rate_limited smtp.454"},
		{".", "454 Throttling failure: Daily message quota exceeded.", "rate_limited smtp.454"},
		{".", "554 Access denied: User `arn:aws:iam::1:user/x' is not authorized to perform `ses:SendRawEmail'", "auth smtp.554"},
		{".", "554 Message rejected: Email address is not verified.", "permanent smtp.554"},
		{".", "501 Invalid MAIL FROM address provided", "permanent smtp.501"},
		{"MAIL", "530 Authentication required", "auth smtp.530"},
	} {
		s := newScripted(t, map[string]string{row.command: row.answer})
		_, err := opened(t, plain(s, nil)).Deliver(t.Context(), event("item_1"))
		var failure *transport.Error
		if !errors.As(err, &failure) || failure.Class.String()+" "+failure.Code != row.want {
			t.Errorf("%s: %v, want %s", row.answer, err, row.want)
		}
	}
}
