package config

import (
	"regexp"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// maxDepth bounds how deeply expressions nest. HCL parses and evaluates by
// recursion, and Go ends the whole program when a stack outgrows its limit.
const maxDepth = 5000

// maxExponent bounds the exponents of numbers, decimal in files and binary
// after that: converting 1e999999999 to text takes minutes and gigabytes.
const maxExponent = 9999

var largeExponent = regexp.MustCompile(`[0-9.][eE][+-]?0*[1-9][0-9]{4,}`)

// tooLarge finds the place of a number with a huge exponent.
func tooLarge(source Source) (hcl.Range, bool) {
	if !largeExponent.Match(source.Bytes) {
		return hcl.Range{}, false
	}
	tokens, _ := hclsyntax.LexConfig(source.Bytes, source.Name, hcl.InitialPos)
	for _, token := range tokens {
		if token.Type == hclsyntax.TokenNumberLit && largeExponent.Match(token.Bytes) {
			return token.Range, true
		}
	}
	return hcl.Range{}, false
}

// tooDeep finds the place where a source nests more than maxDepth deep. It
// scans bytes first, which takes brackets in text for brackets and so errs on
// one side only; just what that suspects is looked at token by token.
func tooDeep(source Source) (hcl.Range, bool) {
	var nesting nesting
	suspect := false
	for _, c := range source.Bytes {
		nesting.next(byteKind(c), c == '{')
		if nesting.total > maxDepth {
			suspect = true
			break
		}
	}
	if !suspect {
		return hcl.Range{}, false
	}
	nesting.reset()
	tokens, _ := hclsyntax.LexConfig(source.Bytes, source.Name, hcl.InitialPos)
	for _, token := range tokens {
		nesting.next(tokenKind(token.Type), token.Type == hclsyntax.TokenOBrace)
		if nesting.total > maxDepth {
			return token.Range, true
		}
	}
	return hcl.Range{}, false
}

// mark is what a byte or a token means for the depth.
type mark int

const (
	markNone     mark = iota
	markOpen          // one level deeper, until markClose
	markClose         //
	markOperator      // one level deeper, until the expression ends
	markNewline       // ends an expression unless within ( or [
	markComma         // ends an expression
)

// nesting counts levels: open brackets, and operators of unfinished expressions.
type nesting struct {
	frames []frame
	total  int
}

type frame struct {
	operators int
	brace     bool
}

func (n *nesting) reset() { *n = nesting{} }

func (n *nesting) next(m mark, brace bool) {
	if len(n.frames) == 0 {
		n.frames = append(n.frames, frame{brace: true})
	}
	top := &n.frames[len(n.frames)-1]
	switch m {
	case markOpen:
		n.frames = append(n.frames, frame{brace: brace})
		n.total++
	case markClose:
		if len(n.frames) > 1 {
			n.total -= 1 + top.operators
			n.frames = slices.Delete(n.frames, len(n.frames)-1, len(n.frames))
		}
		// A chain of f(1)(2) or a[0][1] nests as well.
		last := &n.frames[len(n.frames)-1]
		last.operators++
		n.total++
	case markOperator:
		top.operators++
		n.total++
	case markNewline, markComma:
		if m == markComma || top.brace {
			n.total -= top.operators
			top.operators = 0
		}
	}
}

func byteKind(c byte) mark {
	switch c {
	case '(', '[', '{':
		return markOpen
	case ')', ']', '}':
		return markClose
	case '?', ':', '!', '-', '+', '*', '/', '%', '&', '|', '=', '<', '>', '.':
		return markOperator
	case '\n':
		return markNewline
	case ',':
		return markComma
	default:
		return markNone
	}
}

func tokenKind(t hclsyntax.TokenType) mark {
	switch t {
	case hclsyntax.TokenOParen, hclsyntax.TokenOBrack, hclsyntax.TokenOBrace, hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
		return markOpen
	case hclsyntax.TokenCParen, hclsyntax.TokenCBrack, hclsyntax.TokenCBrace, hclsyntax.TokenTemplateSeqEnd:
		return markClose
	case hclsyntax.TokenNewline:
		return markNewline
	case hclsyntax.TokenComma:
		return markComma
	case hclsyntax.TokenIdent, hclsyntax.TokenNumberLit, hclsyntax.TokenQuotedLit, hclsyntax.TokenStringLit,
		hclsyntax.TokenOQuote, hclsyntax.TokenCQuote, hclsyntax.TokenOHeredoc, hclsyntax.TokenCHeredoc,
		hclsyntax.TokenComment, hclsyntax.TokenEOF:
		return markNone
	default:
		return markOperator
	}
}
