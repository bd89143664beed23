package signature_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/deliveryd/deliveryd/sdk/signature"
)

const plain = "It's a Secret to Everybody"

func TestCustomForms(t *testing.T) {
	t.Parallel()
	mac := func(h func() hash.Hash, text string) []byte {
		m := hmac.New(h, []byte(plain))
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	for want, form := range map[string]signature.Form{
		// The example of GitHub's documentation.
		"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17":            {signature.SHA256, signature.Hex, signature.ContentBody, "sha256="},
		"t=1700000000,v1=" + hex.EncodeToString(mac(sha256.New, "1700000000.Hello, World!")): {signature.SHA256, signature.Hex, signature.ContentTimestampBody, "t={timestamp},v1="},
		base64.StdEncoding.EncodeToString(mac(sha512.New, "msg_1.1700000000.Hello, World!")): {signature.SHA512, signature.Base64, signature.ContentIDTimestampBody, ""},
	} {
		c, err := key(t, plain).Custom(form)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got := string(c.Append(nil, "msg_1", 1_700_000_000, []byte("Hello, World!"))); got != want {
				t.Errorf("%+v: %s, want %s", form, got, want)
			}
		}
		if s := fmt.Sprintf("%v %#v", c, c); s != "[key] [key]" {
			t.Errorf("a key prints as %q", s)
		}
	}
	good := signature.Form{Algorithm: signature.SHA256, Encoding: signature.Hex, Content: signature.ContentBody}
	for _, change := range []func(*signature.Form){
		func(f *signature.Form) { f.Algorithm = "md5" }, func(f *signature.Form) { f.Encoding = "" }, func(f *signature.Form) { f.Content = "header" },
	} {
		broken := good
		change(&broken)
		if _, err := key(t, plain).Custom(broken); err == nil {
			t.Errorf("%+v was taken", broken)
		}
	}
	private, _, err := signature.GenerateKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := key(t, private).Custom(good); !errors.Is(err, signature.ErrKey) {
		t.Errorf("Ed25519: %v", err)
	}
}

func TestStreamSignsLikeTheWhole(t *testing.T) {
	t.Parallel()
	private, _, err := signature.GenerateKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	keys := []*signature.Key{key(t, plain), key(t, private), key(t, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")}
	custom, err := keys[0].Custom(signature.Form{Algorithm: signature.SHA512, Encoding: signature.Hex, Content: signature.ContentIDTimestampBody, Prefix: "{timestamp}="})
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		at := time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "at"), 0)
		s, err := signature.NewStream("msg_1", at, custom, keys...)
		if err != nil {
			t.Fatal(err)
		}
		var body []byte
		for _, part := range rapid.SliceOf(rapid.SliceOf(rapid.Byte())).Draw(t, "parts") {
			body = append(body, part...)
			if _, err := s.Write(part); err != nil {
				t.Fatal(err)
			}
		}
		want, err := signature.Sign("msg_1", at, body, keys...)
		if err != nil || s.Header() != want || s.Timestamp() != fmt.Sprint(at.Unix()) {
			t.Fatalf("%s at %s, want %s: %v", s.Header(), s.Timestamp(), want, err)
		}
		if want := string(custom.Append(nil, "msg_1", at.Unix(), body)); s.CustomHeader() != want {
			t.Fatalf("%s, want %s", s.CustomHeader(), want)
		}
	})
}

func TestStreamLimits(t *testing.T) {
	t.Parallel()
	private, public, err := signature.GenerateKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signature.NewStream("a.b", time.Now(), nil, key(t, plain)); !errors.Is(err, signature.ErrID) {
		t.Errorf("id: %v", err)
	}
	for _, keys := range [][]*signature.Key{nil, {key(t, public)}} {
		if _, err := signature.NewStream("a", time.Now(), nil, keys...); !errors.Is(err, signature.ErrKey) {
			t.Errorf("keys %v: %v", keys, err)
		}
	}
	s, err := signature.NewStream("a", time.Now(), nil, key(t, private))
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 32<<20)
	_, err1 := s.Write(block)
	_, err2 := s.Write(block)
	if err1 != nil || !errors.Is(err2, signature.ErrTooLong) {
		t.Errorf("%v, then %v; want the second refused", err1, err2)
	}
	if s.CustomHeader() != "" {
		t.Error("a custom header without a form")
	}
}
