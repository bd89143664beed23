package smtp

import (
	"context"
	"fmt"
	"io"
	"net/textproto"
	"strconv"
	"strings"
	"time"
)

// Envelope is who sends to whom.
type Envelope struct {
	// From is the return path; empty is the null sender.
	From string
	// To are the recipients.
	To []string
	// Size of the message, roughly; 0 means unknown.
	Size int64
	// UTF8 says that an address in envelope or header is not ASCII.
	UTF8 bool
}

// Outcome is what the server said about a message.
type Outcome struct {
	// Recipients has one reply for each of Envelope.To.
	Recipients []Reply
	// Reply to the content; its code is 0 where there was none.
	Reply Reply
}

// SourceError is a failure of whoever writes the content, not of the server.
type SourceError struct{ Err error }

// Error is the text of the cause.
func (e *SourceError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *SourceError) Unwrap() error { return e.Err }

// Send makes one transaction. The error is nil when the server took the message
// for at least one recipient; Outcome tells for which. Commands are pipelined
// where the server allows it (RFC 2920).
func (c *Conn) Send(ctx context.Context, e Envelope, write func(io.Writer) error) (Outcome, error) {
	defer c.bound(ctx)()
	c.answered = false
	outcome := Outcome{Recipients: make([]Reply, len(e.To))}
	err := c.send(e, &outcome, write)
	if err == nil {
		c.sent++
	}
	c.lastUse = time.Now()
	return outcome, cause(ctx, err)
}

func (c *Conn) send(e Envelope, outcome *Outcome, write func(io.Writer) error) error {
	mail, err := c.mailCommand(e)
	if err != nil {
		return err
	}
	lines := make([]string, 0, len(e.To)+2)
	lines = append(lines, mail)
	for _, to := range e.To {
		lines = append(lines, "RCPT TO:<"+to+">")
	}
	lines = append(lines, "DATA")
	awaits, err := c.begin(lines, outcome)
	if err != nil && !awaits {
		c.rest()
		return err
	}
	if err != nil { // the server waits for content that nobody shall get
		_, endErr := c.command(StageData, 250, ".")
		c.broken = c.broken || endErr == nil
		return err
	}
	return c.content(outcome, write)
}

// rest ends a transaction that was refused. A connection that could not be is
// not used again.
func (c *Conn) rest() {
	if c.broken {
		return
	}
	if _, err := c.command(StageMail, 250, "RSET"); err != nil {
		c.broken = true
	}
}

func (c *Conn) mailCommand(e Envelope) (string, error) {
	mail := "MAIL FROM:<" + e.From + ">"
	if limit, ok := c.Extension("SIZE"); ok && e.Size > 0 {
		if n, err := strconv.ParseInt(limit, 10, 64); err == nil && n > 0 && e.Size > n {
			return "", &Error{Stage: StageMail, Reply: Reply{Code: 552, Enhanced: "5.3.4", Lines: []string{fmt.Sprintf("the message has %d bytes, and the server takes at most %d", e.Size, n)}}}
		}
		mail += " SIZE=" + strconv.FormatInt(e.Size, 10)
	}
	if e.UTF8 {
		if _, ok := c.Extension("SMTPUTF8"); !ok {
			return "", &Error{Stage: StageMail, Err: ErrNoUTF8}
		}
		mail += " SMTPUTF8 BODY=8BITMIME"
	}
	return mail, nil
}

// begin says everything up to DATA. The bool says that the server awaits content.
func (c *Conn) begin(lines []string, outcome *Outcome) (bool, error) {
	_, pipelining := c.Extension("PIPELINING")
	if pipelining {
		for _, line := range lines {
			if err := c.put(line); err != nil {
				c.broken = true
				return false, err
			}
		}
		if err := c.w.Flush(); err != nil {
			c.broken = true
			return false, &Error{Stage: StageMail, Err: err}
		}
	}
	step := func(stage Stage, code int, line string) (Reply, error) {
		if pipelining {
			return c.expect(stage, code)
		}
		return c.command(stage, code, line)
	}
	var refusal error
	accepted := 0
	for i, line := range lines {
		stage, code := stageOf(line)
		if !pipelining && (stage == StageData && accepted == 0 || stage != StageMail && refusal != nil) {
			continue
		}
		reply, err := step(stage, code, line)
		if reply.Code == 0 && err != nil || c.broken {
			return false, err
		}
		switch {
		case stage == StageRcpt:
			outcome.Recipients[i-1] = reply
			if reply.OK() {
				accepted++
			}
		case err != nil && refusal == nil && (stage == StageMail || accepted > 0):
			refusal = err
		case stage == StageData && err == nil:
			if refusal == nil && accepted == 0 {
				refusal = nobody()
			}
			return true, refusal
		}
	}
	if refusal == nil {
		refusal = nobody()
	}
	return false, refusal
}

// nobody stands for the replies of the recipients.
func nobody() error { return &Error{Stage: StageRcpt, Err: ErrNobody} }

func stageOf(line string) (Stage, int) {
	switch {
	case strings.HasPrefix(line, "MAIL"):
		return StageMail, 250
	case strings.HasPrefix(line, "RCPT"):
		return StageRcpt, 250
	}
	return StageData, 354
}

func (c *Conn) content(outcome *Outcome, write func(io.Writer) error) error {
	dot := textproto.NewWriter(c.w).DotWriter() // stuffs dots, and ends lines with CR LF
	t := &tracked{w: dot}
	if err := write(t); err != nil && t.err == nil {
		c.abort() // without the last dot the server must forget what it got
		return &SourceError{err}
	} else if err != nil {
		return c.cutShort(StageData, err)
	}
	if err := dot.Close(); err != nil {
		return c.cutShort(StageContent, err)
	}
	var err error
	outcome.Reply, err = c.expect(StageContent, 250)
	return err
}

// cutShort tells why the content could not be written: a server that has enough
// says so before it cuts.
func (c *Conn) cutShort(stage Stage, err error) error {
	c.broken = true
	_ = c.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if reply, readErr := c.read(); readErr == nil && !reply.OK() {
		return &Error{Stage: StageData, Reply: reply}
	}
	return &Error{Stage: stage, Err: err}
}

// tracked remembers whether the connection failed.
type tracked struct {
	w   io.Writer
	err error
}

// Write writes to the connection.
func (t *tracked) Write(p []byte) (int, error) {
	n, err := t.w.Write(p)
	t.err = err
	return n, err
}
