package email

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime"
	"path"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/deliveryd/deliveryd/sdk/nametemplate"
	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// file is something to attach. open may be called once for each time that the
// message is written.
type file struct {
	name, contentType string
	size              int64
	open              func() (io.Reader, error)
}

// inlineImage is an image of the HTML body.
type inlineImage struct {
	id, name, contentType string
	content               []byte
}

func checkContentType(text string) error {
	if text == "" {
		return nil
	}
	if media, _, err := mime.ParseMediaType(text); err != nil || !strings.Contains(media, "/") || !isASCII(text) || len(text) > 200 {
		return fmt.Errorf("%.100q is no MIME type", text)
	}
	return nil
}

// typeOf is the MIME type of a file, which a producer may have named.
func typeOf(given, name string) string {
	if given != "" && checkContentType(given) == nil && !strings.ContainsFunc(given, isControl) {
		return given
	}
	// What this depends on must not be the machine's mime.types.
	switch ext := strings.ToLower(path.Ext(name)); ext {
	case ".csv":
		return "text/csv"
	case ".txt", ".log":
		return "text/plain"
	case ".zip":
		return "application/zip"
	case ".gz":
		return "application/gzip"
	case ".xlsx":
		return "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
	case ".docx":
		return "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
	case ".eml":
		return "application/octet-stream" // message/rfc822 may not be base64
	default:
		if byExtension := mime.TypeByExtension(ext); byExtension != "" {
			return byExtension
		}
	}
	return "application/octet-stream"
}

// files lists what to attach beside an artifact.
func (e *email) files(d *transport.Delivery, v *View) (list []file, err error) {
	for i := range e.config.Attachments {
		f, ok, err := e.attachment(i, d, v)
		if err != nil {
			return nil, err
		}
		if ok {
			list = append(list, f)
		}
	}
	if e.config.AttachmentsField == "" {
		return list, nil
	}
	for i, one := range gjson.GetBytes(d.Data, e.config.AttachmentsField).Array() {
		name := nametemplate.Shorten(nametemplate.Replace(one.Get("name").String()), maxName)
		f := file{name: name, contentType: typeOf(one.Get("content_type").String(), name)}
		if err := f.fromBase64(one.Get("content").String()); err != nil {
			return nil, attachmentError("%s[%d]: %w", e.config.AttachmentsField, i, err)
		}
		list = append(list, f)
	}
	return list, nil
}

func attachmentError(format string, args ...any) error {
	return transport.Permanent(fmt.Errorf(format, args...), transport.WithCode("email.attachment"))
}

func (e *email) attachment(i int, d *transport.Delivery, v *View) (f file, ok bool, err error) {
	a := &e.config.Attachments[i]
	f.name = e.name(e.templates.attachments[i], d, v)
	f.contentType = typeOf(a.ContentType, f.name)
	if a.Field == "" {
		if a.Encoding == "base64" {
			return f, true, f.fromBase64(string(d.Data))
		}
		f.fromBytes(d.Data)
		return f, len(d.Data) > 0 || !a.Optional, nil
	}
	value := gjson.GetBytes(d.Data, a.Field)
	switch {
	case !value.Exists() && a.Optional:
		return f, false, nil
	case !value.Exists():
		return f, false, attachmentError("the data has no field %q to attach", a.Field)
	case a.Encoding == "base64":
		if err := f.fromBase64(value.String()); err != nil {
			return f, false, attachmentError("field %q: %w", a.Field, err)
		}
	case value.Type == gjson.String:
		f.fromBytes([]byte(value.Str))
	default:
		f.fromBytes([]byte(value.Raw))
	}
	return f, true, nil
}

func (f *file) fromBytes(content []byte) {
	f.size = int64(len(content))
	f.open = func() (io.Reader, error) { return bytes.NewReader(content), nil }
}

// fromBase64 checks text now, since nothing can be taken back later, and decodes
// it while it is sent.
func (f *file) fromBase64(text string) (err error) {
	f.open = func() (io.Reader, error) { return base64.NewDecoder(base64.StdEncoding, strings.NewReader(text)), nil }
	body, err := f.open()
	if err != nil {
		return err
	}
	if f.size, err = io.Copy(io.Discard, body); err != nil {
		return errors.New("the content is not base64")
	}
	return nil
}

// checkLimits is asked before anything is sent.
func (l *Limits) check(files []file) error {
	var total int64
	for _, f := range files {
		total += f.size
		if f.size > int64(l.Attachment) {
			return tooLarge("attachment %q has %d bytes; limits.attachment is %s", f.name, f.size, l.Attachment)
		}
	}
	switch {
	case len(files) > l.Attachments:
		return tooLarge("%d attachments; limits.attachments is %d", len(files), l.Attachments)
	case total > int64(l.Total):
		return tooLarge("the attachments have %d bytes together; limits.total is %s", total, l.Total)
	}
	return nil
}

func tooLarge(format string, args ...any) error {
	return transport.Permanent(fmt.Errorf(format, args...), transport.WithCode("email.too_large"))
}

// viewOf is what templates see of a delivery.
func viewOf(d *transport.Delivery) *View {
	v := &View{
		ID: d.ID, DeliveryID: d.DeliveryID, Type: d.Type, OrganizationID: d.OrganizationID, CorrelationID: d.CorrelationID,
		IdempotencyKey: d.IdempotencyKey, CreatedAt: d.CreatedAt, ContentType: d.ContentType, data: d.Data, metadata: d.Metadata,
	}
	if a := d.Artifact; a != nil {
		v.ContentType, v.digest = a.ContentType, a.SHA256
		v.File = File{Name: a.Name, ContentType: a.ContentType, SHA256: hex.EncodeToString(a.SHA256), Size: a.Size}
		return v
	}
	digest := sha256.Sum256(d.Data)
	v.digest = digest[:]
	v.File = File{ContentType: d.ContentType, SHA256: hex.EncodeToString(v.digest), Size: int64(len(d.Data))}
	return v
}

// decodeInline reads the configured images.
func decodeInline(list []Inline) (images []inlineImage, err error) {
	for i, one := range list {
		content, err := base64.StdEncoding.DecodeString(one.Content)
		if err != nil {
			return nil, schema.Errorf(schema.At("inline").Index(i).Attribute("content"), "not base64")
		}
		name := nametemplate.Replace(one.Name)
		images = append(images, inlineImage{one.ID, name, typeOf(one.ContentType, name), content})
	}
	return images, nil
}
