package email

import (
	"errors"
	"strings"

	"github.com/deliveryd/deliveryd/sdk/nametemplate"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// maxName bounds the name of an attachment, bytes: file systems take 255, and mail
// programs put a number or an ending of their own behind it.
const maxName = 200

// parseName reads the template of an attachment's name.
func parseName(text string) (*nametemplate.Template, error) {
	if strings.Contains(text, "/") || strings.Trim(text, ". ") == "" {
		return nil, errors.New("want a file name without a directory")
	}
	return nametemplate.Parse(text)
}

func (e *email) name(t *nametemplate.Template, d *transport.Delivery, v *View) string {
	source := nametemplate.Source{Delivery: d, Destination: e.label, SHA256: v.digest}
	return nametemplate.Shorten(t.Expand(source, nametemplate.Replace), maxName)
}
