package scaffold

import (
	"bytes"
	"go/format"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

var (
	goBlock  = regexp.MustCompile("(?ms)^```go\n(.*?)^```$")
	fileName = regexp.MustCompile(`^// ([a-z_]+\.go)\n`)
)

// The Go of the guide is one plugin, file by file. A reader copies it, so it must
// build and pass the kit.
func TestTheGuideIsAPlugin(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(checkout, "docs", "plugins.md"))
	if err != nil {
		t.Fatal(err)
	}
	// The scaffold's go.mod, without its code.
	directory := filepath.Join(t.TempDir(), "plugin")
	written, err := Write(Options{Name: "pigeon", Directory: directory, SDK: checkout})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range written {
		if filepath.Ext(file) != ".go" {
			continue
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	files := 0
	for _, block := range goBlock.FindAllSubmatch(page, -1) {
		name := fileName.FindSubmatch(block[1])
		if name == nil {
			t.Errorf("a block of Go that does not say which file it is:\n%s", block[1])
			continue
		}
		source := bytes.TrimPrefix(block[1], name[0])
		if formatted, err := format.Source(source); err != nil || !bytes.Equal(formatted, source) {
			t.Errorf("%s is not formatted: %v", name[1], err)
		}
		if err := writeNew(filepath.Join(directory, string(name[1])), source); err != nil {
			t.Fatal(err)
		}
		files++
	}
	if files < 7 {
		t.Errorf("the guide has only %d files", files)
	}
	inModule(t, directory, "vet", "./...")
	inModule(t, directory, "test", "-count=1", "./...")
}
