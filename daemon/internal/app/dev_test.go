package app

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/config"
	"github.com/deliveryd/deliveryd/sdk/signature"
)

// write makes a configuration file and returns its path.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "delivery.hcl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func devLoad(t *testing.T, d *Dev, paths ...string) *config.Config {
	t.Helper()
	cfg, found, err := d.load(t.Context(), paths)
	if err != nil {
		t.Fatal(err)
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	return cfg
}

const oneDestination = `
destination "acme" "billing" {
  type = "webhook"
  config {}
}
`

func TestDevMakesKeysOnceAndKeepsThem(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	first := devLoad(t, &Dev{Data: data}, write(t, oneDestination))
	again := devLoad(t, &Dev{Data: data}, write(t, oneDestination))
	if first.Encryption.Key.Base64() != again.Encryption.Key.Base64() {
		t.Error("the second start has another encryption key: what the first sealed is lost")
	}
	if len(first.APIKeys) != 1 || !first.APIKeys[0].Token.Equal(again.APIKeys[0].Token) || first.APIKeys[0].Organization != "acme" {
		t.Errorf("API keys are %+v and %+v", first.APIKeys, again.APIKeys)
	}
	if first.Database.Embedded != filepath.Join(data, "postgres") {
		t.Errorf("the private PostgreSQL is in %q", first.Database.Embedded)
	}
	for _, name := range []string{devKeyFile, devTokenFile} {
		info, err := os.Stat(filepath.Join(data, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; only its owner may read it", name, info, err)
		}
	}
}

func TestDevLeavesAConfigurationThatHasKeysAlone(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	d := &Dev{Data: data, Listen: "127.0.0.1:0"}
	cfg := devLoad(t, d, write(t, oneDestination+`
encryption { key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=" }
api_key "mine" {
  organization = "acme"
  role         = "producer"
  token        = "a-token-of-my-own"
}
`))
	if cfg.Encryption.Key.Base64() != "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=" || len(cfg.APIKeys) != 1 || d.token != "" {
		t.Errorf("the configuration's own keys were replaced: %+v", cfg.APIKeys)
	}
	if cfg.HTTP.Address != "127.0.0.1:0" {
		t.Errorf("--listen was not heeded: %q", cfg.HTTP.Address)
	}
	if files, _ := os.ReadDir(data); len(files) > 0 {
		t.Errorf("files were made that nothing uses: %v", files)
	}
	var out bytes.Buffer
	d.welcome(&out, cfg, "http://127.0.0.1:1")
	if strings.Contains(out.String(), "a-token-of-my-own") {
		t.Errorf("the user's own token is printed:\n%s", out.String())
	}
	if !strings.Contains(out.String(), `token of api_key "mine"`) {
		t.Errorf("nothing says which token to use:\n%s", out.String())
	}
}

func TestDevKeyOfSeveralOrganizationsNamesOneInTheCurlLine(t *testing.T) {
	t.Parallel()
	d := &Dev{Data: t.TempDir()}
	cfg := devLoad(t, d, write(t, oneDestination+strings.ReplaceAll(oneDestination, "acme", "globex")))
	if cfg.APIKeys[0].Organization != config.AllOrganizations {
		t.Errorf("the key is for %q", cfg.APIKeys[0].Organization)
	}
	var out bytes.Buffer
	d.welcome(&out, cfg, "http://127.0.0.1:1")
	if !strings.Contains(out.String(), "/v1/deliveries?organization=acme'") {
		t.Errorf("the line does not say which organization is meant:\n%s", out.String())
	}
}

func TestDevRefusesADamagedKeyFile(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	if err := os.WriteFile(filepath.Join(data, devKeyFile), []byte("not a key of 32 bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := (&Dev{Data: data}).load(t.Context(), []string{write(t, oneDestination)})
	if err == nil || !strings.Contains(err.Error(), devKeyFile) || strings.Contains(err.Error(), "not a key of") {
		t.Errorf("error is %v; it must name the file and not what is in it", err)
	}
}

func TestTrialPrintsWhatIsSignedAndRefusesTheRest(t *testing.T) {
	t.Parallel()
	d := &Dev{Data: t.TempDir()}
	cfg := devLoad(t, d)
	defer func() { _ = d.echo.listener.Close() }()
	if len(cfg.Destinations) != 1 || !cfg.Destinations[0].Default {
		t.Fatalf("the trial has the destinations %+v", cfg.Destinations)
	}
	var out bytes.Buffer
	d.echo.out = &out
	key, err := signature.ParseKey(d.echo.key)
	if err != nil {
		t.Fatal(err)
	}
	post := func(body string, keys ...*signature.Key) int {
		now := time.Now()
		signed, err := signature.Sign("msg_1", now, []byte(body), keys...)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set(signature.HeaderID, "msg_1")
		r.Header.Set(signature.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
		r.Header.Set(signature.HeaderSignature, signed)
		w := httptest.NewRecorder()
		d.echo.ServeHTTP(w, r)
		return w.Code
	}
	if code := post(`{"type":"greeting","data":{"text":"a\u0000b `+"\u009b"+`31m"}}`, key); code != http.StatusNoContent {
		t.Errorf("a signed delivery: %d", code)
	}
	if got := out.String(); !strings.Contains(got, `"greeting"`) || strings.Contains(got, "\u009b") {
		t.Errorf("printed was %q", got)
	}
	other, err := signature.NewKey(bytes.Repeat([]byte("k"), 32))
	if err != nil {
		t.Fatal(err)
	}
	if code := post(`{}`, other); code != http.StatusUnauthorized {
		t.Errorf("signed with another key: %d", code)
	}
}
