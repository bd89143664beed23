package config

import (
	"bytes"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// Diagnostics show lines of the files, and people write secrets into files.
// What is shown is therefore masked, on three grounds: values that are known
// to be secret, wherever they stand; whatever is given to an attribute with a
// name that sounds secret; and whatever is given to an attribute that no block
// and no plugin knows, since it may be a secret whose name is misspelt.

// secretName matches names of attributes whose values are masked, whatever a
// schema says.
var secretName = regexp.MustCompile(`(?i)secret|passw|passphrase|token|credential|authorization|cookie|(^|[_-])(key|dsn|pat|auth|pin)s?([_-]|$)|private|signature`)

// userInfo matches the password in a URL.
var userInfo = regexp.MustCompile(`://[^/?#\s"@:]*:([^\s"]+)@`)

// redactor knows every secret that the loader has seen: results of env() and
// file(), and values of settings that are secret.
func (l *loader) redactor() *secret.Redactor { return secret.NewRedactor(l.config.Secrets()...) }

// keepSecret notes a secret, so that no diagnostic shows it.
func (l *loader) keepSecret(text string) {
	if len(text) < secret.MinRedactSize {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.secrets[text] = true
}

// knownNames are the names of blocks, and of attributes that may be shown.
type knownNames struct {
	// blocks tells how many labels a block has.
	blocks map[string]int
	own    map[string]bool
	// plugin tells for names in config {}: true may be shown, false not.
	plugin map[string]bool
}

// newKnownNames returns the names of this package's own settings and blocks.
func newKnownNames() knownNames {
	known := knownNames{blocks: map[string]int{"locals": 0}, own: map[string]bool{}, plugin: map[string]bool{}}
	known.addBlock(root())
	return known
}

func (k knownNames) addBlock(b *block) {
	for i := range b.attributes {
		name, show := b.attributes[i].name, !b.attributes[i].secret()
		if was, ok := k.own[name]; !ok || was {
			k.own[name] = show // secret in one block is secret in all
		}
	}
	for _, nested := range b.blocks {
		k.blocks[nested.name] = len(nested.labels)
		k.addBlock(nested)
	}
}

// addSchema adds the names of a plugin's settings.
func (k knownNames) addSchema(s *transportv1.ConfigSchema) {
	for _, a := range s.GetAttributes() {
		if _, ok := k.plugin[a.GetName()]; !ok || a.GetSecret() {
			k.plugin[a.GetName()] = !a.GetSecret() // secret in one plugin is secret in all
		}
	}
	for _, b := range s.GetBlocks() {
		if _, ok := k.blocks[b.GetType()]; !ok {
			k.blocks[b.GetType()] = 0
		}
		k.addSchema(b.GetBody())
	}
}

// hides reports whether the value of an attribute of the top-level block is masked.
func (k knownNames) hides(name, topLevel string) bool {
	if k.own[name] {
		return false
	}
	show, known := k.plugin[name]
	if topLevel != "destination" || !known {
		return true
	}
	return !show
}

// maskedFile returns a file whose source has asterisks where secrets are, byte
// for byte, so that the ranges of diagnostics stay right.
func (l *loader) maskedFile(done map[string]*maskedFile, redactor *secret.Redactor, name string) *maskedFile {
	if file, ok := done[name]; ok {
		return file
	}
	original := l.files[name]
	if original == nil {
		return nil
	}
	file := &maskedFile{source: redactor.Mask(original.Bytes), heads: l.heads[name], known: l.known}
	for done := 0; done < len(original.Bytes); {
		piece := original.Bytes[done:]
		if l.inPieces[name] { // for the reason of parsePieces
			piece = nextPiece(piece)
		}
		maskTokens(piece, file.source[done:done+len(piece)], l.known)
		done += len(piece)
	}
	if l.broken[name] {
		maskLines(original.Bytes, file.source, l.known)
	}
	done[name] = file
	return file
}

// maskTokens masks by the syntax: values over many lines, heredocs, objects.
func maskTokens(source, masked []byte, known knownNames) {
	tokens, _ := hclsyntax.LexConfig(source, "", hcl.InitialPos)
	m := masker{tokens: tokens, masked: masked, known: known, hide: -1}
	for i, token := range tokens {
		m.next(i, token)
	}
}

type masker struct {
	tokens hclsyntax.Tokens
	masked []byte
	known  knownNames
	// block is the top-level block.
	block string
	// open tells for each open bracket whether it is the brace of a block.
	open []bool
	// hide is the depth of the masked attribute; -1 outside of one.
	hide int
	// calls are the depths of calls of env() and file(), whose arguments are only names.
	calls []int
}

func (m *masker) next(i int, token hclsyntax.Token) {
	switch token.Type {
	case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
		m.open = append(m.open, token.Type == hclsyntax.TokenOBrace && m.before(i, hclsyntax.TokenIdent, hclsyntax.TokenCQuote))
		if token.Type == hclsyntax.TokenOParen && i > 0 && slices.Contains([]string{"env", "file"}, string(m.tokens[i-1].Bytes)) {
			m.calls = append(m.calls, len(m.open))
		}
	case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenTemplateSeqEnd:
		if n := len(m.calls); n > 0 && m.calls[n-1] == len(m.open) {
			m.calls = m.calls[:n-1]
		}
		m.open = m.open[:max(0, len(m.open)-1)]
		if len(m.open) < m.hide {
			m.hide = -1
		}
	case hclsyntax.TokenNewline, hclsyntax.TokenComma:
		if len(m.open) <= m.hide && !m.before(i, hclsyntax.TokenEqual, hclsyntax.TokenColon) {
			m.hide = -1
		}
	case hclsyntax.TokenComment:
		// What is commented out is often an assignment.
		if text := string(token.Bytes); strings.ContainsAny(text, `"=`) || secretName.MatchString(text) {
			stars(m.masked[token.Range.Start.Byte:token.Range.End.Byte])
		}
		if len(m.open) <= m.hide {
			m.hide = -1 // a comment of one line ends with its newline
		}
	case hclsyntax.TokenEqual, hclsyntax.TokenColon:
		if m.hide < 0 && i > 0 && m.hides(m.nameBefore(i), token.Type == hclsyntax.TokenEqual) {
			m.hide = len(m.open)
		}
	case hclsyntax.TokenIdent:
		if len(m.open) == 0 && (i == 0 || m.before(i, hclsyntax.TokenNewline, hclsyntax.TokenComment)) {
			m.block = string(token.Bytes)
		}
	case hclsyntax.TokenQuotedLit, hclsyntax.TokenStringLit, hclsyntax.TokenInvalid, hclsyntax.TokenBadUTF8, hclsyntax.TokenNumberLit:
		part := m.masked[token.Range.Start.Byte:token.Range.End.Byte]
		if m.hide >= 0 && len(m.calls) == 0 || m.strayLabel(i) {
			stars(part)
		}
		for _, at := range userInfo.FindAllSubmatchIndex(part, -1) {
			stars(part[at[2]:at[3]])
		}
	}
}

// hides reports whether what follows a name is masked: the value of an
// attribute, or what belongs to a key of an object.
func (m *masker) hides(name string, assigned bool) bool {
	if inBlock := len(m.open) == 0 || m.open[len(m.open)-1]; inBlock && assigned {
		return m.known.hides(name, m.block)
	}
	return secretName.MatchString(name)
}

// strayLabel reports whether a text stands where a label would, at a block that has none.
func (m *masker) strayLabel(i int) bool {
	if i < 2 || m.tokens[i-1].Type != hclsyntax.TokenOQuote || !m.before(i-1, hclsyntax.TokenIdent, hclsyntax.TokenCQuote) {
		return false
	}
	return len(m.open) > 0 || m.known.blocks[m.block] == 0
}

// before reports whether the token before i has one of the types.
func (m *masker) before(i int, types ...hclsyntax.TokenType) bool {
	return i > 0 && slices.Contains(types, m.tokens[i-1].Type)
}

// nameBefore returns the attribute name or object key before token i.
func (m *masker) nameBefore(i int) string {
	if m.tokens[i-1].Type == hclsyntax.TokenCQuote && i >= 2 {
		i--
	}
	return string(m.tokens[i-1].Bytes)
}

// maskLines masks a file that does not parse: a missing quote turns values into
// code and code into values. What is shown is only punctuation, values of known
// attributes, heads of known blocks, and calls that hold only names.
func maskLines(source, masked []byte, known knownNames) {
	offset := 0
	for line := range bytes.Lines(source) {
		shown := make([]bool, len(line))
		for _, at := range harmless.FindAllIndex(line, -1) {
			show(shown, at)
		}
		for _, at := range assignment.FindAllSubmatchIndex(line, -1) {
			show(shown, at[2:4])
			if known.own[string(line[at[2]:at[3]])] {
				show(shown, at)
			}
		}
		if at := blockHead.FindSubmatchIndex(line); at != nil {
			if labels, ok := known.blocks[string(line[at[2]:at[3]])]; ok {
				show(shown, at[2:4])
				if labels > 0 && bytes.Count(line[at[4]:at[5]], []byte(`"`)) <= 2*labels {
					show(shown, at)
				}
			}
		}
		for i, c := range line {
			if !shown[i] && !bytes.ContainsRune([]byte(" \t\r\n\"(){}[],="), rune(c)) {
				masked[offset+i] = '*'
			}
		}
		offset += len(line)
	}
}

func show(shown []bool, at []int) {
	for i := at[0]; i < at[1]; i++ {
		shown[i] = true
	}
}

var (
	// assignment matches a name with its equals sign and a simple value, if it has one.
	assignment = regexp.MustCompile(`(?:^|[{\s])([\pL_][\pL\pN_-]*)\s*=\s*(?:"[^"\\$%]*"|[0-9.]+\b|true\b|false\b|null\b)?`)
	// blockHead matches a line that begins a block.
	blockHead = regexp.MustCompile(`^\s*([\pL_][\pL\pN_-]*)((?:\s+"[^"\\$%]*")*)\s*\{`)
	// harmless matches what may be shown wherever it is.
	harmless = regexp.MustCompile(`\b(?:env|file)\(\s*"[^"\\$%]*"\s*\)|\blocal\.[\pL\pN_-]+|<<-?[A-Z]{1,5}\b`)
)

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

// hiddenWords returns what is masked in the lines of a range: HCL quotes some
// of the source in the texts of its errors.
func hiddenWords(source, masked []byte, where hcl.Range) []string {
	if where.Start.Byte > len(source) || where.End.Byte > len(source) || len(source) != len(masked) {
		return nil
	}
	start := bytes.LastIndexByte(source[:where.Start.Byte], '\n') + 1
	end := where.End.Byte
	if n := bytes.IndexByte(source[end:], '\n'); n >= 0 {
		end += n
	} else {
		end = len(source)
	}
	var words []string
	for i := start; i < end; {
		from := i
		for i < end && source[i] != masked[i] {
			i++
		}
		if i == from {
			i++
			continue
		}
		run := string(source[from:i])
		words = append(words, run)
		words = append(words, strings.FieldsFunc(run, func(r rune) bool { return r < 0x80 && !isWord(byte(r)) })...)
	}
	return words
}

func stars(text []byte) {
	for i := range text {
		if text[i] != '\n' && text[i] != '\r' {
			text[i] = '*'
		}
	}
}
