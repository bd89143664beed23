package config

import (
	"regexp"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
)

// secretName matches names of attributes whose literal values are hidden in
// snippets. The schema of a plugin says better what is secret, but is unknown
// as long as the file has errors.
var secretName = regexp.MustCompile(`(?i)secret|passw|passphrase|token|credential|authorization|cookie|(^|[_-])(key|dsn|pat|auth|pin)s?([_-]|$)|private|signature`)

// userInfo matches the password in a URL.
var userInfo = regexp.MustCompile(`://[^/?#\s"@:]*:([^\s"@]+)@`)

// redactor knows every secret that the loader has seen: results of env() and
// file(), and values of settings that are secret.
func (l *loader) redactor() *secret.Redactor {
	l.mu.Lock()
	defer l.mu.Unlock()
	secrets := make([]string, 0, len(l.secrets))
	for text := range l.secrets {
		if !l.public[text] {
			secrets = append(secrets, text)
		}
	}
	return secret.NewRedactor(secrets...)
}

// keepSecret notes a secret, so that no diagnostic shows it.
func (l *loader) keepSecret(text string) {
	if len(text) < secret.MinRedactSize {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.secrets[text] = true
}

// maskedFile returns a file whose source has asterisks where secrets are, byte
// for byte, so that the ranges of diagnostics stay right.
func (l *loader) maskedFile(done map[string]*hcl.File, redactor *secret.Redactor, name string) *hcl.File {
	if file, ok := done[name]; ok {
		return file
	}
	original := l.files[name]
	if original == nil {
		return nil
	}
	file := &hcl.File{Body: original.Body, Nav: original.Nav, Bytes: redactor.Mask(original.Bytes)}
	maskLiterals(file.Bytes, name)
	done[name] = file
	return file
}

// maskLiterals overwrites literals that are given to attributes with a name
// that sounds secret, and passwords in URLs. It works on tokens, since it must
// also work on a file that does not parse.
func maskLiterals(source []byte, name string) {
	tokens, _ := hclsyntax.LexConfig(slices.Clone(source), name, hcl.InitialPos)
	depth, hide := 0, -1 // hide is the depth of the secret attribute, -1 outside of one
	var callDepths []int // depths of calls of env() and file(), whose arguments are only names
	for i, token := range tokens {
		switch token.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			depth++
			if token.Type == hclsyntax.TokenOParen && i > 0 && isNameOfPlace(tokens[i-1]) {
				callDepths = append(callDepths, depth)
			}
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenTemplateSeqEnd:
			if n := len(callDepths); n > 0 && callDepths[n-1] == depth {
				callDepths = callDepths[:n-1]
			}
			depth--
			if depth < hide {
				hide = -1
			}
		case hclsyntax.TokenNewline, hclsyntax.TokenComma:
			if depth <= hide {
				hide = -1
			}
		case hclsyntax.TokenEqual, hclsyntax.TokenColon:
			if hide < 0 && i > 0 && secretName.MatchString(nameBefore(tokens[:i])) {
				hide = depth
			}
		case hclsyntax.TokenQuotedLit, hclsyntax.TokenStringLit:
			part := source[token.Range.Start.Byte:token.Range.End.Byte]
			switch {
			case len(callDepths) > 0:
			case hide >= 0:
				stars(part)
			default:
				for _, at := range userInfo.FindAllSubmatchIndex(part, -1) {
					stars(part[at[2]:at[3]])
				}
			}
		case hclsyntax.TokenInvalid, hclsyntax.TokenBadUTF8, hclsyntax.TokenComment:
			// What the lexer gives up on may be the rest of a broken literal.
			if hide >= 0 && token.Type != hclsyntax.TokenComment {
				stars(source[token.Range.Start.Byte:token.Range.End.Byte])
			}
		}
	}
}

func isNameOfPlace(token hclsyntax.Token) bool {
	text := string(token.Bytes)
	return token.Type == hclsyntax.TokenIdent && (text == "env" || text == "file")
}

// nameBefore returns the attribute name or object key that ends tokens.
func nameBefore(tokens hclsyntax.Tokens) string {
	last := tokens[len(tokens)-1]
	if last.Type == hclsyntax.TokenCQuote && len(tokens) >= 2 {
		last = tokens[len(tokens)-2]
	}
	return string(last.Bytes)
}

func stars(text []byte) {
	for i := range text {
		if text[i] != '\n' && text[i] != '\r' {
			text[i] = '*'
		}
	}
}
