package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	"github.com/deliveryd/deliveryd/daemon/internal/setting"
)

// Redactor returns a redactor for every secret that the configuration holds:
// what came from env() and file(), and the values of secret settings, those of
// plugins once they are resolved. The daemon's log should use it.
func (c *Config) Redactor() *secret.Redactor { return c.inner.loader.redactor() }

// Setting is one setting of the effective configuration, as people may see it.
type Setting struct {
	// Path names it: block names, labels and attribute, such as
	// ["destination", "acme", "billing", "retry", "max"].
	Path []string `json:"path"`
	// Value is its value as an HCL expression; a secret shows as "***".
	Value string `json:"value"`
	// Source is where it was given, "file:line:column"; empty for a default.
	Source string `json:"source,omitempty"`
}

// emptyText is the value of a text that is not given.
const emptyText = `""`

// Settings returns the whole effective configuration in the order of the
// documentation, defaults filled in and secrets redacted.
func (c *Config) Settings() []Setting {
	var all []Setting
	inherited := c.sourcesOfDefaults()
	root().walk(c, nil, func(path []string, a *attribute, pointer any) {
		one := Setting{Path: append(path[:len(path):len(path)], a.name), Value: formatValue(a, pointer)}
		if where, ok := c.inner.loader.sources[pointer]; ok {
			one.Source = rangeOf(where).String()
		} else if path[0] == "destination" {
			one.Source = inherited[dotted(path[3:], a)]
		}
		if one.Value == emptyText && one.Source == "" {
			return // not given, and nothing stands for it
		}
		all = append(all, one)
	})
	redactor := c.Redactor()
	for _, d := range c.Destinations {
		all = append(all, d.pluginSettings(redactor)...)
	}
	slices.SortStableFunc(all, func(a, b Setting) int { return strings.Compare(group(a), group(b)) })
	return all
}

// sourcesOfDefaults says where the defaults block gives what a destination inherits.
func (c *Config) sourcesOfDefaults() map[string]string {
	all := map[string]string{}
	defaultsBlock().walk(&c.Defaults, nil, func(path []string, a *attribute, pointer any) {
		if where, ok := c.inner.loader.sources[pointer]; ok {
			all[dotted(path, a)] = rangeOf(where).String()
		}
	})
	return all
}

// group keeps what belongs to one destination together; the rest stays in order.
func group(s Setting) string {
	if s.Path[0] == "destination" && len(s.Path) > 2 {
		return "destination\x00" + s.Path[1] + "\x00" + s.Path[2]
	}
	return ""
}

// pluginSettings returns the content of a destination's config {}.
func (d *Destination) pluginSettings(redactor *secret.Redactor) []Setting {
	path := []string{"destination", d.Organization, d.Label, "config"}
	if !d.Resolved {
		return nil
	}
	shown, err := secret.RedactPaths(d.ConfigJSON, d.SecretPaths, nil, "")
	if err != nil {
		return nil
	}
	shown = userInfo.ReplaceAllFunc(redactor.JSON(shown), func(url []byte) []byte {
		head, _, _ := bytes.Cut(url[len("://"):], []byte(":"))
		return slices.Concat([]byte("://"), head, []byte(":"+secret.Redacted+"@"))
	})
	var object map[string]json.RawMessage
	if err := json.Unmarshal(shown, &object); err != nil {
		return nil
	}
	var all []Setting
	for _, name := range slices.Sorted(maps.Keys(object)) {
		source := ""
		if where, ok := d.places[name]; ok {
			source = rangeOf(where).String()
		}
		all = append(all, Setting{Path: append(path[:4:4], name), Value: hclOfJSON(object[name]), Source: source})
	}
	return all
}

func hclOfJSON(text json.RawMessage) string {
	var value ctyjson.SimpleJSONValue
	if err := json.Unmarshal(text, &value); err != nil {
		return string(text)
	}
	return string(hclwrite.TokensForValue(value.Value).Bytes())
}

// formatValue returns the value of a setting as an HCL expression.
func formatValue(a *attribute, pointer any) string {
	switch value := pointer.(type) {
	case *secret.Value:
		return quote(value.String())
	case *secret.Key:
		return quote(value.String())
	case *[]secret.Key:
		texts := make([]string, len(*value))
		for i, key := range *value {
			texts[i] = quote(key.String())
		}
		return "[" + strings.Join(texts, ", ") + "]"
	case *[]string:
		texts := make([]string, len(*value))
		for i, text := range *value {
			texts[i] = quote(text)
		}
		return "[" + strings.Join(texts, ", ") + "]"
	case *time.Duration:
		return quote(formatDuration(*value))
	case *setting.Duration:
		if a.hasZero && int(*value) == a.zero {
			return quote(formatDuration(0))
		}
		return quote(formatDuration(value.Std()))
	case *Size:
		return quote(value.String())
	case *int64:
		return quote(Size(*value).String())
	case *bool:
		return strconv.FormatBool(*value)
	case *int:
		if a.hasZero && *value == a.zero {
			return "0"
		}
		return strconv.Itoa(*value)
	case *float64:
		return strconv.FormatFloat(*value, 'f', -1, 64)
	default:
		return quote(reflect.ValueOf(pointer).Elem().String())
	}
}

func quote(text string) string { return string(hclwrite.TokensForValue(cty.StringVal(text)).Bytes()) }

// WriteJSON writes the effective configuration as a JSON list of settings.
func (c *Config) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(c.Settings()); err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	return nil
}

// WriteHCL writes the effective configuration as HCL, each setting with a
// comment that says where it was given. It is for reading: it holds no secret.
func (c *Config) WriteHCL(w io.Writer) error {
	var text bytes.Buffer
	var open []string // blocks that are open, as they are written
	for _, one := range c.Settings() {
		blocks := blocksOf(one.Path)
		same := 0
		for same < min(len(open), len(blocks)) && open[same] == blocks[same] {
			same++
		}
		for range open[same:] {
			text.WriteString("}\n")
		}
		if same == 0 && text.Len() > 0 {
			text.WriteString("\n")
		}
		for _, block := range blocks[same:] {
			text.WriteString(block + " {\n")
		}
		open = blocks
		source := one.Source
		if source == "" {
			source = "default"
		}
		fmt.Fprintf(&text, "%s = %s # %s\n", one.Path[len(one.Path)-1], one.Value, source)
	}
	for range open {
		text.WriteString("}\n")
	}
	if _, err := w.Write(hclwrite.Format(text.Bytes())); err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	return nil
}

// blocksOf returns how the blocks around a setting are written.
func blocksOf(path []string) []string {
	labels := map[string]int{"plugin": 1, "api_key": 1, "destination": 2, "alerts": 1, "maintenance": 1}
	var blocks []string
	for path = path[:len(path)-1]; len(path) > 0; {
		head := path[0]
		n := labels[head]
		for _, label := range path[1 : 1+n] {
			head += " " + quote(label)
		}
		blocks, path = append(blocks, head), path[1+n:]
	}
	return blocks
}
