// Package transport is what the author of a delivery transport implements, and
// Serve, which turns it into a plugin process of deliveryd.
//
// A transport makes exactly one attempt per call and reports what happened. It
// must never retry, sleep, reorder or queue: the daemon owns all policy, and a
// transport that is helpful behind its back breaks the daemon's promises.
package transport

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/deliveryd/deliveryd/sdk/egress"
	"github.com/deliveryd/deliveryd/sdk/schema"
)

// Plugin describes a transport and makes instances of it. C is the struct that
// a destination's config {} is decoded into; package schema documents its tags.
type Plugin[C any] struct {
	// Name is the transport type as in HCL: type = "<name>". Lower case
	// letters, digits and '-', at most 50. Required.
	Name string
	// Version of the plugin, semver without a leading v. Required.
	Version string
	// Summary is one sentence for people. Required.
	Summary string
	// Homepage is a URL. Optional; the default is none.
	Homepage string
	// Capabilities tell the host what it may ask for. Defaults to the limits
	// of the host and to the optional interfaces found at Open.
	Capabilities Capabilities
	// Open makes an instance: one destination with its configuration, which
	// has passed the schema and, if C has one, its Validate method. Open
	// should not dial; TestConnection does. Required.
	//
	// C may have a method Validate() Diagnostics for rules that no tag can
	// express. It must use neither network nor files.
	Open func(ctx context.Context, instance Instance, config *C) (Transport, error)
}

// Capabilities are the bounds and optional abilities of a plugin.
type Capabilities struct {
	// MaxBatch is the greatest number of items in one call of the host.
	// Defaults to 0: the host decides.
	MaxBatch int
	// MaxInFlight is the greatest number of items at work in the process.
	// Defaults to 0: DefaultMaxInFlight here, the host's own limit there.
	MaxInFlight int
	// MaxItemBytes is the largest body, in bytes, that Deliver takes; what is
	// larger comes by Upload. Defaults to 0: MaxMessageBytes less headers.
	MaxItemBytes int64
	// Upload says that every Transport of this plugin is an Uploader.
	// Defaults to false.
	Upload bool
	// TestConnection says that every Transport of this plugin is a Tester.
	// Defaults to false.
	TestConnection bool
	// Idempotent says that the idempotency key reaches the peer, which can
	// drop a second copy by it. Defaults to false.
	Idempotent bool
	// Features are named additive features within protocol 1, such as
	// "spool". Defaults to none.
	Features []string
}

// DefaultMaxInFlight bounds the items at work in one plugin process where
// Capabilities.MaxInFlight is 0.
const DefaultMaxInFlight = 4096

// MaxMessageBytes is the largest gRPC message that a plugin takes or sends.
const MaxMessageBytes = 16 << 20

// Instance is what a transport knows about the destination that it serves.
type Instance struct {
	// ID is stable per destination.
	ID string
	// Generation counts up at each change of the destination.
	Generation uint64
	// OrganizationID and Label name the destination to people.
	OrganizationID, Label string
	// Concurrency is the greatest number of Deliver calls at once; 0 means no
	// limit of its own. Size connection pools by it.
	Concurrency int
	// Secrets are the signing secrets that the host keeps, primary first.
	Secrets []Secret
	// Egress dials for this instance: the only way that a transport may reach
	// the network.
	Egress *egress.Guard
	// Logger writes to the daemon's log. Never log a secret or a payload.
	Logger *slog.Logger
}

// Secret is one signing secret that the host keeps and rotates.
type Secret struct {
	// ID is what Receipt.UsedSecrets names.
	ID string
	// Key is the secret itself, in clear text.
	Key string
	// Algorithm is HMAC-SHA256 or another name that the transport documents.
	Algorithm string
	// ExpiresAt is when the secret must no longer be used; zero means never.
	ExpiresAt time.Time
}

