package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// secrecyRounds is the number of configurations that one daemon is told to use.
const secrecyRounds = 24

// hidden are pieces of configurations with secrets in all sorts of places: $0 to $2
// are secrets as they are, FILE0 to FILE2 the paths of files that hold them. Some
// are right, some are not, and some make the plugin tell what it knows.
func hidden() []string {
	return []string{
		"destination \"acme\" \"told\" {\n  type = \"sink\"\n  config {\n    secret          = \"$0\"\n    log_secret      = true\n    validate_quotes = true\n  }\n}\n",
		"destination \"acme\" \"hook\" {\n  type = \"webhook\"\n  config {\n    url            = \"https://hook.example/\"\n    secret         = \"$1-$0\"\n    secret_headers = { \"X-Token\" = \"$2\" }\n  }\n}\n",
		"destination \"acme\" \"filed\" {\n  type = \"webhook\"\n  config {\n    url     = \"https://hook.example/\"\n    secret  = file(FILE0)\n    headers = { \"X-Of-A-File\" = trimspace(file(FILE1)) }\n  }\n}\n",
		"locals { whole = \"$1\" }\ndestination \"acme\" \"part\" {\n  type = \"sink\"\n  config { secret = \"${substr(local.whole, 0, 12)}${upper(trimspace(file(FILE2)))}\" }\n}\n",
		"api_key \"one-more\" {\n  organization = \"acme\"\n  role         = \"viewer\"\n  token        = \"$2\"\n}\n",
		"destination \"acme\" \"refused\" {\n  type = \"sink\"\n  config {\n    secret     = \"$0\"\n    log_secret = true\n    file       = \"/no/such/${trimspace(file(FILE1))}\"\n  }\n}\n",
		"destination \"acme\" \"fails\" {\n  type = \"sink\"\n  config {\n    secret     = \"$2\"\n    open_fails = true\n  }\n}\n",
		"destination \"acme\" \"typing\" {\n  type        = \"webhook\"\n  description = trimspace(file(FILE0))\n  concurrency = file(FILE1)\n  config {\n    url    = file(FILE2)\n    secrte = \"$0\"\n  }\n}\n",
		"destination \"acme\" \"wrong\" {\n  type = \"webhook\"\n  config {\n    url    = \"https://hook.example/\"\n    method = trimspace(file(FILE0))\n    secret = \"\"\n    tls {\n      key  = \"$1\"\n      cert = file(FILE2)\n    }\n  }\n}\n",
		"queue { lease = \"${file(FILE0)}s\" }\n",
		"encryption { previous_keys = [\"$0\", file(FILE1)] }\n",
		"egress { allow = [trimspace(file(FILE2)), \"10.0.0.0/8\"] }\n",
		"plugin \"sink\" { sha256 = trimspace(file(FILE1)) }\n",
	}
}

// hiding draws secrets and a text that hides them, now and then cut off as by an
// editor that is not done.
func hiding() *rapid.Generator[hideout] {
	return rapid.Custom(func(t *rapid.T) hideout {
		var h hideout
		for i := range h.secrets {
			h.secrets[i] = rapid.StringMatching(`[A-Za-z0-9]{24,40}`).Draw(t, fmt.Sprint("secret", i))
		}
		picked := rapid.SliceOfNDistinct(rapid.IntRange(0, len(hidden())-1), 1, 5, rapid.ID[int]).Draw(t, "pieces")
		for _, i := range picked {
			h.text += hidden()[i]
		}
		if rapid.IntRange(0, 4).Draw(t, "cut") == 0 {
			h.text = h.text[:rapid.IntRange(0, len(h.text)).Draw(t, "at")]
		}
		return h
	})
}

type hideout struct {
	secrets [3]string
	text    string
}

