package signature_test

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	standard "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"pgregory.net/rapid"

	"github.com/deliveryd/deliveryd/sdk/signature"
)

// The two known answers of other implementations' documentation.
func knownAnswers() []struct {
	secret, id, body, want string
	at                     int64
} {
	return []struct {
		secret, id, body, want string
		at                     int64
	}{
		{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", `{"test": 2432232314}`, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", 1614265330},
		{"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", `{"email":"test@example.com","username":"test_user"}`, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=", 1649367553},
	}
}

func key(t testing.TB, text string) *signature.Key {
	t.Helper()
	k, err := signature.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func headers(id string, at time.Time, signatures string) http.Header {
	h := http.Header{}
	h.Set(signature.HeaderID, id)
	h.Set(signature.HeaderTimestamp, strconv.FormatInt(at.Unix(), 10))
	h.Set(signature.HeaderSignature, signatures)
	return h
}

func verifier(t testing.TB, now time.Time, secrets ...string) *signature.Verifier {
	t.Helper()
	v, err := signature.NewVerifier(secrets, signature.WithClock(func() time.Time { return now }))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestKnownAnswers(t *testing.T) {
	t.Parallel()
	for _, c := range knownAnswers() {
		at := time.Unix(c.at, 0)
		for range 3 { // a used HMAC state must sign like a new one
			got, err := signature.Sign(c.id, at, []byte(c.body), key(t, c.secret))
			if err != nil || got != c.want {
				t.Fatalf("%s: got %q, %v; want %q", c.id, got, err, c.want)
			}
		}
		if err := verifier(t, at, c.secret).Verify(headers(c.id, at, c.want), []byte(c.body)); err != nil {
			t.Errorf("%s: %v", c.id, err)
		}
	}
}

// The reference implementation must accept what we sign, and we what it signs.
func TestAgreesWithReferenceLibrary(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.SampledFrom([]int{24, 30, 48, 63}).Draw(t, "key bytes") // without padding: what the library reads
		secret, err := signature.GenerateSecret(n)
		if err != nil {
			t.Fatal(err)
		}
		foreign, err := standard.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		ours, err := signature.ParseKey(secret)
		if err != nil {
			t.Fatal(err)
		}
		id := rapid.StringMatching(`[A-Za-z0-9_-]{1,40}`).Draw(t, "id")
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		now := time.Now()
		signed, err := signature.Sign(id, now, body, ours)
		if err != nil {
			t.Fatal(err)
		}
		if err := foreign.Verify(body, headers(id, now, signed)); err != nil {
			t.Fatalf("reference library: %v", err)
		}
		theirs, err := foreign.Sign(id, now, body)
		if err != nil || theirs != signed {
			t.Fatalf("reference library signs %q, %v; we %q", theirs, err, signed)
		}
	})
}

func TestPaddingDoesNotMatter(t *testing.T) {
	t.Parallel()
	for n := signature.MinKeyBytes; n <= signature.MaxKeyBytes; n++ {
		secret, err := signature.GenerateSecret(n)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Unix(1, 0)
		padded, err1 := signature.Sign("id", at, nil, key(t, secret))
		bare, err2 := signature.Sign("id", at, nil, key(t, strings.TrimRight(secret, "=")))
		if err := errors.Join(err1, err2); err != nil || padded != bare {
			t.Errorf("%d bytes: %q and %q differ: %v", n, padded, bare, err)
		}
	}
}

func TestKeysAreRefusedWithoutBeingQuoted(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"empty": "", "short": "hunter2hunter2hunter2", "long": strings.Repeat("hunter2", 10), "no base64": "whsec_hunter2!hunter2!hunter2!hunter2!hunt",
		"short whsec": "whsec_aHVudGVyMg==", "bad private": "whsk_hunter2hunter2", "bad public": "whpk_hunter2hunter2", "private no base64": "whsk_hunter2!",
		"mismatched halves": "whsk_" + strings.Repeat("A", 86),
	} {
		_, err := signature.ParseKey(text)
		if !errors.Is(err, signature.ErrKey) {
			t.Errorf("%s: error %v, want ErrKey", name, err)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error quotes the key: %v", name, err)
		}
	}
	k := key(t, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if s := fmt.Sprintf("%v %s %+v %#v", k, k, k, k); s != "[key] [key] [key] [key]" {
		t.Errorf("a key prints as %q", s)
	}
}

func TestIDsThatCouldBeConfusedAreRefused(t *testing.T) {
	t.Parallel()
	k := key(t, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	for _, id := range []string{"", "a.b", "a b", "a\nb", "a\x00", "é", strings.Repeat("a", 256)} {
		if _, err := signature.Sign(id, time.Now(), nil, k); !errors.Is(err, signature.ErrID) {
			t.Errorf("id %q: error %v, want ErrID", id, err)
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	const old, current, other = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "another-secret-of-32-characters!"
	now, body := time.Unix(1_700_000_000, 0), []byte(`{"a":1}`)
	sign := func(at time.Time, secrets ...string) string {
		var keys []*signature.Key
		for _, s := range secrets {
			keys = append(keys, key(t, s))
		}
		signed, err := signature.Sign("msg_1", at, body, keys...)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	good := sign(now, current)
	for _, c := range []struct {
		name   string
		header http.Header
		body   string
		want   error
	}{
		{"good", headers("msg_1", now, good), `{"a":1}`, nil},
		{"rotating: both", headers("msg_1", now, sign(now, old, current)), `{"a":1}`, nil},
		{"old key alone is accepted while listed", headers("msg_1", now, sign(now, old)), `{"a":1}`, nil},
		{"unknown versions are skipped", headers("msg_1", now, "v2,AAAA v1a,AAAA "+good), `{"a":1}`, nil},
		{"five minutes ago", headers("msg_1", now.Add(-5*time.Minute), sign(now.Add(-5*time.Minute), current)), `{"a":1}`, nil},
		{"five minutes ahead", headers("msg_1", now.Add(5*time.Minute), sign(now.Add(5*time.Minute), current)), `{"a":1}`, nil},
		{"too old", headers("msg_1", now.Add(-301*time.Second), sign(now.Add(-301*time.Second), current)), `{"a":1}`, signature.ErrTimestamp},
		{"too far ahead", headers("msg_1", now.Add(301*time.Second), sign(now.Add(301*time.Second), current)), `{"a":1}`, signature.ErrTimestamp},
		{"foreign key", headers("msg_1", now, sign(now, other)), `{"a":1}`, signature.ErrSignature},
		{"changed body", headers("msg_1", now, good), `{"a":2}`, signature.ErrSignature},
		{"changed id", headers("msg_2", now, good), `{"a":1}`, signature.ErrSignature},
		{"changed time", headers("msg_1", now.Add(time.Second), good), `{"a":1}`, signature.ErrSignature},
		{"v1 signature presented as v1a", headers("msg_1", now, strings.Replace(good, "v1,", "v1a,", 1)), `{"a":1}`, signature.ErrSignature},
		{"no version", headers("msg_1", now, strings.TrimPrefix(good, "v1,")), `{"a":1}`, signature.ErrSignature},
		{"beyond the bound", headers("msg_1", now, strings.Repeat("v1,AAAA ", 16)+good), `{"a":1}`, signature.ErrSignature},
		{"no id", headers("", now, good), `{"a":1}`, signature.ErrHeader},
		{"id with a dot", headers("msg.1", now, good), `{"a":1}`, signature.ErrHeader},
		{"no signature", headers("msg_1", now, ""), `{"a":1}`, signature.ErrHeader},
		{"endless header", headers("msg_1", now, strings.Repeat("v1,", 2000)), `{"a":1}`, signature.ErrHeader},
		{"signed time", http.Header{"Webhook-Id": {"msg_1"}, "Webhook-Timestamp": {"+1700000000"}, "Webhook-Signature": {good}}, `{"a":1}`, signature.ErrHeader},
	} {
		if err := verifier(t, now, current, old).Verify(c.header, []byte(c.body)); !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := signature.NewVerifier(nil); !errors.Is(err, signature.ErrKey) {
		t.Errorf("no secrets: error %v, want ErrKey", err)
	}
}

func TestEd25519(t *testing.T) {
	t.Parallel()
	private, public, err := signature.GenerateKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	now, body := time.Now(), []byte("body")
	hmacKey := key(t, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	signed, err := signature.Sign("msg_1", now, body, hmacKey, key(t, private))
	if err != nil || !strings.Contains(signed, " v1a,") {
		t.Fatalf("%q, %v", signed, err)
	}
	for _, secret := range []string{public, private, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"} {
		if err := verifier(t, now, secret).Verify(headers("msg_1", now, signed), body); err != nil {
			t.Errorf("%.5s: %v", secret, err)
		}
		if err := verifier(t, now, secret).Verify(headers("msg_1", now, signed), []byte("Body")); !errors.Is(err, signature.ErrSignature) {
			t.Errorf("%.5s: changed body: %v", secret, err)
		}
	}
	if _, err := signature.Sign("msg_1", now, body, key(t, public)); !errors.Is(err, signature.ErrKey) {
		t.Errorf("signing with a public key: %v", err)
	}
	// Receivers that know only v1 must still find theirs.
	foreign, err := standard.NewWebhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	if err := foreign.Verify(body, headers("msg_1", now, signed)); err != nil {
		t.Errorf("reference library beside v1a: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	for _, c := range knownAnswers() {
		f.Add(c.id, strconv.FormatInt(c.at, 10), c.want, []byte(c.body))
	}
	f.Add("a", "1", "v1,,v1a, v1", []byte{})
	v, err := signature.NewVerifier([]string{"a-secret-that-nobody-can-guess-at-all"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, id, at, signatures string, body []byte) {
		h := http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {at}, "Webhook-Signature": {signatures}}
		if err := v.Verify(h, body); err == nil {
			t.Fatal("a forged message was accepted")
		}
	})
}

func FuzzParseKey(f *testing.F) {
	f.Add("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	f.Add("whsk_AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := signature.ParseKey(text)
		if (k == nil) == (err == nil) {
			t.Fatalf("key %v, error %v", k, err)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	k := key(b, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	body, dst := make([]byte, 1024), make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		dst = k.Append(dst[:0], "msg_1", 1_700_000_000, body)
	}
}
