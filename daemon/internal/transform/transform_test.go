package transform_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"io"
	"os"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/klauspost/compress/zstd"

	"github.com/deliveryd/deliveryd/daemon/internal/transform"
)

func TestReceiversReadWhatWasTransformed(t *testing.T) {
	t.Parallel()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	entity, public := openPGP(t)
	body := bytes.Repeat([]byte("article,sold\n"), 100_000)
	unage := func(r io.Reader) (io.Reader, error) { return age.Decrypt(r, identity) }
	unpgp := func(r io.Reader) (io.Reader, error) {
		message, err := openpgp.ReadMessage(r, openpgp.EntityList{entity}, nil, nil)
		if err != nil {
			return nil, err
		}
		return message.UnverifiedBody, nil
	}
	gunzip := func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }
	unzstd := func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r) }
	type undo = func(io.Reader) (io.Reader, error)
	for name, c := range map[string]struct {
		settings transform.Settings
		undo     []undo
	}{
		"r.csv.gz":      {transform.Settings{Compress: "gzip"}, []undo{gunzip}},
		"r.csv.zst":     {transform.Settings{Compress: "zstd"}, []undo{unzstd}},
		"r.csv.age":     {transform.Settings{EncryptTo: []string{identity.Recipient().String()}}, []undo{unage}},
		"r.csv.gpg":     {transform.Settings{EncryptTo: []string{public}}, []undo{unpgp}},
		"r.csv.zst.age": {transform.Settings{Compress: "zstd", EncryptTo: []string{identity.Recipient().String()}}, []undo{unage, unzstd}},
		"r.csv.gz.gpg":  {transform.Settings{Compress: "gzip", EncryptTo: []string{public}}, []undo{unpgp, gunzip}},
	} {
		if err := c.settings.Validate(); err != nil || !c.settings.On() {
			t.Fatalf("%s: on: %t, %v", name, c.settings.On(), err)
		}
		if got := c.settings.Names("r.csv", "text/csv").Name; got != name {
			t.Errorf("name %s, want %s", got, name)
		}
		file, size, digest, err := c.settings.Spool(t.TempDir(), bytes.NewReader(body))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		stored, err := io.ReadAll(file)
		sum := sha256.Sum256(stored)
		if err != nil || int64(len(stored)) != size || !bytes.Equal(sum[:], digest) {
			t.Errorf("%s: the spool has %d bytes, want %d as it says, %v", name, len(stored), size, err)
		}
		_ = file.Close()
		var r io.Reader = bytes.NewReader(stored)
		for _, undo := range c.undo {
			if r, err = undo(r); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%s: a receiver reads %d bytes, %v", name, len(got), err)
		}
	}
}

func openPGP(t *testing.T) (entity *openpgp.Entity, public string) {
	t.Helper()
	entity, err := openpgp.NewEntity("partner", "", "partner@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	w, err := armor.Encode(&text, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := entity.Serialize(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return entity, text.String()
}

func TestKeysThatAreRefused(t *testing.T) {
	t.Parallel()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	_, public := openPGP(t)
	for name, key := range map[string]string{
		"a private key": identity.String(), "nothing": "", "a typo": "age1qqqq", "no armor": "-----BEGIN PGP PUBLIC KEY BLOCK-----\nx",
		"an SSH key that cannot encrypt": "ssh-dss AAAA",
	} {
		if err := transform.CheckKey(key); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	mixed := transform.Settings{EncryptTo: []string{identity.Recipient().String(), public}}
	if err := mixed.Validate(); err == nil {
		t.Error("a mixture of keys is taken")
	}
}

func TestSpoolLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := transform.Settings{Compress: "gzip"}
	file, _, _, err := s.Spool(dir, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}