// TestSecretsNeverLeaveTheDaemon has one daemon reload configurations full of
// secrets, right ones and wrong ones, asks it and the command line what people ask,
// and looks for pieces of secrets in all that they ever said, and in the tables.
func TestSecretsNeverLeaveTheDaemon(t *testing.T) {
	t.Parallel()
	seed := rand.IntN(1 << 30)
	t.Logf("seed %d", seed)
	d := startSolo(t)
	var said strings.Builder
	secrets := []string{d.token, d.key}
	ask := func(method, path, body string) {
		status, text := d.ask(d.token, method, path, body)
		fmt.Fprintf(&said, "\n%s %s: %d %s\n", method, path, status, text)
	}
	for round := range secrecyRounds {
		h := hiding().Example(seed + round)
		source := h.text
		for i, value := range h.secrets {
			path := filepath.Join(d.dir, fmt.Sprint("secret-", round, "-", i))
			if err := os.WriteFile(path, []byte(value+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			source = strings.NewReplacer(fmt.Sprint("$", i), value, fmt.Sprint("FILE", i), fmt.Sprintf("%q", path)).Replace(source)
			secrets = append(secrets, value)
		}
		d.write(source)
		ask(http.MethodPost, "/v1/reload", "")
		ask(http.MethodGet, "/v1/destinations?organization=acme", "")
		for _, label := range []string{"told", "hook", "filed"} {
			ask(http.MethodGet, "/v1/destinations/"+label+"?organization=acme", "")
		}
		ask(http.MethodPost, "/v1/destinations/told/test?organization=acme", "")
		ask(http.MethodPost, "/v1/destinations?organization=acme", fmt.Sprintf(`{"label":"made-%d","type":"sink","config":{"secret":%q,"validate_quotes":true,"crash_after":"x"}}`, round, h.secrets[0]))
		ask(http.MethodPost, "/v1/destinations?organization=acme", fmt.Sprintf(`{"label":"made-%d","type":"sink","config":{"secret":%q,"validate_quotes":true,"log_secret":true}}`, round, h.secrets[1]))
		ask(http.MethodPost, fmt.Sprintf("/v1/destinations/made-%d/test?organization=acme", round), "")
		_, text := d.ask(h.secrets[2], http.MethodGet, "/v1/deliveries", "") // as a token
		said.WriteString(text)
		if round%6 == 0 {
			for _, args := range [][]string{
				{"config", "validate", "--config", d.config},
				{"config", "show", "--config", d.config},
				{"reload", "--json"},
				{"destinations", "list", "--organization", "acme", "--json"},
			} {
				fmt.Fprintf(&said, "\n%v: %s\n", args, d.run(args...))
			}
		}
	}
	for _, path := range []string{"/metrics", "/v1/plugins", "/v1/audit?organization=acme", "/v1/lanes?organization=acme", "/openapi.json"} {
		ask(http.MethodGet, path, "")
	}
	said.WriteString(d.query(`select concat_ws(' ', (select string_agg(d::text, ' ') from delivery_destinations d), (select string_agg(a::text, ' ') from audit_log a), (select string_agg(h::text, ' ') from destination_health h))`))
	d.stop()
	log, err := os.ReadFile(d.log)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"configuration reloaded"`, "mistake in the configuration"} {
		if !bytes.Contains(log, []byte(want)) {
			t.Errorf("the log has no %q: nothing was tried", want)
		}
	}
	all := said.String() + string(log)
	for _, value := range secrets {
		for _, piece := range pieces(value) {
			if at := strings.Index(all, piece); at >= 0 {
				t.Fatalf("%q of the secret %q was told:\n%s", piece, value, all[max(0, at-1500):min(len(all), at+300)])
			}
		}
	}
}

// pieces are what must not be seen of a secret: any 8 characters in a row, upper
// case or not, and the whole of it in the forms that programs write.
func pieces(value string) []string {
	all := []string{base64.StdEncoding.EncodeToString([]byte(value))[:len(value)], hex.EncodeToString([]byte(value)), url.QueryEscape(value)}
	for i := 0; i+8 <= len(value); i++ {
		all = append(all, value[i:i+8], strings.ToUpper(value[i:i+8]))
	}
	return all
}
