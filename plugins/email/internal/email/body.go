package email

import (
	"strings"

	"golang.org/x/net/html"
)

// The default body: what was delivered, never the data.
const (
	defaultText = `A delivery has arrived.

Type:        {{.Type | default "-"}}
Delivery:    {{.DeliveryID}}
Item:        {{.ID}}
Accepted:    {{date "2006-01-02 15:04:05 MST" .CreatedAt}}
{{with .CorrelationID}}Correlation: {{.}}
{{end}}{{with .File.Name}}File:        {{.}}
{{end}}Size:        {{.File.Size}} bytes
SHA-256:     {{.File.SHA256}}
`
	defaultHTML = `<!DOCTYPE html><html><body style="font-family:sans-serif"><p>A delivery has arrived.</p><table cellpadding="4">
<tr><td>Type</td><td>{{.Type | default "-"}}</td></tr>
<tr><td>Delivery</td><td>{{.DeliveryID}}</td></tr>
<tr><td>Item</td><td>{{.ID}}</td></tr>
<tr><td>Accepted</td><td>{{date "2006-01-02 15:04:05 MST" .CreatedAt}}</td></tr>
{{with .CorrelationID}}<tr><td>Correlation</td><td>{{.}}</td></tr>
{{end}}{{with .File.Name}}<tr><td>File</td><td>{{.}}</td></tr>
{{end}}<tr><td>Size</td><td>{{.File.Size}} bytes</td></tr>
<tr><td>SHA-256</td><td><code>{{.File.SHA256}}</code></td></tr>
</table></body></html>
`
)

// textOf is the text of an HTML body, for readers that show no HTML.
func textOf(page string) string {
	var b strings.Builder
	hidden := 0
	href := ""
	tokens := html.NewTokenizer(strings.NewReader(page))
	for {
		kind := tokens.Next()
		if kind == html.ErrorToken {
			break
		}
		token := tokens.Token()
		switch token.Data {
		case "script", "style", "head", "title":
			if kind == html.StartTagToken {
				hidden++
			} else if kind == html.EndTagToken && hidden > 0 {
				hidden--
			}
			continue
		case "br", "p", "div", "tr", "li", "h1", "h2", "h3", "h4", "h5", "h6", "table", "ul", "ol", "hr":
			if kind != html.TextToken {
				b.WriteByte('\n')
			}
		case "td", "th":
			if kind == html.EndTagToken {
				b.WriteByte(' ')
			}
		case "a":
			if kind == html.EndTagToken && href != "" {
				b.WriteString(" (" + href + ")")
			}
			href = ""
			for _, a := range token.Attr {
				if a.Key == "href" && kind == html.StartTagToken {
					href = a.Val
				}
			}
		}
		if kind == html.TextToken && hidden == 0 {
			space := func(s string) bool { return strings.TrimSpace(s) != s }
			if space(token.Data) {
				b.WriteByte(' ')
			}
			b.WriteString(strings.Join(strings.Fields(token.Data), " "))
			if space(token.Data) {
				b.WriteByte(' ')
			}
		}
	}
	var lines []string
	for line := range strings.SplitSeq(b.String(), "\n") {
		line = strings.Join(strings.Fields(line), " ")
		if line != "" || len(lines) > 0 && lines[len(lines)-1] != "" {
			lines = append(lines, line)
		}
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n") + "\n"
}
