package config

import (
	"strings"
	"testing"
)

func TestPluginBlockInSeveralFiles(t *testing.T) {
	t.Parallel()
	digest := strings.Repeat("ab", 32)
	for name, test := range map[string]struct {
		files   []string // a.hcl, b.hcl
		problem string   // empty: the settings are joined
	}{
		"parts":                 {[]string{`plugin "webhook" { log_level = "debug" }`, `plugin "webhook" { sha256 = "` + digest + `" }`}, ""},
		"parts, the other way":  {[]string{`plugin "webhook" { sha256 = "` + digest + `" }`, `plugin "webhook" { log_level = "debug" }`}, ""},
		"one attribute twice":   {[]string{`plugin "webhook" { sha256 = "` + digest + `" }`, "\n" + `plugin "webhook" { sha256 = "` + digest + `" }`}, "b.hcl:2:20: sha256 is given twice"},
		"twice in one file":     {[]string{"plugin \"webhook\" {}\nplugin \"webhook\" {}", ``}, `a.hcl:2:1: plugin "webhook" is given twice`},
		"other blocks not":      {[]string{`http {}`, `http {}`}, "b.hcl:1:1: http is given twice"},
		"invalid in the second": {[]string{`plugin "webhook" {}`, `plugin "webhook" { sha256 = "abc" }`}, "b.hcl:1:29"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, found := Parse([]Source{
				{Name: "a.hcl", Bytes: []byte(test.files[0])},
				{Name: "b.hcl", Bytes: []byte(test.files[1])},
				{Name: "c.hcl", Bytes: []byte("database { embedded = \"d\" }\nencryption { key = env(\"KEY\") }")},
			}, Options{LookupEnv: func(string) (string, bool) { return "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", true }})
			var all []string
			for _, d := range found {
				all = append(all, d.String())
			}
			if test.problem != "" {
				if len(all) != 1 || !strings.Contains(all[0], test.problem) {
					t.Errorf("found %q, want one that has %q", all, test.problem)
				}
				return
			}
			if len(all) > 0 {
				t.Fatalf("found %q", all)
			}
			if len(cfg.PluginSettings) != 1 || cfg.PluginSettings[0].SHA256 != digest || cfg.PluginSettings[0].LogLevel != "debug" {
				t.Errorf("the settings are %+v", cfg.PluginSettings[0])
			}
		})
	}
}
