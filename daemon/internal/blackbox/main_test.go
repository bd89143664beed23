package blackbox_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binaries is the directory with the programs under test, built once.
//

var binaries string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "blackbox-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binaries = dir
	if err := build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// build makes the programs. With the race detector in this binary, the daemon has
// it, too: faults are when races show.
func build(dir string) error {
	daemon := []string{"build", "-o", filepath.Join(dir, "deliveryd")}
	if raced {
		daemon = append(daemon, "-race")
	}
	for _, args := range [][]string{
		append(daemon, "../../cmd/deliveryd"),
		{"build", "-o", filepath.Join(dir, "plugins", "deliveryd-transport-webhook"), "../../../plugins/webhook"},
		{"build", "-o", filepath.Join(dir, "files", "deliveryd-transport-sftp"), "../../../plugins/sftp"},
	} {

		cmd := exec.Command("go", args...)
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("go %v: %w", args, err)
		}
	}
	return nil
}
