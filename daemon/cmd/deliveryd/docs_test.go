package main

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/deliveryd/deliveryd/daemon/internal/config"
)

// What the documentation says is tested: commands and flags exist, links lead
// somewhere, configurations are valid for the real plugins, metrics have the
// names that the code gives them. docs_sql_test.go runs its SQL.

const repository = "../../.."

// pages returns the Markdown files of the repository by their path in it.
func pages(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(repository, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() && path != repository && (strings.HasPrefix(name, ".") || name == "build" || name == "bin" || name == "testdata") {
			return filepath.SkipDir
		}
		if filepath.Ext(name) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		relative, relErr := filepath.Rel(repository, path)
		if err != nil || relErr != nil {
			return fmt.Errorf("reading %s: %w %w", path, err, relErr)
		}
		found[relative] = string(text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, needed := range []string{"README.md", "docs/operations.md", "docs/security.md", "docs/producers.md", "docs/api.md", "docs/configuration.md"} {
		if found[needed] == "" {
			t.Fatalf("%s is missing; found %d pages", needed, len(found))
		}
	}
	return found
}

// readFile reads a file of the repository.
func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	fence   = regexp.MustCompile("(?ms)^```.*?^```")
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	unslug  = regexp.MustCompile(`[^a-z0-9_ -]`)
)

// anchors are the places of a page that a link can lead to, as GitHub names them.
func anchors(page string) map[string]bool {
	places := map[string]bool{}
	for _, match := range heading.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		places[strings.ReplaceAll(unslug.ReplaceAllString(strings.ToLower(match[1]), ""), " ", "-")] = true
	}
	return places
}

func TestDocsLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	all := pages(t)
	checked := 0
	for name, page := range all {
		for _, match := range link.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
			target, place, _ := strings.Cut(match[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			checked++
			file := name
			if target != "" {
				file = filepath.Join(filepath.Dir(name), target)
			}
			if _, err := os.Stat(filepath.Join(repository, file)); err != nil {
				t.Errorf("%s links to %s: there is no %s", name, match[1], file)
				continue
			}
			if place != "" && !anchors(all[file])[place] {
				t.Errorf("%s links to %s: %s has no heading of that name", name, match[1], file)
			}
		}
	}
	if checked < 30 {
		t.Errorf("only %d links found", checked)
	}
}

// commandLine finds `deliveryd ...` in code: up to what ends a command in a shell,
// a quotation in prose, or a comment.
var commandLine = regexp.MustCompile("(?:^|[\\s`|(;&/])deliveryd((?: +[^\\s`|;&#()]+)+)")

// codeIn returns what stands in a page as code that a reader could type: blocks
// and spans.
func codeIn(page string) []string {
	var code []string
	rest := fence.ReplaceAllStringFunc(page, func(block string) string {
		if language, _, _ := strings.Cut(strings.TrimPrefix(block, "```"), "\n"); language != "yaml" && language != "sql" {
			code = append(code, block)
		}
		return ""
	})
	return append(code, regexp.MustCompile("`[^`\n]+`").FindAllString(rest, -1)...)
}

// documentedCommands are the words behind every `deliveryd` that stands in code.
func documentedCommands(text string, markdown bool) [][]string {
	if markdown {
		text = strings.Join(codeIn(text), "\n")
	}
	var found [][]string
	for line := range strings.Lines(text) {
		for _, match := range commandLine.FindAllStringSubmatch(line, -1) {
			found = append(found, strings.Fields(match[1]))
		}
	}
	return found
}

// checkCommand reports what is wrong with the words behind `deliveryd`.
func checkCommand(words []string) error {
	at := newRoot(nil)
	for i, word := range words {
		name, isFlag := strings.CutPrefix(word, "--")
		if isFlag {
			name, _, _ = strings.Cut(name, "=")
			if name != "help" && at.Flags().Lookup(name) == nil && at.InheritedFlags().Lookup(name) == nil {
				return fmt.Errorf("%s has no flag --%s", at.CommandPath(), name)
			}
			continue
		}
		if !at.HasSubCommands() {
			continue // an argument, or the value of a flag
		}
		next := slices.IndexFunc(at.Commands(), func(c *cobra.Command) bool { return c.Name() == word })
		if next < 0 {
			return fmt.Errorf("%s has no command %q (in %q)", at.CommandPath(), word, strings.Join(words[:i+1], " "))
		}
		at = at.Commands()[next]
	}
	return nil
}

