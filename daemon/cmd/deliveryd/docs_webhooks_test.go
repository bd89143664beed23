package main

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

var pythonBlock = regexp.MustCompile("(?s)```python\n(.*?)```")

// The verification that receivers are shown is run on the known answers of the
// specification, and on what must be refused.
func TestDocsVerifyWebhooks(t *testing.T) {
	t.Parallel()
	sample := pythonBlock.FindStringSubmatch(readFile(t, "docs/webhooks.md"))
	if sample == nil {
		t.Fatal("no sample on the page")
	}
	script := sample[1] + `
secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
headers = {"webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp": "1614265330",
    "webhook-signature": "v1a,AAAA v1,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="}
verify(secret, headers, body, 1614265330)
verify(secret, headers, body, 1614265330 - 299)
for refused in [(secret, headers, body + b" ", 1614265330), (secret, headers, body, 1614265330 + 301), ("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", headers, body, 1614265330)]:
    try:
        verify(*refused)
    except ValueError:
        continue
    raise SystemExit("accepted")
print("all well")
`
	out, err := exec.CommandContext(t.Context(), "python3", "-c", script).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "all well") {
		t.Errorf("%v\n%s", err, out)
	}
}
