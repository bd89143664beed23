package email

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/mail"
	"net/textproto"
	"os"
	"slices"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"

	"github.com/deliveryd/deliveryd/plugins/email/internal/intake"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// message is a composed message: its header and body in memory, as go-mail
// wrote them, and attachments that are encoded while they are sent. go-mail
// buffers every attachment in its encoded form, so it writes none.
type message struct {
	signature   string // header field of DKIM, or empty
	header      []byte // of the message, without the fields that describe its content
	content     []byte // header fields and body of the first part
	boundary    string // of the parts; empty without attachments
	attachments []file
	utf8        bool

	spooled *os.File // all of it, if it waits on disk
	length  int64    // of spooled
	release func()
}

// part is the header of one attachment.
func (f *file) part() string {
	disposition := mime.FormatMediaType("attachment", map[string]string{"filename": f.name})
	return "Content-Type: " + f.contentType + "\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: " + disposition + "\r\n\r\n"
}

// size is roughly that of the whole message.
func (m *message) size() int64 {
	if m.spooled != nil {
		return m.length
	}
	n := int64(len(m.signature) + len(m.header) + len(m.content) + 256)
	for _, f := range m.attachments {
		n += f.size*78/57 + int64(len(f.part())+len(m.boundary)+16)
	}
	return n
}

// settle lets a large message wait for its connection on disk, when others fill the
// memory that there is for them.
func (m *message) settle(in *intake.Intake) error {
	release, ok := in.Keep(m.size())
	if ok {
		m.release = release
		return nil
	}
	spooled, err := spool(m.write)
	if err != nil {
		return err
	}
	m.spooled = spooled
	if m.length, err = spooled.Seek(0, io.SeekEnd); err != nil {
		m.close()
		return err
	}
	m.signature, m.header, m.content, m.attachments = "", nil, nil, nil
	return nil
}

// close frees what the message holds.
func (m *message) close() {
	if m.spooled != nil {
		_ = m.spooled.Close()
	}
	if m.release != nil {
		m.release()
	}
}

// write writes the message.
func (m *message) write(w io.Writer) error {
	if m.spooled != nil {
		_, err := io.Copy(w, io.NewSectionReader(m.spooled, 0, m.length))
		return err
	}
	if _, err := io.WriteString(w, m.signature); err != nil {
		return err
	}
	if _, err := w.Write(m.header); err != nil {
		return err
	}
	if m.boundary == "" {
		_, err := w.Write(m.content)
		return err
	}
	if _, err := fmt.Fprintf(w, "Content-Type: multipart/mixed;\r\n boundary=\"%s\"\r\n\r\n--%s\r\n%s", m.boundary, m.boundary, m.content); err != nil {
		return err
	}
	for i := range m.attachments {
		if err := m.attach(w, &m.attachments[i]); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "\r\n--%s--\r\n", m.boundary)
	return err
}

// attach encodes one attachment, 57 bytes a line (RFC 2045), in pieces.
func (m *message) attach(w io.Writer, f *file) error {
	if _, err := io.WriteString(w, "\r\n--"+m.boundary+"\r\n"+f.part()); err != nil {
		return err
	}
	body, err := f.open()
	if err != nil {
		return err
	}
	const line, lines = 57, 128
	raw := make([]byte, line*lines)
	encoded := make([]byte, 0, lines*78)
	for left := f.size; ; {
		n, err := io.ReadFull(body, raw)
		left -= int64(n)
		encoded = encoded[:0]
		for rest := raw[:n]; len(rest) > 0; rest = rest[min(line, len(rest)):] {
			encoded = base64.StdEncoding.AppendEncode(encoded, rest[:min(line, len(rest))])
			encoded = append(encoded, '\r', '\n')
		}
		if _, err := w.Write(encoded); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			if left != 0 { // whoever was cut may call that an unexpected end, too
				return fmt.Errorf("attachment %q has %d bytes less than it should: %w", f.name, left, err)
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading attachment %q: %w", f.name, err)
		}
	}
}

// compose makes the message of a delivery.
func (e *email) compose(d *transport.Delivery, v *View, to *recipients, files []file) (*message, error) {
	m := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	utf8 := e.address(m, to)
	subject, err := e.text("subject", e.templates.subject, v)
	if err != nil {
		return nil, err
	}
	m.Subject(subject)
	// The date is that of the attempt: filters distrust what is hours old. What
	// a retry is recognised by is the Message-ID.
	m.SetDateWithValue(time.Now())
	m.SetMessageIDWithValue(messageID(d.ID, e.from.Address))
	if e.config.Provider == providerResend {
		m.SetGenHeader("Resend-Idempotency-Key", oneLine(d.ID, 200)) // it drops a second copy by this
	}
	for _, name := range slices.Sorted(maps.Keys(e.config.Headers)) {
		m.SetGenHeader(gomail.Header(name), e.config.Headers[name])
	}
	m.SetGenHeader("X-Delivery-ID", oneLine(d.DeliveryID, 200))
	if d.CorrelationID != "" {
		m.SetGenHeader("X-Correlation-ID", oneLine(d.CorrelationID, 200))
	}
	if err := e.unsubscribe(m, v); err != nil {
		return nil, err
	}
	if err := e.body(m, v); err != nil {
		return nil, err
	}
	var written bytes.Buffer
	if _, err := m.WriteTo(&written); err != nil {
		return nil, transport.Permanent(fmt.Errorf("composing the message: %w", err), transport.WithCode("email.compose"))
	}
	header, content, err := split(written.Bytes(), len(files) == 0)
	if err != nil {
		return nil, err
	}
	composed := &message{header: header, content: content, attachments: files, utf8: utf8}
	if len(files) > 0 {
		composed.boundary = "mixed_" + boundaryOf(d.ID)
	}
	return composed, nil
}

