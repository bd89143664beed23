package pluginhost

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

func anyText(most int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		return strings.Repeat(rapid.SampledFrom([]string{"a", "é", "漢", "🙂", "xyz"}).Draw(t, "text"), rapid.IntRange(0, most).Draw(t, "times"))
	})
}

func anyDuration() *rapid.Generator[*durationpb.Duration] {
	return rapid.Custom(func(t *rapid.T) *durationpb.Duration {
		if rapid.Bool().Draw(t, "nil") {
			return nil
		}
		return &durationpb.Duration{Seconds: rapid.Int64().Draw(t, "seconds"), Nanos: rapid.Int32().Draw(t, "nanos")}
	})
}

func anyResult() *rapid.Generator[*transportv1.Result] {
	return rapid.Custom(func(t *rapid.T) *transportv1.Result {
		r := &transportv1.Result{
			Id:   fmt.Sprint(rapid.IntRange(0, 6).Draw(t, "id")),
			Took: anyDuration().Draw(t, "took"), Resume: make([]byte, rapid.IntRange(0, 2*maxResume).Draw(t, "resume")),
			UsedSecrets: rapid.SliceOfN(anyText(100), 0, 20).Draw(t, "secrets"),
		}
		switch rapid.IntRange(0, 2).Draw(t, "outcome") {
		case 0:
			r.Outcome = &transportv1.Result_Success{Success: &transportv1.Success{
				Reference: anyText(300).Draw(t, "reference"), Excerpt: []byte(anyText(3000).Draw(t, "excerpt")),
				Details: rapid.MapOfN(anyText(300), anyText(300), 0, 20).Draw(t, "details"),
			}}
		case 1:
			r.Outcome = &transportv1.Result_Failure{Failure: &transportv1.Failure{
				Class: transportv1.Failure_Class(rapid.Int32Range(-2, 20).Draw(t, "class")), Code: anyText(100).Draw(t, "code"),
				Message: anyText(2000).Draw(t, "message"), Excerpt: []byte(anyText(3000).Draw(t, "excerpt")), RetryAfter: anyDuration().Draw(t, "retry"),
			}}
		}
		return r
	})
}

// TestAnyResultsKeepTheContract: whatever a plugin sends, each item gets at
// most one result, only items of the batch get one, and its fields are bounded.
func TestAnyResultsKeepTheContract(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var items []*transportv1.Item
		for i := range rapid.IntRange(1, 5).Draw(t, "items") {
			items = append(items, &transportv1.Item{Id: fmt.Sprint(i)})
		}
		track, err := newTracker(items, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		seen := make(map[string]bool)
		sent := 0
		for range rapid.IntRange(0, 4).Draw(t, "messages") {
			results := rapid.SliceOfN(anyResult(), 0, 6).Draw(t, "results")
			sent += len(results)
			for _, r := range track.accept(results) {
				if seen[r.GetId()] || !slices.ContainsFunc(items, func(i *transportv1.Item) bool { return i.GetId() == r.GetId() }) {
					t.Fatalf("accepted %s", r.GetId())
				}
				seen[r.GetId()] = true
				checkBounds(t, r)
			}
		}
		if track.left != len(items)-len(seen) || len(track.missing()) != track.left || track.strays != sent-len(seen) {
			t.Fatalf("left %d, missing %v, strays %d of %d results for %d items", track.left, track.missing(), track.strays, sent, len(items))
		}
		for _, id := range track.missing() {
			if seen[id] {
				t.Fatalf("%s is missing and has a result", id)
			}
		}
	})
}

func checkBounds(t *rapid.T, r *transportv1.Result) {
	s, f := r.GetSuccess(), r.GetFailure()
	texts := map[string]int{s.GetReference(): maxReference, f.GetCode(): maxCode, f.GetMessage(): maxMessage, string(s.GetExcerpt()): maxExcerpt, string(f.GetExcerpt()): maxExcerpt}
	for _, id := range r.GetUsedSecrets() {
		texts[id] = maxSecretID
	}
	for key, value := range s.GetDetails() {
		texts[key], texts[value] = max(texts[key], maxDetailField), max(texts[value], maxDetailField)
	}
	for text, limit := range texts {
		if len(text) > limit || !utf8.ValidString(text) {
			t.Fatalf("text of %d bytes, at most %d, valid %v", len(text), limit, utf8.ValidString(text))
		}
	}
	for _, d := range []*durationpb.Duration{r.GetTook(), f.GetRetryAfter()} {
		if d != nil && (d.CheckValid() != nil || d.AsDuration() < 0 || d.AsDuration() > maxRetryAfter) {
			t.Fatalf("duration %v", d)
		}
	}
	if _, known := transportv1.Failure_Class_name[int32(f.GetClass())]; !known {
		t.Fatalf("class %v", f.GetClass())
	}
	if len(r.GetResume()) > maxResume || len(r.GetUsedSecrets()) > maxUsedSecrets || len(s.GetDetails()) > maxDetails {
		t.Fatalf("%d bytes of resume, %d secrets, %d details", len(r.GetResume()), len(r.GetUsedSecrets()), len(s.GetDetails()))
	}
}