func TestDocsCommandsExist(t *testing.T) {
	t.Parallel()
	texts := pages(t)
	for _, name := range []string{"delivery.hcl.example", "examples/systemd/deliveryd.service"} {
		texts[name] = readFile(t, name)
	}
	err := fs.WalkDir(os.DirFS(repository), "examples/configs", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			texts[path] = readFile(t, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for name, text := range texts {
		for _, words := range documentedCommands(text, filepath.Ext(name) == ".md") {
			if filepath.Ext(name) != ".md" && !isCommand(words[0]) {
				continue // a comment that speaks of deliveryd
			}
			checked++
			if err := checkCommand(words); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if checked < 30 {
		t.Errorf("only %d commands found", checked)
	}
}

var (
	makeCommand = regexp.MustCompile("(?m)[`\n ]make ([a-z-]+)[`\n ]")
	makeTarget  = regexp.MustCompile(`(?m)^([a-z-]+):.*## `)
)

func TestDocsMakeTargetsExist(t *testing.T) {
	t.Parallel()
	targets := map[string]bool{}
	for _, match := range makeTarget.FindAllStringSubmatch(readFile(t, "Makefile"), -1) {
		targets[match[1]] = true
	}
	checked := 0
	for name, page := range pages(t) {
		for _, match := range makeCommand.FindAllStringSubmatch(strings.Join(codeIn(page), "\n"), -1) {
			checked++
			if !targets[match[1]] {
				t.Errorf("%s: there is no target %s", name, match[1])
			}
		}
	}
	if checked < 5 {
		t.Errorf("only %d targets found", checked)
	}
}

func isCommand(word string) bool {
	return slices.ContainsFunc(newRoot(nil).Commands(), func(c *cobra.Command) bool { return c.Name() == word })
}

func TestCheckCommandFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	page := "Run `deliveryd config validate --config x` or\n```sh\nsudo deliveryd destinations pause X   # wait\nbin/deliveryd sned --to a\n```\n`deliveryd reload --hard`, deliveryd is good, `deliveryd config undo`\n"
	var wrong []string
	commands := documentedCommands(page, true)
	for _, words := range commands {
		if err := checkCommand(words); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	want := []string{`deliveryd has no command "sned" (in "sned")`, "deliveryd reload has no flag --hard", `deliveryd config has no command "undo" (in "config undo")`}
	if !slices.Equal(wrong, want) || len(commands) != 5 {
		t.Errorf("of %q: %q, want %q", commands, wrong, want)
	}
}

var (
	metricName   = regexp.MustCompile(`\bdeliveryd_[a-z0-9_]+`)
	declaredName = regexp.MustCompile(`(?:Name: |desc\()"([a-z0-9_]+)"`)
)

// declaredMetrics are the names that the code gives metrics.
func declaredMetrics(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, file := range []string{"app/metrics.go", "api/api.go", "telemetry/metrics.go"} {
		for _, match := range declaredName.FindAllStringSubmatch(readFile(t, "daemon/internal/"+file), -1) {
			names["deliveryd_"+match[1]] = true
		}
	}
	if len(names) < 15 {
		t.Fatalf("only %d metrics found: %v", len(names), names)
	}
	return names
}

func TestDocsNameEveryMetric(t *testing.T) {
	t.Parallel()
	declared := declaredMetrics(t)
	page := readFile(t, "docs/operations.md")
	table := page[strings.Index(page, "## Metrics"):strings.Index(page, "### Alerts")]
	named := map[string]bool{}
	for _, name := range metricName.FindAllString(table, -1) {
		named[name] = true
	}
	for name := range declared {
		if !named[name] {
			t.Errorf("%s is not documented", name)
		}
	}
	for _, name := range metricName.FindAllString(page, -1) {
		if name = strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count"); !declared[name] && name != "deliveryd_wake" {
			t.Errorf("there is no metric %s", name)
		}
	}
}

// alertRules are Prometheus' rules as far as they are looked at.
type alertRules struct {
	Groups []struct {
		Name  string
		Rules []struct {
			Alert, Expr string
			For         string
			Annotations map[string]string
		}
	}
}

func TestDocsAlertsAreRules(t *testing.T) {
	t.Parallel()
	page := readFile(t, "docs/operations.md")
	_, block, found := strings.Cut(page, "```yaml\n")
	block, _, closed := strings.Cut(block, "```")
	if !found || !closed {
		t.Fatal("docs/operations.md has no rules")
	}
	var rules alertRules
	decoder := yaml.NewDecoder(strings.NewReader(block))
	decoder.KnownFields(true)
	if err := decoder.Decode(&rules); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, rule := range rules.Groups[0].Rules {
		if seen[rule.Alert] || rule.Expr == "" || rule.Annotations["summary"] == "" {
			t.Errorf("alert %q is there twice, or says nothing", rule.Alert)
		}
		seen[rule.Alert] = true
		if rule.For != "" {
			if _, err := time.ParseDuration(rule.For); err != nil {
				t.Errorf("alert %s: %v", rule.Alert, err)
			}
		}
		if strings.Count(rule.Expr, "(") != strings.Count(rule.Expr, ")") || strings.Count(rule.Expr, `"`)%2 != 0 {
			t.Errorf("alert %s: %s does not parse", rule.Alert, rule.Expr)
		}
	}
	if len(seen) < 10 {
		t.Errorf("only %d alerts", len(seen))
	}
}

// unitSettings reads a unit file: the last value of each setting.
func unitSettings(text string) map[string]string {
	settings := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if key, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			settings[key] = value
		}
	}
	return settings
}

func TestUnitFitsTheDaemon(t *testing.T) {
	t.Parallel()
	unit := unitSettings(readFile(t, "examples/systemd/deliveryd.service"))
	for key, want := range map[string]string{
		"Type": "notify-reload", "KillMode": "mixed", "Restart": "always", "StateDirectory": "deliveryd",
		"ExecStart": "/usr/local/bin/deliveryd run --config /etc/deliveryd",
		// The daemon waits for its database before it is ready.
		"TimeoutStartSec": "infinity",
	} {
		if unit[key] != want {
			t.Errorf("%s=%s, want %s", key, unit[key], want)
		}
	}
	for _, forbidden := range []string{"ExecReload", "WatchdogSec"} { // notify-reload needs no command; the daemon sends no keep-alive
		if _, set := unit[forbidden]; set {
			t.Errorf("%s is set", forbidden)
		}
	}
	source := config.Source{Name: "defaults.hcl", Bytes: []byte("database { embedded = \"x\" }\nencryption { key = \"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\" }\n")}
	defaults, _ := config.Parse([]config.Source{source}, config.Options{})
	grace, err := strconv.Atoi(unit["TimeoutStopSec"])
	if err != nil {
		t.Fatal(err)
	}
	const aroundTheEngine = 30 * time.Second // app.stopMargin
	if least := defaults.Queue.DrainTimeout + aroundTheEngine; time.Duration(grace)*time.Second <= least {
		t.Errorf("systemd kills after %d s, the daemon may take %v", grace, least)
	}
}

// The commands that need no daemon are run as the pages show them.
func TestDocsHelpHasExitCodes(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if code := run(t.Context(), nil, []string{"help"}, strings.NewReader(""), &out, io.Discard); code != exitOK {
		t.Fatalf("exit code %d", code)
	}
	page := readFile(t, "docs/operations.md")
	for code := range 7 {
		if !strings.Contains(out.String(), fmt.Sprintf("\n  %d  ", code)) || !strings.Contains(page, fmt.Sprintf(" %d ", code)) {
			t.Errorf("exit code %d is not explained", code)
		}
	}
}
