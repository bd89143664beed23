package s3

import (
	"fmt"
	"strings"
	"testing"
)

func TestConfigMistakesAreNamed(t *testing.T) {
	t.Parallel()
	const keys = `"credentials":{"access_key_id":"a","secret_access_key":"topsecret"}`
	for settings, want := range map[string]string{
		`"region":"x",` + keys: "",
		keys:                   "region: neither region nor endpoint",
		`"region":"x","endpoint":"https://u:p@h",` + keys:                                                "endpoint: the URL holds credentials",
		`"region":"x","key":"../{type}",` + keys:                                                         `key: it holds ".."`,
		`"region":"x","credentials":{"access_key_id":"a","secret_access_key":"b","instance_role":true}`:  "credentials: more than one source of credentials: access_key_id, instance_role",
		`"region":"x","credentials":{"access_key_id":"a"}`:                                               "credentials: access_key_id and secret_access_key belong together",
		`"region":"x","credentials":{"profile":"p"}`:                                                     "credentials.profile: a profile without profile_files",
		`"region":"x","metadata":{"deliveryd-id":"a"},` + keys:                                           `metadata["deliveryd-id"]: the name is the transport's own`,
		`"region":"x","encryption":{"mode":"customer"},` + keys:                                          "encryption.customer_key: mode customer and customer_key belong together",
		`"region":"x","encryption":{"mode":"customer","customer_key":"c2hvcnQ="},` + keys:                "encryption.customer_key: not 32 bytes in base64",
		`"region":"x","encryption":{"mode":"s3","kms_key":"k"},` + keys:                                  "encryption.mode: kms_key and bucket_key need mode kms",
		`"region":"x","object_lock":{},` + keys:                                                          "object_lock: nothing is locked",
		`"region":"x","object_lock":{"mode":"compliance"},` + keys:                                       "object_lock.mode: mode and retain_for, or retain_until, belong together",
		`"region":"x","object_lock":{"mode":"compliance","retain_until":"tomorrow"},` + keys:             "object_lock.retain_until: not a moment",
		`"region":"x","object_lock":{"mode":"compliance","retain_until":"2036-01-01T00:00:00Z"},` + keys: "",
		`"region":"x","object_lock":{"mode":"compliance","retain_for":"61368h"},` + keys:                 "",
		`"region":"x","ca":"nonsense",` + keys:                                                           "ca: ",
	} {
		_, found := check(`{"bucket":"some-bucket",` + settings + `}`)
		text := ""
		for _, d := range found {
			text += fmt.Sprintf("%s: %s\n", d.Path, d.Summary)
		}
		if (want == "") != (text == "") || !strings.Contains(text, want) || strings.Contains(text, "topsecret") {
			t.Errorf("%s:\n%swant %s", settings, text, want)
		}
	}
}
