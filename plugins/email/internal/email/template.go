package email

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"io"
	"strings"
	texttemplate "text/template"
	"text/template/parse"
	"time"

	"github.com/deliveryd/deliveryd/sdk/nametemplate"
	"github.com/deliveryd/deliveryd/sdk/schema"
)

// Bounds on what a template may do: one process serves many organizations, and
// the template of one must not stop the mail of the others.
const (
	maxRendered = 2 << 20
	maxValue    = 1 << 20
	maxSteps    = 1 << 17 // actions and rounds of ranges
	maxTime     = 5 * time.Second
)

var (
	errTooMuch  = errors.New("the template makes more than 2 MiB")
	errTooLong  = errors.New("a value of more than 1 MiB")
	errTooOften = errors.New("the templates take more than 131,072 steps")
	errTooSlow  = errors.New("the templates take more than 5 s")
)

type executor interface {
	Execute(w io.Writer, data any) error
}

// templates of a destination; nil ones are not configured.
type templates struct {
	subject, text, html, unsubscribe executor

	artifact    *nametemplate.Template
	attachments []*nametemplate.Template
}

// parseTemplates finds the mistakes that `config validate` can show.
func parseTemplates(c *Config) (*templates, *schema.Diagnostic) {
	var finding *schema.Diagnostic
	get := func(at schema.Path, text string, html bool) executor {
		if text == "" || finding != nil {
			return nil
		}
		t, err := parseTemplate(at.String(), text, html)
		if err != nil {
			d := schema.Errorf(at, "%s", strings.TrimPrefix(err.Error(), "template: "))
			finding = &d
			return nil
		}
		return t
	}
	name := func(at schema.Path, text string) *nametemplate.Template {
		if finding != nil {
			return nil
		}
		t, err := parseName(text)
		if err != nil {
			d := schema.Errorf(at, "%v", err).WithDetail("Placeholders: %s.", strings.Join(nametemplate.Placeholders(), " "))
			finding = &d
		}
		return t
	}
	t := &templates{
		subject: get(schema.At("subject"), c.Subject, false), text: get(schema.At("text"), c.Text, false),
		html: get(schema.At("html"), c.HTML, true), artifact: name(schema.At("artifact_name"), c.ArtifactName),
	}
	for i, a := range c.Attachments {
		t.attachments = append(t.attachments, name(schema.At("attachment").Index(i).Attribute("name"), a.Name))
	}
	if c.ListUnsubscribe != nil {
		t.unsubscribe = get(schema.At("list_unsubscribe", "url"), c.ListUnsubscribe.URL, false)
	}
	return t, finding
}

func parseTemplate(name, text string, html bool) (executor, error) {
	if html {
		t, err := htmltemplate.New(name).Funcs(functions()).Option("missingkey=error").Parse(text)
		if err != nil {
			return nil, err
		}
		if len(t.Templates()) > 1 {
			return nil, errDefine
		}
		if err := bounded(t.Tree); err != nil {
			return nil, err
		}
		// html/template finds mistakes of context when it first executes. The
		// error of executing without data is none of these.
		var escape *htmltemplate.Error
		if err := t.Execute(io.Discard, struct{}{}); errors.As(err, &escape) {
			return nil, escape
		}
		return t, nil
	}
	t, err := texttemplate.New(name).Funcs(functions()).Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, err
	}
	if len(t.Templates()) > 1 {
		return nil, errDefine
	}
	return t, bounded(t.Tree)
}

var errDefine = errors.New("define, block and template are not supported: a template is one piece")

// bounded refuses what could recurse and makes every action and every round of a
// range count its steps.
func bounded(tree *parse.Tree) error {
	if tree == nil || tree.Root == nil {
		return nil
	}
	counter, err := texttemplate.New("").Parse("{{$step := $.Step}}")
	if err != nil {
		return err
	}
	return boundList(tree.Root, counter.Root.Nodes[0])
}

func boundList(list *parse.ListNode, step parse.Node) error {
	if list == nil {
		return nil
	}
	counted := make([]parse.Node, 0, 2*len(list.Nodes))
	for _, node := range list.Nodes {
		var err error
		switch n := node.(type) {
		case *parse.TemplateNode:
			err = errDefine
		case *parse.IfNode:
			err = errors.Join(boundList(n.List, step), boundList(n.ElseList, step))
		case *parse.WithNode:
			err = errors.Join(boundList(n.List, step), boundList(n.ElseList, step))
		case *parse.RangeNode:
			err = errors.Join(boundList(n.List, step), boundList(n.ElseList, step))
			n.List.Nodes = append([]parse.Node{step.Copy()}, n.List.Nodes...)
		}
		if err != nil {
			return err
		}
		if node.Type() != parse.NodeText {
			counted = append(counted, step.Copy())
		}
		counted = append(counted, node)
	}
	list.Nodes = counted
	return nil
}

// render executes a template within its bounds, which all templates of a message
// share.
func render(t executor, v *View) (string, error) {
	w := &boundedBuffer{}
	if v.started.IsZero() {
		v.started = time.Now()
	}
	if err := t.Execute(w, v); err != nil {
		return "", err
	}
	return w.String(), nil
}

type boundedBuffer struct{ bytes.Buffer }

// Write refuses what is beyond the bound.
func (b *boundedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxRendered {
		return 0, errTooMuch
	}
	return b.Buffer.Write(p)
}

// View is what a template sees. Its exported fields and methods are documented
// in docs/email.md.
type View struct {
	ID, DeliveryID, Type, OrganizationID, CorrelationID, IdempotencyKey string
	CreatedAt                                                           time.Time
	ContentType                                                         string
	File                                                                File

	data, metadata []byte
	digest         []byte
	parsed         map[string]any
	steps          int
	started        time.Time
}

// File is what was delivered: an artifact, or the data.
type File struct {
	Name, ContentType, SHA256 string
	Size                      int64
}

// Data is the payload's data: what the JSON holds, or text of another type.
func (v *View) Data() (any, error) { return v.parse("data", v.data) }

// Metadata is the payload's metadata.
func (v *View) Metadata() (any, error) { return v.parse("metadata", v.metadata) }

// Step counts actions and rounds of ranges; templates call it unseen.
func (v *View) Step() (string, error) {
	if v.steps++; v.steps > maxSteps {
		return "", errTooOften
	}
	if time.Since(v.started) > maxTime {
		return "", errTooSlow
	}
	return "", nil
}

func (v *View) parse(name string, text []byte) (any, error) {
	if value, ok := v.parsed[name]; ok {
		return value, nil
	}
	if len(text) == 0 {
		return map[string]any{}, nil
	}
	var value any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		if name == "data" && !strings.Contains(v.ContentType, "json") {
			return string(text), nil
		}
		return nil, fmt.Errorf("the %s is not JSON", name)
	}
	if v.parsed == nil {
		v.parsed = map[string]any{}
	}
	v.parsed[name] = value
	return value, nil
}
