package s3

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/sdk/plugintest/versitygw"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// tokenService gives the administrator's keys to whoever asks, and keeps what
// was asked.
func tokenService(t *testing.T) (address string, asked chan url.Values) {
	t.Helper()
	asked = make(chan url.Values, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		asked <- r.PostForm
		action := r.PostForm.Get("Action")
		if r.PostForm.Get("ExternalId") == "wrong" {
			w.WriteHeader(http.StatusForbidden)
			_, _ = fmt.Fprint(w, `<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>`)
			return
		}
		_, _ = fmt.Fprintf(w, `<%[1]sResponse><%[1]sResult><Credentials><AccessKeyId>%[2]s</AccessKeyId><SecretAccessKey>%[3]s</SecretAccessKey><SessionToken></SessionToken><Expiration>%[4]s</Expiration></Credentials></%[1]sResult></%[1]sResponse>`,
			action, versitygw.AccessKey, versitygw.SecretKey, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	t.Cleanup(server.Close)
	return server.URL, asked
}

func withCredentials(t *testing.T, name, credentials string) *Config {
	t.Helper()
	return configOf(t, fmt.Sprintf(`{"bucket":%q,"endpoint":%q,"credentials":{%s}}`, name, gateway.URL, credentials))
}

// permitted is the environment of a plugin whose operator lets acme use the host's.
func permitted(extra map[string]string) func(string) string {
	return func(name string) string {
		if name == hostCredentialsEnv {
			return "globex, acme"
		}
		return extra[name]
	}
}

func TestAssumeRoleWithExternalID(t *testing.T) {
	t.Parallel()
	service, asked := tokenService(t)
	const form = `"access_key_id":"a","secret_access_key":"b","sts_endpoint":%q,"assume_role":{"role_arn":"arn:aws:iam::1:role/r","external_id":%q}`
	name := newBucket(t)
	b := opened(t, withCredentials(t, name, fmt.Sprintf(form, service, "ext-7")))
	for range 2 {
		if _, err := b.Deliver(t.Context(), delivery("1")); err != nil {
			t.Fatal(err)
		}
	}
	got := <-asked
	if got.Get("Action") != "AssumeRole" || got.Get("ExternalId") != "ext-7" || got.Get("RoleArn") != "arn:aws:iam::1:role/r" || got.Get("DurationSeconds") != "3600" || len(asked) != 0 {
		t.Errorf("asked for %v, and %d times more", got, len(asked))
	}
	b = opened(t, withCredentials(t, name, fmt.Sprintf(form, service, "wrong")))
	_, err := b.Deliver(t.Context(), delivery("1"))
	if class, code := classOfError(err); class != transport.ClassAuth || code != "s3.AccessDenied" {
		t.Errorf("%v: %s %s", err, class, code)
	}
}

func TestWebIdentity(t *testing.T) {
	t.Parallel()
	service, asked := tokenService(t)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("a.b.c"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := withCredentials(t, newBucket(t), fmt.Sprintf(`"sts_endpoint":%q,"web_identity":{"role_arn":"arn:aws:iam::1:role/r","token_file":%q}`, service, file))
	b, err := open(t.Context(), instance(t), c, &budget{left: sharedBuffers}, permitted(nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Deliver(t.Context(), delivery("1")); err != nil {
		t.Fatal(err)
	}
	if got := <-asked; got.Get("Action") != "AssumeRoleWithWebIdentity" || got.Get("WebIdentityToken") != "a.b.c" {
		t.Errorf("asked for %v", got)
	}
}

func TestProfileAndEnvironment(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "aws.ini")
	text := fmt.Sprintf("[archive]\naws_access_key_id = %s\naws_secret_access_key = %s\n", versitygw.AccessKey, versitygw.SecretKey)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	name := newBucket(t)
	environment := permitted(map[string]string{"AWS_ACCESS_KEY_ID": versitygw.AccessKey, "AWS_SECRET_ACCESS_KEY": versitygw.SecretKey})
	for i, credentials := range []string{fmt.Sprintf(`"profile":"archive","profile_files":[%q]`, file), `"environment":true`} {
		b, err := open(t.Context(), instance(t), withCredentials(t, name, credentials), &budget{left: sharedBuffers}, environment)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Deliver(t.Context(), delivery(fmt.Sprint(i))); err != nil {
			t.Errorf("%s: %v", credentials, err)
		}
	}
	for _, credentials := range []string{fmt.Sprintf(`"profile":"other","profile_files":[%q]`, file), `"environment":true`} {
		if _, err := open(t.Context(), instance(t), withCredentials(t, name, credentials), &budget{left: sharedBuffers}, permitted(nil)); err == nil {
			t.Errorf("%s: opened without keys", credentials)
		}
	}
}

// The metadata service is refused by the guard, and works where the operator
// lets it.
func TestInstanceRole(t *testing.T) {
	t.Parallel()
	c := withCredentials(t, newBucket(t), `"instance_role":true`)
	if _, err := open(t.Context(), instance(t), c, &budget{left: sharedBuffers}, permitted(nil)); err == nil || !strings.Contains(err.Error(), "169.254.169.254") {
		t.Errorf("opened: %v", err)
	}
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut:
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "600")
			_, _ = fmt.Fprint(w, "token")
		case strings.HasSuffix(r.URL.Path, "/security-credentials/"):
			_, _ = fmt.Fprint(w, "role")
		default:
			_, _ = fmt.Fprintf(w, `{"Code":"Success","AccessKeyId":%q,"SecretAccessKey":%q,"Token":"","Expiration":%q}`,
				versitygw.AccessKey, versitygw.SecretKey, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
		}
	}))
	t.Cleanup(metadata.Close)
	there := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		if address != "169.254.169.254:80" {
			return nil, errors.New("dialled " + address)
		}
		return new(net.Dialer).DialContext(ctx, network, strings.TrimPrefix(metadata.URL, "http://"))
	}}}
	provider, err := newCredentials(t.Context(), c, &httpClient{Client: there}, permitted(nil))
	if err != nil {
		t.Fatal(err)
	}
	if keys, err := provider.Retrieve(t.Context()); err != nil || keys.AccessKeyID != versitygw.AccessKey {
		t.Errorf("%v, %v", keys, err)
	}
}

// Who may write destinations must not get at what belongs to the host.
func TestHostCredentialsNeedTheOperator(t *testing.T) {
	t.Parallel()
	for _, credentials := range []string{
		`"environment":true`, `"instance_role":true`, `"profile":"p","profile_files":["/etc/shadow"]`,
		`"web_identity":{"role_arn":"arn:x","token_file":"/etc/shadow"},"sts_endpoint":"https://attacker.example"`,
	} {
		c := configOf(t, `{"bucket":"some-bucket","region":"x","credentials":{`+credentials+`}}`)
		for _, list := range []string{"", "globex", "acme2,globex"} {
			_, err := open(t.Context(), instance(t), c, &budget{}, func(name string) string {
				if name == hostCredentialsEnv {
					return list
				}
				return "x"
			})
			if err == nil || !strings.Contains(err.Error(), "may not use credentials of this host") {
				t.Errorf("%s, permitted to %q: %v", credentials, list, err)
			}
		}
	}
	if err := checkHostCredentials(&Credentials{AccessKeyID: "a"}, "acme", ""); err != nil {
		t.Error(err)
	}
}
