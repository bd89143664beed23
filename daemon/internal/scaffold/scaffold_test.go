package scaffold

import (
	"bytes"
	"errors"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const checkout = "../../.."

// inModule runs the go command in a module that was just written.
func inModule(t *testing.T, directory string, args ...string) {
	t.Helper()
	// Our own sums spare a look-up of each in the checksum database.
	sums, err := os.ReadFile(filepath.Join(checkout, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(directory, "go.sum"), sums, 0o644); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), "go", args...)
	command.Dir = directory
	command.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestWhatIsWrittenPassesItsOwnTest(t *testing.T) {
	t.Parallel()
	directory := filepath.Join(t.TempDir(), "plugin")
	files, err := Write(Options{Name: "carrier-pigeon", Directory: directory, SDK: checkout})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		names = append(names, filepath.Base(file))
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Ext(file) != ".go" {
			continue
		}
		if formatted, err := format.Source(source); err != nil || !bytes.Equal(formatted, source) {
			t.Errorf("%s is not formatted: %v", file, err)
		}
	}
	if got, want := strings.Join(names, " "), "README.md go.mod main.go transport.go transport_test.go"; got != want {
		t.Errorf("the files are %s, want %s", got, want)
	}
	inModule(t, directory, "vet", "./...")
	inModule(t, directory, "test", "-count=1", "./...")
}

func TestNothingIsOverwritten(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	mine := filepath.Join(directory, "main.go")
	if err := os.WriteFile(mine, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(Options{Name: "x", Directory: directory, SDKVersion: "v1.2.3"}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("got %v, want that the directory is not empty", err)
	}
	if text, err := os.ReadFile(mine); err != nil || string(text) != "mine" {
		t.Errorf("main.go is %q, %v", text, err)
	}
}

func TestBadOptions(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		options Options
		want    string
	}{
		"no name":      {Options{SDKVersion: "v1.2.3"}, "cannot be the name"},
		"upper case":   {Options{Name: "Pigeon", SDKVersion: "v1.2.3"}, "cannot be the name"},
		"a path":       {Options{Name: "../x", SDKVersion: "v1.2.3"}, "cannot be the name"},
		"long":         {Options{Name: strings.Repeat("x", 51), SDKVersion: "v1.2.3"}, "cannot be the name"},
		"module":       {Options{Name: "x", Module: "a b\nreplace", SDKVersion: "v1.2.3"}, "cannot be a module path"},
		"no checkout":  {Options{Name: "x", SDK: "/"}, "no checkout"},
		"no release":   {Options{Name: "x", SDKVersion: "dev"}, "no release"},
		"past release": {Options{Name: "x", SDKVersion: "v1.2.3-5-gabcdef"}, "no release"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.options.Directory = filepath.Join(t.TempDir(), "new")
			_, err := Write(test.options)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if _, err := os.Stat(test.options.Directory); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("something was written: %v", err)
			}
		})
	}
}

func TestAReleaseNeedsNoReplace(t *testing.T) {
	t.Parallel()
	directory := filepath.Join(t.TempDir(), "new")
	if _, err := Write(Options{Name: "x", Directory: directory, Module: "corp.example/x", SDKVersion: "v1.2.3"}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(directory, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(text); !strings.HasPrefix(got, "module corp.example/x\n") || !strings.Contains(got, "deliveryd v1.2.3\n") || strings.Contains(got, "replace") {
		t.Errorf("go.mod is\n%s", got)
	}
}
