package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/daemon/internal/config"
)

var environment = regexp.MustCompile(`env\("([A-Z0-9_]+)"`)

// environmentOf gives every variable that a configuration asks for a value that
// fits its name.
func environmentOf(t *testing.T, text string) []string {
	t.Helper()
	webhook, err := os.ReadFile(filepath.Join(binaries, "plugins/deliveryd-transport-webhook"))
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(webhook)
	variables := []string{"PATH=" + os.Getenv("PATH"), "XDG_CACHE_HOME=" + t.TempDir(), "DELIVERYD_PLUGINS=" + filepath.Join(binaries, transports)}
	for i, match := range environment.FindAllStringSubmatch(text, -1) {
		name, value := match[1], ""
		switch {
		case name == "DELIVERYD_CERT":
			value = certificate(t)
		case name == "DELIVERYD_CERT_KEY":
			continue // comes with the certificate
		case name == "DELIVERYD_PLUGINS", strings.Contains(text, `env("`+name+`", "`): // set above, or has a default
			continue
		case strings.HasSuffix(name, "_URL"):
			value = "postgres://deliveryd@db.example/deliveryd"
		case strings.HasSuffix(name, "_TOKEN"):
			value = "token-of-the-documentation-" + strconv.Itoa(i)
		case strings.HasSuffix(name, "_SECRET"):
			value = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
		case strings.HasSuffix(name, "_SHA256"):
			value = hex.EncodeToString(digest[:])
		case strings.HasSuffix(name, "_KEY"):
			value = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
		case strings.HasSuffix(name, "_KEY_PEM"):
			der, err := x509.MarshalPKCS8PrivateKey(ed25519.NewKeyFromSeed(digest[:]))
			if err != nil {
				t.Fatal(err)
			}
			value = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		case strings.HasSuffix(name, "_RECEIVER"):
			value = "https://your.endpoint.example/hook"
		default:
			t.Fatalf("no value for the variable %s", name)
		}
		variables = append(variables, name+"="+value)
		if name == "DELIVERYD_CERT" {
			variables = append(variables, "DELIVERYD_CERT_KEY="+value) // one file holds both
		}
	}
	return variables
}

// certificate writes a certificate with its key into one file.
func certificate(t *testing.T) string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"deliveryd.example"}}
	der, err := x509.CreateCertificate(nil, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "tls.pem")
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// validate runs `deliveryd config validate` as a reader would.
func validate(t *testing.T, text string, paths ...string) {
	t.Helper()
	args := []string{"config", "validate"}
	for _, path := range paths {
		args = append(args, "--config", path)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(binaries, "deliveryd"), args...)
	cmd.Env = environmentOf(t, text)
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %v\n%s", paths, err, output)
	}
}

func TestExampleConfigsAreValid(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"single.hcl", "fleet.hcl", "organizations"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(repository, "examples/configs", name)
			files := []string{path}
			if info, err := os.Stat(path); err != nil || info.IsDir() {
				if files, err = filepath.Glob(filepath.Join(path, "*.hcl")); err != nil || len(files) != 3 {
					t.Fatalf("files are %v: %v", files, err)
				}
			}
			var text strings.Builder
			for _, file := range files {
				source, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				text.Write(source)
				if formatted, found := config.Format(config.Source{Name: file, Bytes: source}); found.HasErrors() || !bytes.Equal(formatted, source) {
					t.Errorf("%s is not in the canonical format", file)
				}
			}
			validate(t, text.String(), path)
		})
	}
	if entries, err := os.ReadDir(filepath.Join(repository, "examples/configs")); err != nil || len(entries) != 3 {
		t.Errorf("a configuration that is not tested: %v, %v", entries, err)
	}
}

// hereDocument is a configuration that a shell command writes.
var hereDocument = regexp.MustCompile(`(?ms)<<'HCL'$(.*?)^HCL$`)

// Snippets are pieces: what a page leaves out is added.
func TestDocsSnippetsAreValidForThePlugins(t *testing.T) {
	t.Parallel()
	checked := 0
	for name, page := range pages(t) {
		snippets := config.Snippets(name, []byte(page))
		for _, match := range hereDocument.FindAllStringSubmatch(page, -1) {
			snippets = append(snippets, config.Source{Name: name, Bytes: []byte(match[1])})
		}
		for _, snippet := range snippets {
			checked++
			text := string(snippet.Bytes)
			for block, standing := range map[string]string{
				"database":   `database { url = env("DATABASE_URL") }`,
				"encryption": `encryption { key = env("ENCRYPTION_KEY") }`,
				"plugins":    `plugins { directory = nonsensitive(env("DELIVERYD_PLUGINS")) }`,
			} {
				if !regexp.MustCompile(`(?m)^` + block + `\b`).MatchString(text) {
					text += "\n" + standing + "\n"
				}
			}
			path := filepath.Join(t.TempDir(), "snippet.hcl")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			validate(t, text, path)
		}
	}
	if checked < 2 {
		t.Errorf("only %d snippets found", checked)
	}
}