// address writes the address fields and says whether they need SMTPUTF8.
func (e *email) address(m *gomail.Msg, to *recipients) bool {
	utf8 := !isASCII(e.from.Address)
	m.FromMailAddress(e.from)
	for _, group := range []struct {
		set  func(...*mail.Address)
		list []*mail.Address
	}{{m.ToMailAddress, to.to}, {m.CcMailAddress, to.cc}, {m.ReplyToMailAddress, e.replyTo}} {
		for _, a := range group.list {
			utf8 = utf8 || !isASCII(a.Address)
		}
		if len(group.list) > 0 {
			group.set(group.list...)
		}
	}
	if len(to.to)+len(to.cc) == 0 {
		m.SetGenHeaderPreformatted("To", "undisclosed-recipients:;")
	}
	return utf8
}

func (e *email) unsubscribe(m *gomail.Msg, v *View) error {
	l := e.config.ListUnsubscribe
	if l == nil {
		return nil
	}
	var uris []string
	if e.templates.unsubscribe != nil {
		url, err := e.text("list_unsubscribe.url", e.templates.unsubscribe, v)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(url, "https://") || strings.ContainsAny(url, " <>,\"") || !isASCII(url) || len(url) > 900 {
			return transport.ConfigError(fmt.Errorf("list_unsubscribe.url makes %.100q: want an https URL", url), transport.WithCode("email.template"))
		}
		uris = append(uris, "<"+url+">")
	}
	if l.Mailto != "" {
		uris = append(uris, "<mailto:"+l.Mailto+">")
	}
	m.SetGenHeaderPreformatted("List-Unsubscribe", strings.Join(uris, ",\r\n "))
	if l.OneClick {
		m.SetListUnsubscribePost()
	}
	return nil
}

// body writes the text, the HTML and its images.
func (e *email) body(m *gomail.Msg, v *View) error {
	text, html, err := e.bodies(v)
	if err != nil {
		return err
	}
	m.SetBodyString(gomail.TypeTextPlain, text)
	if html == "" {
		return nil
	}
	m.AddAlternativeString(gomail.TypeTextHTML, html)
	for i := range e.inline {
		image := &e.inline[i]
		if err := m.EmbedReader(image.name, bytes.NewReader(image.content), gomail.WithFileContentID("<"+image.id+">"), gomail.WithFileContentType(gomail.ContentType(image.contentType))); err != nil {
			return transport.ConfigError(fmt.Errorf("inline image %s: %w", image.id, err))
		}
	}
	return nil
}

func (e *email) bodies(v *View) (text, html string, err error) {
	if e.templates.text == nil && e.templates.html == nil {
		if text, err = render(e.defaults.text, v); err == nil {
			html, err = render(e.defaults.html, v)
		}
		return text, html, templateError("default body", err)
	}
	if e.templates.html != nil {
		if html, err = render(e.templates.html, v); err != nil {
			return "", "", templateError("html", err)
		}
	}
	if e.templates.text == nil {
		return textOf(html), html, nil
	}
	text, err = render(e.templates.text, v)
	return text, html, templateError("text", err)
}

// text renders a template whose result is one line.
func (e *email) text(name string, t executor, v *View) (string, error) {
	line, err := render(t, v)
	return oneLine(line, 900), templateError(name, err)
}

func templateError(name string, err error) error {
	if err == nil {
		return nil
	}
	failure := fmt.Errorf("template %s: %s", name, strings.TrimPrefix(err.Error(), "template: "))
	if errors.Is(err, errTooSlow) { // perhaps the machine is
		return transport.Transient(failure, transport.WithCode("email.template_slow"))
	}
	return transport.ConfigError(failure, transport.WithCode("email.template"))
}

// oneLine makes text fit for a header: control characters become spaces.
func oneLine(text string, limit int) string {
	text = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if isControl(r) || r == '\u2028' || r == '\u2029' || r == '\u0085' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))), " ")
	for len(text) > limit {
		runes := []rune(text)
		text = string(runes[:len(runes)-1-(len(text)-limit)/4])
	}
	return text
}

// messageID is the same for each attempt of a delivery to a destination.
func messageID(id, from string) string {
	return strings.Map(func(r rune) rune {
		if r > ' ' && r < 0x7f && !strings.ContainsRune("<>()[]\\,;:\"@", r) {
			return r
		}
		return '_'
	}, id) + "@" + domainOf(from)
}

func boundaryOf(id string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, id[:min(len(id), 40)]) + "_=_" // no base64 or quoted-printable line holds "=_"
}

// split separates what describes the content from the rest of the header.
func split(text []byte, whole bool) (header, content []byte, err error) {
	head, body, found := bytes.Cut(text, []byte("\r\n\r\n"))
	if !found {
		return nil, nil, transport.Permanent(errors.New("the composed message has no body"), transport.WithCode("email.compose"))
	}
	if whole {
		return append(head, '\r', '\n'), append([]byte("\r\n"), body...), nil
	}
	describes := false
	for line := range bytes.Lines(append(head, '\r', '\n')) {
		if line[0] != ' ' && line[0] != '\t' {
			name, _, _ := strings.Cut(string(line), ":")
			describes = strings.HasPrefix(textproto.CanonicalMIMEHeaderKey(name), "Content-")
		}
		if describes {
			content = append(content, line...)
		} else {
			header = append(header, line...)
		}
	}
	return header, slices.Concat(content, []byte("\r\n"), body), nil
}