// Transport delivers to one destination.
type Transport interface {
	// Deliver makes one attempt. It is called concurrently. ctx ends at the
	// delivery's deadline; a Transport that outlives it by more than a moment
	// is reported as UNKNOWN_OUTCOME on its behalf.
	//
	// A nil error means delivered. An error made by Permanent, RateLimited and
	// their like says what the host should do; any other error is transient.
	// Of a Receipt returned beside an error only UsedSecrets and Resume count.
	Deliver(ctx context.Context, delivery *Delivery) (Receipt, error)
}

// Tester is a Transport that can try its peer without delivering anything.
type Tester interface {
	// TestConnection reports named steps in order; the first failed one ends
	// the list. ping asks for a harmless message that the peer will see.
	TestConnection(ctx context.Context, ping bool) []Step
}

// Uploader is a Transport that takes bodies too large for a Delivery.
type Uploader interface {
	// Upload delivers body, whose size and digest are in delivery.Artifact.
	// Reading ends with io.EOF only after both were found right, so a
	// transport that commits after io.EOF never commits a damaged body.
	Upload(ctx context.Context, delivery *Delivery, body io.Reader) (Receipt, error)
}

// Closer is a Transport that holds resources.
type Closer interface {
	// Close is called once, after the last Deliver returned.
	Close(ctx context.Context) error
}

// HealthReporter is a Transport that knows its own condition.
type HealthReporter interface {
	// Health must answer at once, also while every Deliver hangs.
	Health() (HealthState, string)
}

// HealthState is the condition of an instance.
type HealthState int

// States that a HealthReporter may report. Draining is reported by the SDK.
const (
	HealthOK       HealthState = 1
	HealthDegraded HealthState = 2
	HealthFailed   HealthState = 3
)

// Delivery is one item to deliver. Its byte slices belong to the SDK: a
// Transport must not write to them.
type Delivery struct {
	// ID is stable over attempts: what a peer may de-duplicate by.
	ID string
	// Attempt is 1 for the first.
	Attempt int
	// Deadline is the hard end of this attempt, the same as that of ctx.
	Deadline time.Time
	// DeliveryID is shared by all destinations of one submission.
	DeliveryID string
	// OrganizationID owns the delivery.
	OrganizationID string
	// Type of the event, such as order.paid; may be empty.
	Type string
	// CreatedAt is when the delivery was accepted.
	CreatedAt time.Time
	// Data is the payload: JSON unless ContentType says otherwise. A Transport
	// that goes on for long without it may set it to nil, so that it takes no
	// memory meanwhile.
	Data []byte
	// ContentType is never empty; application/json where the producer said nothing.
	ContentType string
	// Metadata is a JSON object or empty.
	Metadata []byte
	// CorrelationID, IdempotencyKey and Traceparent come from the producer;
	// each may be empty.
	CorrelationID, IdempotencyKey, Traceparent string
	// Resume is what the previous attempt returned in Receipt.Resume.
	Resume []byte
	// Artifact describes a body that does not travel in Data; mostly nil.
	Artifact *Artifact
}

// Artifact describes a file to deliver.
type Artifact struct {
	// Name is a file name without a path.
	Name string
	// ContentType of the file.
	ContentType string
	// Size in bytes.
	Size int64
	// SHA256 of the content, 32 bytes.
	SHA256 []byte
	// SpoolPath is a readable file with the content, for plugins with feature
	// "spool"; else empty.
	SpoolPath string
}

// Receipt is what the peer answered. Values beyond their bound are cut, never refused.
type Receipt struct {
	// Reference is the peer's own name for what it took; at most 255 characters.
	Reference string
	// Status of the protocol, such as 200; 0 where there is none.
	Status int
	// Excerpt of the answer; at most 4 KiB.
	Excerpt []byte
	// Details are small facts for the log; at most 16, of at most 255 characters.
	Details map[string]string
	// UsedSecrets are the Secret.ID that signed this attempt.
	UsedSecrets []string
	// Resume comes back with the next attempt; at most 16 KiB.
	Resume []byte
}

// Diagnostic is one finding about a configuration.
type Diagnostic = schema.Diagnostic

// Diagnostics are what a config's Validate method returns.
type Diagnostics = schema.Diagnostics
