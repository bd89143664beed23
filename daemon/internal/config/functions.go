package config

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/agext/levenshtein"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
	"golang.org/x/text/unicode/norm"
)

// maxFileSize bounds what file() reads: keys, certificates, templates.
const maxFileSize = 1 << 20

// secretMark marks values that came from env() or file(); it says from where.
type secretMark struct{ origin string }

// origins describes where a marked value came from.
func origins(marks cty.ValueMarks) string {
	var all []string
	for mark := range marks {
		if from, ok := mark.(secretMark); ok {
			all = append(all, from.origin)
		}
	}
	slices.Sort(all)
	return strings.Join(all, " and ")
}

// functions returns the functions for a file in dir.
func (l *loader) functions(dir string) map[string]function.Function {
	all := map[string]function.Function{
		"env":          l.envFunction(),
		"file":         l.fileFunction(dir),
		"nonsensitive": l.nonsensitiveFunction(),
		"base64decode": base64DecodeFunction(),
		"base64encode": base64EncodeFunction(),
	}
	for name, f := range standardFunctions() {
		all[name] = f
	}
	for name, f := range all {
		all[name] = quiet(f)
	}
	return all
}

// standardFunctions are cty's, without those that can make a value out of all
// proportion to the text of the file (range, setproduct, indent).
func standardFunctions() map[string]function.Function {
	return map[string]function.Function{
		"abs": stdlib.AbsoluteFunc, "ceil": stdlib.CeilFunc, "floor": stdlib.FloorFunc, "max": stdlib.MaxFunc,
		"min": stdlib.MinFunc, "parseint": stdlib.ParseIntFunc, "signum": stdlib.SignumFunc,
		"upper": stdlib.UpperFunc, "lower": stdlib.LowerFunc, "title": stdlib.TitleFunc, "format": stdlib.FormatFunc,
		"formatlist": stdlib.FormatListFunc, "join": stdlib.JoinFunc, "split": stdlib.SplitFunc, "replace": stdlib.ReplaceFunc,
		"regex": stdlib.RegexFunc, "regexreplace": stdlib.RegexReplaceFunc, "substr": stdlib.SubstrFunc, "strlen": stdlib.StrlenFunc,
		"trim": stdlib.TrimFunc, "trimspace": stdlib.TrimSpaceFunc, "trimprefix": stdlib.TrimPrefixFunc, "trimsuffix": stdlib.TrimSuffixFunc,
		"chomp":  stdlib.ChompFunc,
		"concat": stdlib.ConcatFunc, "merge": stdlib.MergeFunc, "keys": stdlib.KeysFunc, "values": stdlib.ValuesFunc,
		"length": stdlib.LengthFunc, "lookup": stdlib.LookupFunc, "contains": stdlib.ContainsFunc, "coalesce": stdlib.CoalesceFunc,
		"compact": stdlib.CompactFunc, "distinct": stdlib.DistinctFunc, "element": stdlib.ElementFunc, "flatten": stdlib.FlattenFunc,
		"reverse": stdlib.ReverseListFunc, "slice": stdlib.SliceFunc, "sort": stdlib.SortFunc, "zipmap": stdlib.ZipmapFunc,
		"jsonencode": stdlib.JSONEncodeFunc, "jsondecode": stdlib.JSONDecodeFunc,
	}
}

// errHidden replaces what a function says about a secret argument: cty's
// functions quote their arguments in errors.
var errHidden = errors.New("it cannot work on this value, which is not shown because it comes from env() or file()")

// quiet returns f with errors that never quote a marked argument.
func quiet(f function.Function) function.Function {
	spec := &function.Spec{Description: f.Description(), Params: slices.Clone(f.Params())}
	for i := range spec.Params {
		spec.Params[i].AllowMarked = true
	}
	if variadic := f.VarParam(); variadic != nil {
		open := *variadic
		open.AllowMarked = true
		spec.VarParam = &open
	}
	spec.Type = func(args []cty.Value) (cty.Type, error) {
		typ, err := f.ReturnTypeForValues(args)
		return typ, hide(args, err)
	}
	spec.Impl = func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		value, err := f.Call(args)
		return value, hide(args, err)
	}
	return function.New(spec)
}

func hide(args []cty.Value, err error) error {
	if err == nil || !slices.ContainsFunc(args, cty.Value.ContainsMarked) {
		return err
	}
	var argument function.ArgError
	if errors.As(err, &argument) {
		return function.NewArgError(argument.Index, errHidden)
	}
	return errHidden
}

