package config

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
)

// Limits of a load. 10,000 destinations take about 4 MB.
const (
	maxSourceSize = 64 << 20
	maxSources    = 10_000
)

// Options change how a configuration is loaded. The zero value is right for
// the daemon.
type Options struct {
	// LookupEnv looks up environment variables. Defaults to os.LookupEnv.
	LookupEnv func(name string) (string, bool)
	// Embedded is the directory of the private PostgreSQL when no file has a
	// database block: `deliveryd dev` needs none. Defaults to none, which makes
	// a missing database an error.
	Embedded string
	// EncryptionKey is used when no file has an encryption block. Defaults to
	// none, which makes a missing key an error.
	EncryptionKey secret.Key
}

// Source is one file of a configuration.
type Source struct {
	// Name is shown in diagnostics; relative paths in the source are relative
	// to its directory.
	Name string
	// Bytes is the content, HCL native syntax.
	Bytes []byte
}

// Load reads files and directories (all *.hcl in them, by name, not their
// subdirectories) as one configuration. The Config is never nil, so that
// Resolve can find more mistakes, but it must not be used to run when the
// diagnostics have errors.
func Load(paths []string, options Options) (*Config, Diagnostics) {
	sources, found := readSources(paths)
	return parse(sources, options, found)
}

// Parse is Load for sources that are in memory.
func Parse(sources []Source, options Options) (*Config, Diagnostics) {
	return parse(sources, options, nil)
}

func problem(summary, format string, args ...any) *hcl.Diagnostic {
	return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(format, args...), Extra: about{}}
}

func problemAt(where hcl.Range, summary, format string, args ...any) *hcl.Diagnostic {
	d := problem(summary, format, args...)
	d.Subject = &where
	return d
}

func readSources(paths []string) ([]Source, hcl.Diagnostics) {
	var sources []Source
	var found hcl.Diagnostics
	if len(paths) == 0 {
		found = append(found, problem("No configuration", "Name a file or a directory with *.hcl files."))
	}
	total := 0
	seen := map[string]bool{}
	for _, path := range paths {
		files, err := filesOf(path)
		if err != nil {
			found = append(found, problem("Cannot read the configuration", "%s", err))
		}
		for _, file := range files {
			if absolute, err := filepath.Abs(file); err == nil {
				if seen[absolute] {
					continue // a directory and a file in it may both be named
				}
				seen[absolute] = true
			}
			content, err := readSource(file, maxSourceSize-total)
			if err != nil {
				found = append(found, problem("Cannot read the configuration", "%s", err))
				continue
			}
			total += len(content)
			sources = append(sources, Source{Name: file, Bytes: content})
		}
	}
	return sources, found
}

