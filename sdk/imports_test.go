// Package sdk_test holds the lint that keeps the SDK fit for third parties.
package sdk_test

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/deliveryd/deliveryd/"

// deps lists every package that those matching pattern link, tests included
// where asked.
func deps(t *testing.T, pattern string, tests bool) []string {
	t.Helper()
	args := []string{"list", "-deps"}
	if tests {
		args = append(args, "-test")
	}
	command := exec.Command("go", append(args, pattern)...)
	command.Dir = ".."
	out, err := command.Output()
	if err != nil {
		t.Fatalf("listing the imports of %s: %v", pattern, err)
	}
	list := strings.Fields(string(out))
	if len(list) < 10 {
		t.Fatalf("%s links %d packages; the lint looks at nothing", pattern, len(list))
	}
	return list
}

func TestImportsRunDownward(t *testing.T) {
	t.Parallel()
	for pattern, forbidden := range map[string][]string{
		"./sdk/...":     {module + "daemon/", module + "plugins/"},
		"./plugins/...": {module + "daemon/"},
	} {
		for _, path := range deps(t, pattern, true) {
			for _, prefix := range forbidden {
				if strings.HasPrefix(path, prefix) {
					t.Errorf("%s links %s", pattern, path)
				}
			}
		}
	}
}

// HCL and its type system are half of what a plugin would otherwise weigh.
func TestPluginsDoNotLinkHCL(t *testing.T) {
	t.Parallel()
	for _, pattern := range []string{"./sdk/transport", "./sdk/plugintest", "./plugins/..."} {
		for _, path := range deps(t, pattern, false) {
			if strings.HasPrefix(path, "github.com/hashicorp/hcl") || strings.HasPrefix(path, "github.com/zclconf/") {
				t.Errorf("%s links %s", pattern, path)
			}
		}
	}
}
