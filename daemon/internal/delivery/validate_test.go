package delivery

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
)

// anyText is text from a client: mostly plain, sometimes what no column can hold.
func anyText(label string) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		switch rapid.IntRange(0, 9).Draw(t, label+" kind") {
		case 0:
			return string(rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, label))
		case 1:
			return strings.Repeat(rapid.SampledFrom([]string{"a", "ä", "😀"}).Draw(t, label), rapid.SampledFrom([]int{254, 255, 256, 1000}).Draw(t, label+" length"))
		case 2:
			return ""
		default:
			return rapid.StringMatching(`[a-z0-9._-]{1,40}`).Draw(t, label)
		}
	})
}

// TestWhatPassesTheChecksFitsTheTable draws requests of all kinds: each is refused
// with a code, a place and a message, or PostgreSQL takes its row.
func TestWhatPassesTheChecksFitsTheTable(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t)
	limits := Limits{MaxPayload: 10_000}.withDefaults()
	passed := 0
	rapid.Check(t, func(rt *rapid.T) {
		now := time.Now()
		at := func(label string) *time.Time {
			if rapid.Bool().Draw(rt, label+" absent") {
				return nil
			}
			v := now.Add(time.Duration(rapid.Int64Range(-1e6, 1e8).Draw(rt, label)) * time.Second)
			return &v
		}
		r := Request{
			Destinations: rapid.SliceOfN(anyText("destination"), 0, 60).Draw(rt, "destinations"),
			Default:      rapid.IntRange(0, 9).Draw(rt, "default") == 0,
			Payload: Payload{
				Type: anyText("type").Draw(rt, "type"), Data: json.RawMessage(jsonText(rt, 2)),
			},
			Priority:       rapid.IntRange(-2, 12).Draw(rt, "priority"),
			ScheduledAt:    at("scheduled"),
			ExpiresAt:      at("expires"),
			IdempotencyKey: anyText("key").Draw(rt, "key"),
			CorrelationID:  anyText("correlation").Draw(rt, "correlation"),
		}
		if rapid.Bool().Draw(rt, "metadata") {
			r.Payload.Metadata = json.RawMessage(jsonText(rt, 1))
		}
		if p := limits.check(&r, now); p != nil {
			if p.Code == "" || p.Message == "" || p.Field == "" || len(p.Error()) > 1000 {
				rt.Fatalf("%+v says too little or too much", p)
			}
			return
		}
		passed++
		payload, err := r.Payload.encode()
		if err != nil {
			rt.Fatal(err)
		}
		// The table of the queue itself would need a fresh id for each; the types are what counts.
		_, err = pool.Exec(t.Context(), `select $1::text::jsonb, $2::text::varchar(255), $3::text::varchar(255), $4::timestamptz, $5::timestamptz`,
			payload, r.IdempotencyKey, r.CorrelationID, r.ScheduledAt, r.ExpiresAt)
		if err != nil {
			rt.Fatalf("%s passes, and the database says %v", payload, err)
		}
		for _, ref := range r.Destinations {
			if _, err := pool.Exec(t.Context(), "select $1::text", ref); err != nil {
				rt.Fatalf("destination %q passes, and the database says %v", ref, err)
			}
		}
	})
	t.Logf("%d requests passed", passed)
}

// TestHashTellsRequestsApart changes one part of a request at a time: the hash
// changes with each, but for white space between JSON tokens.
func TestHashTellsRequestsApart(t *testing.T) {
	t.Parallel()
	base := func() Request {
		return Request{Destinations: []string{"a", "b"}, Payload: Payload{Type: "t", Data: []byte(`{"n": 1}`)}}
	}
	now := time.Now()
	later := now.Add(time.Nanosecond)
	seen := map[string]string{}
	for name, change := range map[string]func(*Request){
		"nothing":            func(*Request) {},
		"destinations":       func(r *Request) { r.Destinations = []string{"a"} },
		"joined":             func(r *Request) { r.Destinations = []string{"ab"} },
		"order":              func(r *Request) { r.Destinations = []string{"b", "a"} },
		"default":            func(r *Request) { r.Destinations, r.Default = nil, true },
		"type":               func(r *Request) { r.Payload.Type = "u" },
		"data":               func(r *Request) { r.Payload.Data = []byte(`{"n": 2}`) },
		"white space inside": func(r *Request) { r.Payload.Data = []byte(`{"n ": 1}`) },
		"metadata":           func(r *Request) { r.Payload.Metadata = []byte(`{}`) },
		"priority":           func(r *Request) { r.Priority = 1 },
		"schedule":           func(r *Request) { r.ScheduledAt = &now },
		"later":              func(r *Request) { r.ScheduledAt = &later },
		"expiry":             func(r *Request) { r.ExpiresAt = &now },
		"correlation":        func(r *Request) { r.CorrelationID = "c" },
	} {
		r := base()
		change(&r)
		hash := string(r.hash())
		if other, ok := seen[hash]; ok {
			t.Errorf("%q and %q have one hash", name, other)
		}
		seen[hash] = name
	}
	spaced, utc := base(), base()
	spaced.Payload.Data = []byte(" {\n\"n\":1 }")
	if plain := base(); !bytes.Equal(spaced.hash(), plain.hash()) {
		t.Error("white space counts")
	}
	elsewhere := now.In(time.FixedZone("", 3600))
	utc.ScheduledAt = &now
	zoned := base()
	zoned.ScheduledAt = &elsewhere
	if !bytes.Equal(utc.hash(), zoned.hash()) {
		t.Error("the time zone counts")
	}
	utc.IdempotencyKey = "k"
	if !bytes.Equal(utc.hash(), zoned.hash()) {
		t.Error("the key is part of what it names")
	}
}
