package webhook

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/deliveryd/deliveryd/sdk/envelope"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

func guide(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../../../docs/webhooks.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// documented is the table of answers in the guide: classes by status or, for the
// rows that speak of many, by their words.
func documented(t *testing.T) map[string]string {
	t.Helper()
	classes := map[string]string{}
	for _, row := range regexp.MustCompile(`(?m)^\| ([0-9a-z, ]+) \| ([a-z ]+) \|`).FindAllStringSubmatch(guide(t), -1) {
		for status := range strings.SplitSeq(row[1], ", ") {
			classes[status] = row[2]
		}
	}
	if len(classes) < 15 {
		t.Fatalf("the table of answers has %d entries", len(classes))
	}
	return classes
}

func TestGuideSaysWhatAnswersMean(t *testing.T) {
	t.Parallel()
	classes := documented(t)
	words := map[transport.Class]string{
		transport.ClassRateLimited: "rate limited", transport.ClassAuth: "auth", transport.ClassConfig: "config",
		transport.ClassTransient: "transient", transport.ClassPermanent: "permanent",
	}
	for status := 300; status < 600; status++ {
		said := classes[strconv.Itoa(status)]
		for _, many := range []string{"other ", ""} {
			if said == "" {
				said = classes[many+strconv.Itoa(status/100)+"xx"]
			}
		}
		if is := words[classOfStatus(status)]; said != is {
			t.Errorf("%d: the guide says %q, it is %q", status, said, is)
		}
	}
}

// TestGuideShowsTheEnvelope: the example has the members that are sent, in order.
func TestGuideShowsTheEnvelope(t *testing.T) {
	t.Parallel()
	shown := regexp.MustCompile("(?s)```json\n(.*?)```").FindStringSubmatch(guide(t))
	if shown == nil {
		t.Fatal("no example on the page")
	}
	d := event("dlv_0198c5f26f3a7c3c9d5a2b1e4f607182-7")
	d.Data = []byte(`{"order": 42}`)
	d.Metadata = []byte(`{"source": "shop"}`)
	unspaced := strings.NewReplacer("\n", "", "  ", "", `": `, `":`, ", ", ",")
	if got, want := unspaced.Replace(string(envelope.Append(nil, d))), unspaced.Replace(shown[1]); got != want {
		t.Errorf("sent  %s\nshown %s", got, want)
	}
}
