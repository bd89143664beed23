package sftp

import (
	"errors"
	"strings"

	"github.com/deliveryd/deliveryd/sdk/nametemplate"
	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// maxName bounds a file name; the file systems of servers take 255 bytes, and
// the temporary name is longer than the final one.
const maxName = 220

// templates are those of one destination.
type templates struct{ directory, filename *nametemplate.Template }

func parseTemplates(c *Config) (t templates, findings transport.Diagnostics) {
	parse := func(attribute, text string) *nametemplate.Template {
		template, err := nametemplate.Parse(text)
		if attribute == "filename" && (text == "." || strings.Contains(text, "/")) {
			err = errors.New("a file name holds no slash, and is not \".\": the directory has an attribute of its own")
		}
		if err != nil {
			findings = append(findings, schema.Errorf(schema.At(attribute), "%v", err).WithDetail("Placeholders: %s.", strings.Join(nametemplate.Placeholders(), " ")))
		}
		return template
	}
	return templates{parse("directory", c.Directory), parse("filename", c.Filename)}, findings
}

// expand makes the names of a file and of its directory.
func (t templates) expand(of nametemplate.Source) (directory, name string) {
	return t.directory.Expand(of, nametemplate.Replace), nametemplate.Shorten(t.filename.Expand(of, nametemplate.Replace), maxName)
}

// own reports whether nobody but one delivery writes under such a name.
func (t templates) own() bool { return t.directory.Unique() || t.filename.Unique() }
