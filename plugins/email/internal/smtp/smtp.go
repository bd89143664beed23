// Package smtp is the client of an SMTP submission server (RFC 5321): one
// connection after the other step by step, and a pool of them.
//
// The client of wneessen/go-mail was the alternative; its SASL mechanisms are
// used here. It sends one command per round trip, forgets which recipients were
// taken when one is refused, asks for SMTPUTF8 whenever a server has it (such
// mail bounces at the next server that lacks it), and does not say whether the
// end of the data had left when a connection broke. Those are what a delivery
// depends on.
//
// The package must never send a message twice, and never trust the server: each
// reply is bounded, and every wait ends with its context.
package smtp

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/wneessen/go-mail/smtp"
)

// Security is how a connection is protected.
type Security string

// Ways of protecting a connection.
const (
	StartTLS Security = "starttls" // required: a server without it is refused
	Implicit Security = "implicit"
	None     Security = "none"
)

// Config says how to connect.
type Config struct {
	// Host and Port of the server. Required.
	Host string
	Port int
	// Security of the connection. Required.
	Security Security
	// TLS settings; ServerName defaults to Host. Required unless Security is None.
	TLS *tls.Config
	// Hello is the name in EHLO. Required.
	Hello string
	// Dial connects. Required.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Auth chooses a mechanism of those that the server offers; nil means none.
	Auth func(ctx context.Context, offered []string) (smtp.Auth, error)
}

// Conn is a connection to a server. It is used by one goroutine at a time.
type Conn struct {
	config     *Config
	conn       net.Conn
	r          *bufio.Reader
	w          *bufio.Writer
	extensions map[string]string
	secured    bool
	sent       int  // messages
	broken     bool // what the server expects next is unknown
	answered   bool // a reply was read since the last use began
	lastUse    time.Time
}

// Connect dials and reads the greeting. With Implicit security the handshake is
// left to Secure, which greets then.
func Connect(ctx context.Context, config *Config) (*Conn, error) {
	raw, err := config.Dial(ctx, "tcp", net.JoinHostPort(config.Host, strconv.Itoa(config.Port)))
	if err != nil {
		return nil, err
	}
	c := &Conn{config: config}
	c.attach(raw)
	if config.Security == Implicit {
		return c, nil
	}
	defer c.bound(ctx)()
	if err := c.greet(); err != nil {
		c.abort()
		return nil, cause(ctx, err)
	}
	return c, nil
}

// Dial connects, secures and authenticates.
func Dial(ctx context.Context, config *Config) (*Conn, error) {
	c, err := Connect(ctx, config)
	if err != nil {
		return nil, err
	}
	if err = c.Secure(ctx); err == nil {
		err = c.Authenticate(ctx)
	}
	if err != nil {
		c.abort()
		return nil, err
	}
	return c, nil
}

func (c *Conn) attach(conn net.Conn) {
	c.conn, c.r, c.w = conn, bufio.NewReaderSize(conn, maxLine), bufio.NewWriterSize(conn, 16<<10)
}

// bound ends every read and write of the connection with ctx. A connection whose
// ctx ended is not used again: the end may come to it late, in the middle of the
// next message.
func (c *Conn) bound(ctx context.Context) (release func()) {
	conn := c.conn
	_ = conn.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return func() { c.broken = !stop() || c.broken }
}

// cause tells that ctx ended, which the network reports as a timeout.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return err
}

func (c *Conn) greet() error {
	if _, err := c.expect(StageConnect, 220); err != nil {
		return err
	}
	return c.hello()
}

func (c *Conn) hello() error {
	reply, err := c.command(StageConnect, 250, "EHLO "+c.config.Hello)
	if err != nil {
		return err
	}
	c.extensions = map[string]string{}
	for _, line := range reply.Lines[1:] {
		name, parameter, _ := strings.Cut(line, " ")
		c.extensions[strings.ToUpper(name)] = parameter
	}
	return nil
}

// Extension says whether the server has one, and its parameter.
func (c *Conn) Extension(name string) (parameter string, ok bool) {
	parameter, ok = c.extensions[name]
	return parameter, ok
}

// State is that of TLS; false where the connection is not secured.
func (c *Conn) State() (tls.ConnectionState, bool) {
	secured, ok := c.conn.(*tls.Conn)
	if !ok {
		return tls.ConnectionState{}, false
	}
	return secured.ConnectionState(), true
}

// Secure does what Config.Security asks for.
func (c *Conn) Secure(ctx context.Context) error {
	if c.config.Security == None {
		return nil
	}
	defer c.bound(ctx)()
	if c.config.Security == StartTLS {
		if _, ok := c.Extension("STARTTLS"); !ok {
			return &Error{Stage: StageTLS, Reply: Reply{}, Err: ErrNoStartTLS}
		}
		if _, err := c.command(StageTLS, 220, "STARTTLS"); err != nil {
			return cause(ctx, err)
		}
		if c.r.Buffered() > 0 {
			return &Error{Stage: StageTLS, Err: ErrInjected} // before the handshake nobody vouches for it
		}
	}
	config := c.config.TLS.Clone()
	if config.ServerName == "" {
		config.ServerName = c.config.Host
	}
	secured := tls.Client(c.conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return &Error{Stage: StageTLS, Err: err}
	}
	c.attach(secured)
	c.secured = true
	if c.config.Security == Implicit {
		return cause(ctx, c.greet())
	}
	return cause(ctx, c.hello()) // what was said before the handshake does not count
}

// Reset ends a transaction that was begun.
func (c *Conn) Reset(ctx context.Context) error {
	defer c.bound(ctx)()
	_, err := c.command(StageMail, 250, "RSET")
	return cause(ctx, err)
}

// Mail begins a transaction and sends nothing more; for tests of a connection.
func (c *Conn) Mail(ctx context.Context, from string) error {
	defer c.bound(ctx)()
	_, err := c.command(StageMail, 250, "MAIL FROM:<"+from+">")
	return cause(ctx, err)
}

// Close says goodbye and does not wait for the answer.
func (c *Conn) Close() {
	if !c.broken {
		_ = c.conn.SetDeadline(time.Now().Add(time.Second))
		_, _ = c.w.WriteString("QUIT\r\n")
		_ = c.w.Flush()
	}
	_ = c.conn.Close()
}

// abort closes without a word: whatever was begun is void.
func (c *Conn) abort() {
	c.broken = true
	if secured, ok := c.conn.(*tls.Conn); ok {
		_ = secured.NetConn().Close() // Close would wait to write its alert
		return
	}
	_ = c.conn.Close()
}

func (c *Conn) command(stage Stage, code int, line string) (Reply, error) {
	if err := c.put(line); err != nil {
		return Reply{}, err
	}
	if err := c.w.Flush(); err != nil {
		c.broken = true
		return Reply{}, &Error{Stage: stage, Err: err}
	}
	return c.expect(stage, code)
}

// put writes one command, which can hold no other.
func (c *Conn) put(line string) error {
	if strings.ContainsAny(line, "\r\n\x00") {
		return fmt.Errorf("command %.40q holds a line break", line)
	}
	_, err := c.w.WriteString(line + "\r\n")
	return err
}

func (c *Conn) expect(stage Stage, code int) (Reply, error) {
	reply, err := c.read()
	if err != nil {
		c.broken = true
		return Reply{}, &Error{Stage: stage, Err: err}
	}
	if reply.Code == 421 {
		c.broken = true // the server closes the connection
	}
	if reply.Code != code {
		return reply, &Error{Stage: stage, Reply: reply}
	}
	return reply, nil
}
