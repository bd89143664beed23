package smtp

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Bounds on what a hostile server can make us read.
const (
	maxLine  = 4 << 10
	maxLines = 128
)

// Errors about the server.
var (
	ErrNoStartTLS = errors.New("the server does not offer STARTTLS")
	ErrInjected   = errors.New("the server sent data between STARTTLS and the handshake")
	ErrNoUTF8     = errors.New("the server does not offer SMTPUTF8, which an address needs")
	ErrNobody     = errors.New("the server accepted no recipient")
	ErrNoAuth     = errors.New("the server does not offer a usable authentication mechanism")
)

// Stage is where in a session something happened.
type Stage string

// The stages, in order.
const (
	StageConnect Stage = "connect"
	StageTLS     Stage = "tls"
	StageAuth    Stage = "auth"
	StageMail    Stage = "mail"
	StageRcpt    Stage = "rcpt"
	StageData    Stage = "data"    // the command, or the content up to its last byte
	StageContent Stage = "content" // the last byte may have left
)

// Reply is what the server said.
type Reply struct {
	// Code such as 250; 0 means that the server was not asked.
	Code int
	// Enhanced is the status code of RFC 3463 such as 5.1.1, or empty.
	Enhanced string
	// Lines hold the text, without codes.
	Lines []string
}

// OK says whether the reply is positive.
func (r Reply) OK() bool { return r.Code/100 == 2 }

// String is the reply in one line.
func (r Reply) String() string {
	parts := []string{strconv.Itoa(r.Code)}
	if r.Enhanced != "" {
		parts = append(parts, r.Enhanced)
	}
	return strings.Join(append(parts, r.Text()), " ")
}

// Text is the reply without its codes.
func (r Reply) Text() string { return strings.Join(r.Lines, " ") }

// Error is a refusal, or what broke the session.
type Error struct {
	Stage Stage
	// Reply of the server; its Code is 0 where the session broke.
	Reply Reply
	// Err is what broke the session.
	Err error
}

// Error tells the stage and what the server said.
func (e *Error) Error() string {
	if e.Reply.Code != 0 {
		return fmt.Sprintf("%s: the server answered %s", e.Stage, e.Reply)
	}
	return fmt.Sprintf("%s: %v", e.Stage, e.Err)
}

// Unwrap gives what broke the session.
func (e *Error) Unwrap() error { return e.Err }

var enhancedForm = regexp.MustCompile(`^([245]\.\d{1,3}\.\d{1,3})(?: |$)`)

// read reads one reply of any number of lines.
func (c *Conn) read() (Reply, error) {
	var reply Reply
	for range maxLines {
		raw, err := c.r.ReadSlice('\n')
		if err != nil {
			return Reply{}, fmt.Errorf("reading a reply: %w", err)
		}
		line := strings.ToValidUTF8(strings.TrimRight(string(raw), "\r\n"), "?")
		if len(line) < 3 || (len(line) > 3 && line[3] != ' ' && line[3] != '-') {
			return Reply{}, fmt.Errorf("the server answered %.80q, which is no SMTP", line)
		}
		code, err := strconv.Atoi(line[:3])
		if err != nil || code < 200 || code > 599 || (reply.Code != 0 && reply.Code != code) {
			return Reply{}, fmt.Errorf("the server answered %.80q, which is no SMTP", line)
		}
		reply.Code = code
		text := ""
		if len(line) > 4 {
			text = line[4:]
		}
		if m := enhancedForm.FindStringSubmatch(text); m != nil && int(m[1][0]-'0') == code/100 {
			reply.Enhanced, text = m[1], strings.TrimSpace(text[len(m[1]):])
		}
		reply.Lines = append(reply.Lines, text)
		if len(line) == 3 || line[3] == ' ' {
			c.answered = true
			return reply, nil
		}
	}
	return Reply{}, fmt.Errorf("a reply of more than %d lines", maxLines)
}