func (l *loader) envFunction() function.Function {
	return function.New(&function.Spec{
		Description: "Value of an environment variable, as a secret; the second argument is used when it is not set.",
		Params:      []function.Parameter{{Name: "name", Type: cty.String}},
		VarParam:    &function.Parameter{Name: "default", Type: cty.String},
		Type:        function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			if len(args) > 2 {
				return cty.NilVal, function.NewArgErrorf(2, "env takes a name and a default")
			}
			name := args[0].AsString()
			value, ok := l.options.LookupEnv(name)
			if !ok && len(args) == 2 {
				return args[1].Mark(secretMark{fmt.Sprintf("env(%q)", name)}), nil
			}
			if !ok {
				return cty.NilVal, function.NewArgErrorf(0, "environment variable %q is not set", name)
			}
			return l.secretValue(value, fmt.Sprintf("env(%q)", name))
		},
	})
}

func (l *loader) fileFunction(dir string) function.Function {
	return function.New(&function.Spec{
		Description: "Content of a file, as a secret. A relative path is relative to the configuration file.",
		Params:      []function.Parameter{{Name: "path", Type: cty.String}},
		Type:        function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			path := args[0].AsString()
			full := path
			if !filepath.IsAbs(full) {
				full = filepath.Join(dir, full)
			}
			content, err := l.readFile(full)
			if err != nil {
				return cty.NilVal, function.NewArgErrorf(0, "%s", err)
			}
			return l.secretValue(content, fmt.Sprintf("file(%q)", path))
		},
	})
}

// secretValue marks text as secret.
func (l *loader) secretValue(text, origin string) (cty.Value, error) {
	if !utf8.ValidString(text) {
		return cty.NilVal, function.NewArgErrorf(0, "the content of %s is not UTF-8 text; encode it, for example in base64", origin)
	}
	if !norm.NFC.IsNormalString(text) {
		// HCL normalizes every string: the secret would silently become another.
		return cty.NilVal, function.NewArgErrorf(0, "the content of %s is not in Unicode normalization form C and would be changed; encode it, for example in base64", origin)
	}
	l.keepSecret(text)
	l.keepSecret(strings.TrimSpace(text))
	return cty.StringVal(text).Mark(secretMark{origin}), nil
}

// readFile reads a file once per load, however many destinations name it.
func (l *loader) readFile(path string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if content, ok := l.contents[path]; ok {
		return content, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	if info, err := file.Stat(); err != nil {
		return "", err
	} else if !info.Mode().IsRegular() {
		// A FIFO or a device would block the daemon or never end.
		return "", fmt.Errorf("%s is not a regular file", path)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err != nil {
		return "", err
	}
	if len(content) > maxFileSize {
		return "", fmt.Errorf("%s is larger than %s", path, Size(maxFileSize))
	}
	l.contents[path] = string(content)
	return string(content), nil
}

func (l *loader) nonsensitiveFunction() function.Function {
	return function.New(&function.Spec{
		Description: "The value without the protection that env() and file() give it: for what may be shown, such as an address.",
		Params:      []function.Parameter{{Name: "value", Type: cty.DynamicPseudoType, AllowMarked: true, AllowNull: true}},
		Type:        func(args []cty.Value) (cty.Type, error) { return args[0].Type(), nil },
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			value, _ := args[0].UnmarkDeep()
			if value.Type() == cty.String && !value.IsNull() {
				l.mu.Lock()
				l.public[value.AsString()] = true
				l.mu.Unlock()
			}
			return value, nil
		},
	})
}

func base64DecodeFunction() function.Function {
	return function.New(&function.Spec{
		Description: "Text that base64 holds.",
		Params:      []function.Parameter{{Name: "text", Type: cty.String}},
		Type:        function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			text, err := base64.StdEncoding.DecodeString(args[0].AsString())
			if err != nil {
				return cty.NilVal, function.NewArgErrorf(0, "it is not base64: %s", err)
			}
			if !utf8.Valid(text) {
				return cty.NilVal, function.NewArgErrorf(0, "what it holds is not UTF-8 text")
			}
			return cty.StringVal(string(text)), nil
		},
	})
}

func base64EncodeFunction() function.Function {
	return function.New(&function.Spec{
		Description: "Text in base64.",
		Params:      []function.Parameter{{Name: "text", Type: cty.String}},
		Type:        function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			return cty.StringVal(base64.StdEncoding.EncodeToString([]byte(args[0].AsString()))), nil
		},
	})
}

// didYouMean returns ` Did you mean "x"?` for the candidate nearest to given.
func didYouMean(given string, candidates []string) string {
	if best := Nearest(given, candidates); best != "" {
		return fmt.Sprintf(" Did you mean %q?", best)
	}
	return ""
}

// Nearest returns the candidate that somebody may have meant who wrote given, or "".
func Nearest(given string, candidates []string) string {
	best, distance := "", 3 // as HCL's own suggestions: at most two edits
	for _, candidate := range candidates {
		if d := levenshtein.Distance(given, candidate, nil); d < distance {
			best, distance = candidate, d
		}
	}
	return best
}

// FunctionNames returns the names of all functions, sorted.
func FunctionNames() []string {
	return slices.Sorted(maps.Keys((&loader{}).functions("")))
}