func TestResultsWithinBoundsStayAsTheyAre(t *testing.T) {
	t.Parallel()
	r := &transportv1.Result{
		Id: "1", Took: durationpb.New(time.Second), UsedSecrets: []string{"7"}, Resume: make([]byte, maxResume),
		Outcome: &transportv1.Result_Failure{Failure: &transportv1.Failure{
			Class: transportv1.Failure_CLASS_RATE_LIMITED, Code: strings.Repeat("c", maxCode), Message: strings.Repeat("m", maxMessage),
			Excerpt: make([]byte, maxExcerpt), RetryAfter: durationpb.New(maxRetryAfter),
		}},
	}
	if clipResult(r) {
		t.Errorf("clipped: %v", r)
	}
	r.Took = &durationpb.Duration{Seconds: math.MaxInt64}
	if !clipResult(r) || r.GetTook() != nil {
		t.Errorf("took %v", r.GetTook())
	}
}

func TestDescriptionsAreChecked(t *testing.T) {
	t.Parallel()
	attribute := func(name, kind string) *transportv1.Attribute { return &transportv1.Attribute{Name: name, Type: kind} }
	deep := &transportv1.ConfigSchema{}
	for range maxSchemaDepth {
		deep = &transportv1.ConfigSchema{Blocks: []*transportv1.Block{{Type: "b", Body: deep}}}
	}
	var wide []*transportv1.Attribute
	for i := range maxSchemaFields + 1 {
		wide = append(wide, attribute(fmt.Sprint("a", i), "string"))
	}
	tests := map[string]struct {
		change func(*transportv1.DescribeResponse)
		want   string
	}{
		"good":           {func(*transportv1.DescribeResponse) {}, ""},
		"pre-release":    {func(d *transportv1.DescribeResponse) { d.Version = "1.0.0-rc.1+build.5" }, ""},
		"name":           {func(d *transportv1.DescribeResponse) { d.Name = "other" }, "rename the file to deliveryd-transport-other"},
		"version":        {func(d *transportv1.DescribeResponse) { d.Version = "1.0" }, `version is "1.0"`},
		"long version":   {func(d *transportv1.DescribeResponse) { d.Version = "1.0.0-" + strings.Repeat("a", 1000) }, "must be like 1.2.3"},
		"summary":        {func(d *transportv1.DescribeResponse) { d.Summary = "" }, "no summary"},
		"schema":         {func(d *transportv1.DescribeResponse) { d.Schema = nil }, "no config schema"},
		"capabilities":   {func(d *transportv1.DescribeResponse) { d.Capabilities = nil }, "no capabilities"},
		"attribute name": {func(d *transportv1.DescribeResponse) { d.Schema.Attributes[0].Name = "URL" }, `the name "URL" in config`},
		"attribute type": {func(d *transportv1.DescribeResponse) { d.Schema.Attributes[0].Type = "" }, "no type for config.url"},
		"attribute twice": {func(d *transportv1.DescribeResponse) {
			d.Schema.Attributes = append(d.Schema.Attributes, attribute("url", "string"))
		}, "config.url twice"},
		"too deep": {func(d *transportv1.DescribeResponse) { d.Schema = deep }, "deeper than 8 levels"},
		"too wide": {func(d *transportv1.DescribeResponse) { d.Schema.Attributes = wide }, "more than 512"},
	}
	for name, test := range tests {
		d := &transportv1.DescribeResponse{
			Name: "webhook", Version: "1.2.3", Summary: "Posts.", Capabilities: &transportv1.Capabilities{},
			Schema: &transportv1.ConfigSchema{Attributes: []*transportv1.Attribute{attribute("url", "string")}},
		}
		test.change(d)
		err := checkDescription("webhook", d)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", name, err, test.want)
		}
	}
}
