package smtp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// FuzzReply reads what a hostile server says: a reply is bounded, printable and of
// one code, or an error.
func FuzzReply(f *testing.F) {
	for _, seed := range []string{
		"250 2.1.0 Ok\r\n", "250-first\r\n250 last\r\n", "250\r\n", "250-\r\n250 \r\n", "550 5.1.1 <x@y>: unknown\r\n", "250-a\r\n251 b\r\n", "199 x\r\n", "600 x\r\n",
		"HTTP/1.1 400 Bad Request\r\n\r\n", "\r\n", "25", "250 \xff\xfe\x00\r\n", "250 5.1.1 class of another code\r\n", "421 4.7.0 later\n", strings.Repeat("250-x\r\n", maxLines+1),
		"250 " + strings.Repeat("x", maxLine) + "\r\n", "+50 x\r\n", "2 0 x\r\n", "250 2.1\r\n", "250 2.1.5x\r\n",
	} {
		f.Add([]byte(seed))
	}
	enhanced := regexp.MustCompile(`^[245]\.\d{1,3}\.\d{1,3}$`)
	f.Fuzz(func(t *testing.T, text []byte) {
		c := &Conn{r: bufio.NewReaderSize(bytes.NewReader(text), maxLine)}
		reply, err := c.read()
		if err != nil {
			if reply.Code != 0 || reply.Lines != nil {
				t.Fatalf("a reply beside an error: %+v, %v", reply, err)
			}
			return
		}
		switch {
		case reply.Code < 200 || reply.Code > 599:
			t.Fatalf("code %d", reply.Code)
		case reply.Enhanced != "" && (!enhanced.MatchString(reply.Enhanced) || int(reply.Enhanced[0]-'0') != reply.Code/100):
			t.Fatalf("enhanced code %q of %d", reply.Enhanced, reply.Code)
		case len(reply.Lines) == 0 || len(reply.Lines) > maxLines || len(reply.Text()) > maxLine*maxLines:
			t.Fatalf("%d lines", len(reply.Lines))
		case !utf8.ValidString(reply.Text()) || strings.ContainsRune(reply.Text(), '\n'):
			t.Fatalf("text %q", reply.Text())
		}
	})
}

// FuzzSession talks to a server that says anything at all. Whatever it is, the
// session ends, and a message counts as taken only when the server said so.
func FuzzSession(f *testing.F) {
	for _, seed := range []string{
		"220 x\r\n250-x\r\n250 PIPELINING\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 2.0.0 queued as 1\r\n",
		"220 x\r\n250 x\r\n250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n250 ok\r\n",
		"220 x\r\n250 x\r\n250 ok\r\n550 no\r\n550 no\r\n250 reset\r\n",
		"220 x\r\n250-x\r\n250 PIPELINING\r\n550 no\r\n550 no\r\n550 no\r\n354 go\r\n250 ok\r\n",
		"220 x\r\n250-SIZE 10\r\n250 SIZE -1\r\n", "421 gone\r\n", "", "220", "220 x\r\n500 no\r\n",
		"220 x\r\n250 x\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n",
		"220 x\r\n250-x\r\n250 AUTH PLAIN\r\n421 4.3.2 down\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, says []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		go func() { // hears everything and answers with its script, asked or not
			defer close(done)
			defer func() { _ = theirs.Close() }()
			go func() { _, _ = theirs.Write(says); _ = theirs.SetReadDeadline(time.Now().Add(time.Millisecond)) }()
			_, _ = io.Copy(io.Discard, theirs)
		}()
		config := &Config{Host: "test", Port: 25, Security: None, Hello: "localhost", Dial: func(context.Context, string, string) (net.Conn, error) { return ours, nil }}
		pool := NewPool(config, 1, 0, time.Minute)
		envelope := Envelope{From: "a@acme.example", To: []string{"b@acme.example", "c@acme.example"}, Size: 100}
		outcome, err := pool.Send(ctx, envelope, func(w io.Writer) error { _, err := io.WriteString(w, "x\r\n.\r\n"); return err })
		pool.Close()
		_ = ours.Close()
		<-done
		if ctx.Err() != nil {
			t.Fatal("the session did not end")
		}
		if err == nil && (outcome.Reply.Code != 250 || !bytes.Contains(says, []byte("354")) || !outcome.Recipients[0].OK() && !outcome.Recipients[1].OK()) {
			t.Fatalf("taken: %+v", outcome)
		}
		if refused := (*Error)(nil); err != nil && errors.As(err, &refused) && refused.Stage == StageContent && refused.Reply.Code == 0 && !bytes.Contains(says, []byte("354")) {
			t.Fatalf("the end of a message that nobody asked for: %v", err)
		}
	})
}
