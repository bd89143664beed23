package sink

import (
	"errors"
	"fmt"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// Config holds the knobs. All of them off make a well-behaved transport that
// takes everything at once.
type Config struct {
	File     string        `config:"file" format:"path" doc:"Append one line per received item to this file: item id, attempt, instance, generation."`
	Latency  time.Duration `config:"latency" default:"0s" doc:"Wait this long before each answer; the item's deadline ends the wait."`
	Outcomes []Outcome     `config:"outcome" doc:"What to answer to which items; the first that applies decides, else the item is delivered."`
	Secret   string        `config:"secret,secret" doc:"A value that must never be seen in a log."`

	CrashAfter     int         `config:"crash_after" default:"0" min:"0" doc:"Exit with status 3 at the n-th item; 0 never."`
	PanicAfter     int         `config:"panic_after" default:"0" min:"0" doc:"Panic at the n-th item and each later one; 0 never."`
	HangAfter      int         `config:"hang_after" default:"0" min:"0" doc:"Never return from the n-th item and each later one; 0 never."`
	StopAfter      int         `config:"stop_after" default:"0" min:"0" doc:"Stop the whole process (SIGSTOP) at the n-th item; 0 never."`
	IgnoreDeadline bool        `config:"ignore_deadline" default:"false" doc:"Wait for the whole latency, whatever the deadline."`
	LeakPerItem    schema.Size `config:"leak_per_item" default:"0" doc:"Keep this much memory for ever with each item."`

	StdoutFlood schema.Size `config:"stdout_flood" default:"0" doc:"Write this much to standard output without a line break, past everything that the SDK captures."`
	StderrFlood schema.Size `config:"stderr_flood" default:"0" doc:"Write this much to standard error without a line break with each item."`
	StderrLines []string    `config:"stderr_lines" doc:"Write these lines to standard error as they are with each item; such as { \"@message\": 1 }, which makes a careless host panic."`
	LogSecret   bool        `config:"log_secret" default:"false" doc:"Write the secret to the log and to standard error when opened."`
	SpawnChild  bool        `config:"spawn_child" default:"false" doc:"Start a child process that sleeps and would outlive this one."`

	WrongIDs         bool   `config:"wrong_ids" default:"false" doc:"Send results under ids that were never asked for."`
	DuplicateResults bool   `config:"duplicate_results" default:"false" doc:"Send each result twice."`
	MissingResults   bool   `config:"missing_results" default:"false" doc:"End the stream without results."`
	OutOfRange       bool   `config:"out_of_range" default:"false" doc:"Send results beyond every bound: an unknown class, an endless excerpt, a negative duration."`
	NoOutcome        bool   `config:"no_outcome" default:"false" doc:"Send results that say neither success nor failure."`
	DeliverStatus    string `config:"deliver_status" enum:"internal,unavailable,unimplemented" doc:"Answer each Deliver with this gRPC status and no results."`

	ValidateLatency time.Duration `config:"validate_latency" default:"0s" doc:"Take this long to validate a configuration."`
	ValidateQuotes  bool          `config:"validate_quotes" default:"false" doc:"Quote the secret in a warning about the configuration."`

	OpenFails    bool          `config:"open_fails" default:"false" doc:"Refuse to open."`
	OpenLatency  time.Duration `config:"open_latency" default:"0s" doc:"Take this long to open."`
	OpenCrash    bool          `config:"open_crash" default:"false" doc:"Exit with status 3 when opened."`
	CloseHang    bool          `config:"close_hang" default:"false" doc:"Let Close hang until its deadline."`
	TestFails    bool          `config:"test_fails" default:"false" doc:"Let TestConnection fail."`
	HealthFailed bool          `config:"health_failed" default:"false" doc:"Report FAILED."`
	HealthHang   bool          `config:"health_hang" default:"false" doc:"Never answer Health."`
}

// Validate misbehaves as told.
func (c *Config) Validate() (found transport.Diagnostics) {
	if c.ValidateLatency > 0 {
		<-time.After(c.ValidateLatency)
	}
	if c.ValidateQuotes {
		found = append(found, schema.Warningf(schema.At("secret"), "told to quote %q", c.Secret).WithDetail("It is %s.", c.Secret))
	}
	return found
}

// Outcome is one rule.
type Outcome struct {
	Match      string        `config:"match" default:".*" doc:"RE2 that the item's id, type or data must contain."`
	Every      int           `config:"every" default:"1" min:"1" doc:"Apply to each n-th match only."`
	Times      int           `config:"times" default:"0" min:"0" doc:"Apply at most this often; 0 means always."`
	Attempts   int           `config:"attempts" default:"0" min:"0" doc:"Apply to the first n attempts of an item only; 0 means all."`
	Class      string        `config:"class,required" enum:"delivered,transient,rate_limited,unavailable,auth,config,permanent,expired,unknown_outcome" doc:"Result class to answer with."`
	Code       string        `config:"code" doc:"Code to answer with."`
	RetryAfter time.Duration `config:"retry_after" default:"0s" doc:"Delay to ask for."`
	Disable    bool          `config:"disable" default:"false" doc:"Ask for the destination to be disabled."`
}

// rule is an Outcome ready to use.
type rule struct {
	outcome Outcome
	match   *regexp.Regexp
	class   transport.Class
	matches *atomic.Int64
	used    *atomic.Int64
}

func newRule(o Outcome) (rule, error) {
	match, err := regexp.Compile(o.Match)
	if err != nil {
		return rule{}, fmt.Errorf("pattern %q: %w", o.Match, err)
	}
	r := rule{outcome: o, match: match, matches: new(atomic.Int64), used: new(atomic.Int64)}
	for class := transport.ClassTransient; class <= transport.ClassUnknownOutcome; class++ {
		if class.String() == o.Class {
			r.class = class
		}
	}
	return r, nil
}

func (r *rule) applies(d *transport.Delivery) bool {
	if r.outcome.Attempts > 0 && d.Attempt > r.outcome.Attempts {
		return false
	}
	if !r.match.MatchString(d.ID) && !r.match.MatchString(d.Type) && !r.match.Match(d.Data) {
		return false
	}
	if r.matches.Add(1)%int64(max(r.outcome.Every, 1)) != 0 {
		return false
	}
	return r.outcome.Times == 0 || r.used.Add(1) <= int64(r.outcome.Times)
}

func (r *rule) answer() (transport.Receipt, error) {
	if r.class == 0 {
		return transport.Receipt{Status: 200}, nil
	}
	options := []transport.Option{transport.WithCode(r.outcome.Code), transport.WithRetryAfter(r.outcome.RetryAfter)}
	if r.outcome.Disable {
		options = append(options, transport.WithDisable())
	}
	return transport.Receipt{}, transport.Classify(r.class, errors.New("told to answer "+r.outcome.Class), options...)
}
