package config

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deliveryd/deliveryd/daemon/internal/alert"
	"github.com/deliveryd/deliveryd/daemon/internal/destination"
	"github.com/deliveryd/deliveryd/daemon/internal/secret"
)

const examplePath = "../../../delivery.hcl.example"

// lookup returns a LookupEnv for tests.
func lookup(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { value, ok := vars[name]; return value, ok }
}

func exampleEnv() map[string]string {
	return map[string]string{
		"DATABASE_URL": "postgres://deliveryd:s3cret-of-db@db.example/deliveryd", "DELIVERYD_KEY": secret.NewKey().Base64(),
		"DELIVERYD_OLD_KEY": secret.NewKey().Base64(), "ACME_TOKEN": "acme-token-of-the-example", "BILLING_SECRET": "whsec_c2VjcmV0IG9mIHRoZSBleGFtcGxlIQ==",
	}
}

func readExample(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestExampleLoads(t *testing.T) {
	t.Parallel()
	c, diags := Load([]string{examplePath}, Options{LookupEnv: lookup(exampleEnv())})
	if len(diags) > 0 {
		t.Fatalf("%v", diags.Err())
	}
	if len(c.Destinations) != 1 || c.Destinations[0].Key().String() != "acme/billing" || c.APIKeys[0].Token.Reveal() != "acme-token-of-the-example" {
		t.Errorf("%+v", c)
	}
	if want, err := filepath.Abs("../../../bin/plugins"); err != nil || c.Plugins.Directory != want {
		t.Errorf("plugins.directory = %q, want %q", c.Plugins.Directory, want)
	}
}

var commentedSetting = regexp.MustCompile(`(?m)^(\s*)# ((?:[a-z0-9_]+\s*= .*)|(?:tls \{)|(?:\}))$`)

// The settings that are commented out must load as well, when those that they
// exclude are taken away.
func TestExampleLoadsWithWhatIsCommentedOut(t *testing.T) {
	t.Parallel()
	text := strings.Replace(readExample(t), `  url = env("DATABASE_URL")`, "", 1)
	text = commentedSetting.ReplaceAllString(text, "$1$2")
	text = regexp.MustCompile(`(?m)^  #   ((cert|key)_file)`).ReplaceAllString(text, "$1")
	c, diags := Parse([]Source{{"delivery.hcl", []byte(text)}}, Options{LookupEnv: lookup(exampleEnv())})
	if len(diags) > 0 {
		t.Fatalf("%v\n%s", diags.Err(), text)
	}
	var missing []string
	root().walk(c, nil, func(path []string, a *attribute, pointer any) {
		_, given := c.inner.loader.sources[pointer]
		// Of a maintenance window, some exclude others.
		if excluded := pointer == any(&c.Database.URL) || slices.Contains(path, "maintenance"); !given && !excluded {
			missing = append(missing, dotted(path, a))
		}
	})
	if len(missing) > 0 {
		t.Errorf("not in delivery.hcl.example: %s", missing)
	}
	if c.Plugin("webhook").User != "nobody" || c.HTTP.TLS.KeyFile != "/etc/deliveryd/tls.key" || len(c.Encryption.PreviousKeys) != 1 {
		t.Errorf("%+v", c)
	}
}

// What the example sets must be the default, unless it is in a block that
// cannot have one.
func TestExampleShowsTheDefaults(t *testing.T) {
	t.Parallel()
	c, diags := Load([]string{examplePath}, Options{LookupEnv: lookup(exampleEnv())})
	if diags.HasErrors() {
		t.Fatal(diags.Err())
	}
	want := newConfig(lookup(nil))
	want.Defaults = complete(want.Defaults, destination.Settings{})
	want.Alerts = []*alert.Settings{alert.Defaults("acme")}
	want.Alerts[0].Events = alert.Events()
	plugin := newPlugin()
	plugin.Name = "webhook"
	want.PluginSettings = []*Plugin{plugin}
	defaults := valuesOf(want)
	checked := 0
	for name, value := range valuesOf(c) {
		if strings.HasPrefix(name, "destination.") || strings.HasPrefix(name, "api_key.") || name == "alerts.acme.destinations" || strings.HasPrefix(name, "alerts.acme.maintenance.") || name == "database.url" || name == "encryption.key" || name == "plugins.directory" {
			continue
		}
		checked++
		if diff := cmp.Diff(defaults[name], value); diff != "" {
			t.Errorf("%s is not the default (-default +example):\n%s", name, diff)
		}
	}
	if checked < 50 {
		t.Errorf("only %d settings checked", checked)
	}
	for _, name := range []string{"default", "disabled", "description", "icon", "instructions"} {
		if got := valuesOf(c)["destination.acme.billing."+name]; got != `""` && got != "false" {
			t.Errorf("destination: %s = %s", name, got)
		}
	}
}

// valuesOf returns every setting as an HCL expression.
func valuesOf(c *Config) map[string]string {
	all := map[string]string{}
	root().walk(c, nil, func(path []string, a *attribute, pointer any) { all[dotted(path, a)] = formatValue(a, pointer) })
	return all
}

// A setting that differs from its default in the example's destination shows
// that the test above can fail, and that no setting of a destination is lost.
func TestExampleDestinationDiffersEverywhere(t *testing.T) {
	t.Parallel()
	c, diags := Load([]string{examplePath}, Options{LookupEnv: lookup(exampleEnv())})
	if diags.HasErrors() {
		t.Fatal(diags.Err())
	}
	values := valuesOf(c)
	var same []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		setting, ok := strings.CutPrefix(name, "defaults.")
		if ok && values[name] == values["destination.acme.billing."+setting] {
			same = append(same, setting)
		}
	}
	if len(same) > 0 {
		t.Errorf("equal to the defaults: %s", same)
	}
}

func TestExampleIsFormatted(t *testing.T) {
	t.Parallel()
	text := readExample(t)
	formatted, diags := Format(Source{"delivery.hcl.example", []byte(text)})
	if diags.HasErrors() {
		t.Fatal(diags.Err())
	}
	if diff := cmp.Diff(string(formatted), text); diff != "" {
		t.Errorf("run `deliveryd config fmt` (-formatted +is):\n%s", diff)
	}
}
