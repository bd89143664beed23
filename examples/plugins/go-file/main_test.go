package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/sdk/plugintest"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// The kit starts the built plugin as the daemon would and checks every promise.
func TestConformance(t *testing.T) {
	plugintest.Run(t, plugintest.Target{
		Command: []string{plugintest.Build(t, ".")},
		Config:  fmt.Sprintf(`{"path":%q,"fsync":false}`, filepath.Join(t.TempDir(), "out.jsonl")),
	})
}

func delivery(number int, data string) *transport.Delivery {
	return &transport.Delivery{ID: fmt.Sprintf("dlv_%d", number), Type: "order.paid", CreatedAt: time.Now(), Data: []byte(data)}
}

func TestEachDeliveryIsALine(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "out.jsonl")
	var writers sync.WaitGroup
	for i := range 100 {
		writers.Go(func() {
			f := &file{&config{Path: path, Fsync: i%10 == 0}}
			if _, err := f.Deliver(t.Context(), delivery(i, "{\n  \"number\": 1\n}")); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	seen := map[string]bool{}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil || string(l.Data) != `{"number":1}` {
			t.Errorf("line %q: %v", lines.Text(), err)
		}
		seen[l.ID] = true
	}
	if len(seen) != 100 {
		t.Errorf("%d deliveries are in the file, want 100", len(seen))
	}
}

func TestFailuresHaveTheirClass(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fifo, link := filepath.Join(dir, "fifo"), filepath.Join(dir, "link")
	if err := errors.Join(syscall.Mkfifo(fifo, 0o600), os.Symlink("/etc/hostname", link)); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		path, data string
		class      transport.Class
	}{
		"no directory": {filepath.Join(dir, "no", "file"), `1`, transport.ClassConfig},
		"a directory":  {dir, `1`, transport.ClassConfig},
		"a fifo":       {fifo, `1`, transport.ClassConfig},
		"a link":       {link, `1`, transport.ClassConfig},
		"not JSON":     {filepath.Join(dir, "file"), `{`, transport.ClassPermanent},
		"disk full":    {"/dev/full", `1`, transport.ClassConfig}, // a device is refused before it is full
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &file{&config{Path: test.path}}
			_, err := f.Deliver(t.Context(), delivery(1, test.data))
			var classified *transport.Error
			if !errors.As(err, &classified) || classified.Class != test.class {
				t.Errorf("got %v, want class %v", err, test.class)
			}
		})
	}
}

func TestAFullDiskIsTriedAgainLater(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	err = (&file{&config{}}).appendLine(full, []byte("line\n"))
	var classified *transport.Error
	if !errors.As(err, &classified) || classified.Class != transport.ClassUnavailable {
		t.Errorf("got %v, want class %v", err, transport.ClassUnavailable)
	}
}

func TestARelativePathIsRefused(t *testing.T) {
	t.Parallel()
	if found := (&config{Path: "out.jsonl"}).Validate(); !found.HasErrors() {
		t.Error("a relative path was accepted")
	}
}