// filesOf returns path, or the *.hcl files in it when it is a directory.
func filesOf(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path) // sorted by name
	if err != nil {
		return nil, err
	}
	var files []string
	for _, entry := range entries {
		// Editors leave .#x.hcl and .x.hcl.swp behind.
		if filepath.Ext(entry.Name()) == ".hcl" && !entry.IsDir() && !strings.HasPrefix(entry.Name(), ".") {
			files = append(files, filepath.Join(path, entry.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: the directory has no *.hcl file", path)
	}
	if len(files) > maxSources {
		return nil, fmt.Errorf("%s: the directory has %d *.hcl files, at most %d are allowed", path, len(files), maxSources)
	}
	return files, nil
}

func readSource(path string, room int) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	content, err := io.ReadAll(io.LimitReader(file, int64(room)+1))
	if err != nil {
		return nil, err
	}
	if len(content) > room {
		return nil, fmt.Errorf("%s: the configuration is larger than %s", path, Size(maxSourceSize))
	}
	return content, nil
}

// loader holds what one load needs, also later in Resolve.
type loader struct {
	options Options
	files   map[string]*hcl.File
	names   []string // of files, in order
	// incomplete: a file is missing or does not parse, so that what seems to be
	// missing may be there.
	incomplete bool
	broken     map[string]bool // files that do not parse
	inPieces   map[string]bool // files that do, piece by piece
	syntax     hcl.Diagnostics

	contexts map[string]*hcl.EvalContext // by directory of the file
	locals   map[string]*local
	declared map[string]map[string]cty.Value // labels of destination blocks, by organization

	config *Config
	diags  hcl.Diagnostics
	heads  map[string][]head // of the top-level blocks, by file
	// first says where a block that may occur once, or a name, was first seen.
	first map[string]hcl.Range
	known knownNames
	// opened holds the values of blocks that may be given in parts, by the same
	// names as first.
	opened map[string]any

	// sources says where a setting was given, by the pointer to it.
	sources map[any]hcl.Range

	variables map[string]cty.Value

	mu       sync.Mutex // guards what follows and contexts: Resolve evaluates concurrently
	secrets  map[string]bool
	public   map[string]bool   // what nonsensitive() was given
	contents map[string]string // what file() has read
}

func newLoader(options Options) *loader {
	if options.LookupEnv == nil {
		options.LookupEnv = os.LookupEnv
	}
	l := &loader{
		options: options, broken: map[string]bool{}, inPieces: map[string]bool{}, files: map[string]*hcl.File{}, contexts: map[string]*hcl.EvalContext{},
		locals: map[string]*local{}, declared: map[string]map[string]cty.Value{}, first: map[string]hcl.Range{}, opened: map[string]any{}, heads: map[string][]head{}, known: newKnownNames(),
		sources: map[any]hcl.Range{}, variables: map[string]cty.Value{}, secrets: map[string]bool{}, public: map[string]bool{},
		contents: map[string]string{},
	}
	l.config = newConfig(options.LookupEnv)
	l.config.inner = &inner{l}
	return l
}

func parse(sources []Source, options Options, found hcl.Diagnostics) (*Config, Diagnostics) {
	l := newLoader(options)
	l.diags = found
	l.incomplete = found.HasErrors()
	var bodies []*hclsyntax.Body
	for _, source := range sources {
		if _, ok := l.files[source.Name]; ok {
			l.add(problem("Two sources have one name", "The name is %q.", source.Name))
			continue
		}
		bodies = append(bodies, l.parseSource(source)...)
	}
	l.decodeFiles(bodies)
	l.finishSettings()
	l.checkAll()
	return l.config, l.export(l.diags)
}

func (l *loader) add(found ...*hcl.Diagnostic) { l.diags = append(l.diags, found...) }

// parseSource returns the content of a source, in pieces if it is large.
func (l *loader) parseSource(source Source) []*hclsyntax.Body {
	l.names = append(l.names, source.Name)
	if at, found := tooDeep(source); found {
		l.refuse(source, problemAt(at, "Expression too deep", "Brackets and operators are nested more than %d deep here.", maxDepth))
		return nil
	}
	if at, found := tooLarge(source); found {
		l.refuse(source, problemAt(at, "Number too large", "Its exponent may be %d at most.", maxExponent))
		return nil
	}
	l.files[source.Name] = &hcl.File{Bytes: source.Bytes}
	bodies, diags := parsePieces(source)
	if l.inPieces[source.Name] = !diags.HasErrors(); diags.HasErrors() {
		var file *hcl.File
		file, diags = hclsyntax.ParseConfig(source.Bytes, source.Name, hcl.InitialPos)
		body, _ := file.Body.(*hclsyntax.Body)
		bodies = []*hclsyntax.Body{body}
	}
	l.add(diags...)
	if diags.HasErrors() {
		l.incomplete, l.broken[source.Name] = true, true
		l.syntax = append(l.syntax, diags...)
	}
	for _, body := range bodies {
		l.addHeads(source.Name, body)
	}
	return bodies
}

// pieceSize is from where on a source is parsed in pieces. HCL keeps all tokens
// of what it parses, over 100 bytes for each byte of the source: at once, ten
// thousand destinations would take half a gigabyte.
const pieceSize = 256 << 10

// parsePieces parses a source piece by piece, cut where a top-level block seems
// to end. A cut in the wrong place (in a heredoc, in a comment) leaves something
// unclosed before it, and so is an error.
func parsePieces(source Source) ([]*hclsyntax.Body, hcl.Diagnostics) {
	var bodies []*hclsyntax.Body
	var all hcl.Diagnostics
	start := hcl.InitialPos
	for rest := source.Bytes; ; {
		piece := nextPiece(rest)
		file, diags := hclsyntax.ParseConfig(piece, source.Name, start)
		all = append(all, diags...)
		if body, ok := file.Body.(*hclsyntax.Body); ok {
			bodies = append(bodies, body)
		}
		if rest = rest[len(piece):]; len(rest) == 0 || diags.HasErrors() {
			return bodies, all
		}
		start.Byte += len(piece)
		start.Line += bytes.Count(piece, []byte("\n"))
	}
}

func nextPiece(rest []byte) []byte {
	if len(rest) > pieceSize {
		if end := bytes.Index(rest[pieceSize:], []byte("\n}\n")); end >= 0 {
			return rest[:pieceSize+end+len("\n}\n")]
		}
	}
	return rest
}

// refuse notes a source that must not be parsed.
func (l *loader) refuse(source Source, why *hcl.Diagnostic) {
	l.files[source.Name] = &hcl.File{Bytes: source.Bytes}
	l.incomplete, l.broken[source.Name] = true, true
	l.add(why)
}

// context returns what expressions of a file may use.
func (l *loader) context(file string) *hcl.EvalContext {
	dir := filepath.Dir(file)
	l.mu.Lock()
	defer l.mu.Unlock()
	if ctx, ok := l.contexts[dir]; ok {
		return ctx
	}
	ctx := &hcl.EvalContext{Variables: l.variables, Functions: l.functions(dir)}
	l.contexts[dir] = ctx
	return ctx
}
