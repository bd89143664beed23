package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Submission is the body of POST /v1/deliveries: one payload for one or more
// destinations.
type Submission struct {
	Destinations   References `json:"destinations" doc:"Labels or ids of destinations of the key's organization, or \"default\" for its default destinations"`
	Payload        Payload    `json:"payload" doc:"What is delivered"`
	Priority       int        `json:"priority,omitempty" minimum:"0" maximum:"10" default:"0" doc:"10 goes before 0"`
	ScheduledAt    *time.Time `json:"scheduled_at,omitempty" doc:"Not before this time; now if absent"`
	ExpiresAt      *time.Time `json:"expires_at,omitempty" doc:"Not after this time: then it becomes a dead letter. The destination's expiry if absent"`
	IdempotencyKey string     `json:"idempotency_key,omitempty" maxLength:"255" doc:"A repeated request with the same key returns the first result and queues nothing. The header Idempotency-Key says the same"`
	CorrelationID  string     `json:"correlation_id,omitempty" maxLength:"255" doc:"Goes with the delivery into every log; the header X-Correlation-Id says the same"`
}

// Payload is what is delivered.
type Payload struct {
	Type     string          `json:"type" minLength:"1" maxLength:"255" example:"order.created" doc:"Kind of event"`
	Data     json.RawMessage `json:"data,omitempty" doc:"The event: any JSON value. This or artifact is needed"`
	Artifact string          `json:"artifact,omitempty" maxLength:"255" example:"art_0198c5f26f3a7c3c9d5a2b1e4f607182" doc:"In place of data: the id of an uploaded artifact, which is delivered as it is"`
	Metadata json.RawMessage `json:"metadata,omitempty" doc:"A JSON object that goes beside the event, for templates and headers"`
}

// References name destinations: a list of labels or ids, or "default".
type References struct {
	// Default asks for the organization's default destinations; List is empty then.
	Default bool
	// List holds labels, or ids in decimal.
	List []string
}

// defaultReference stands for the organization's default destinations.
const defaultReference = "default"

const referencesExpected = `must be "default" or a list of labels and ids, such as ["billing", 12]`

// UnmarshalJSON implements json.Unmarshaler.
func (r *References) UnmarshalJSON(text []byte) error {
	*r = References{}
	switch text[0] {
	case '"':
		var word string
		if err := json.Unmarshal(text, &word); err != nil || word != defaultReference {
			return &fieldError{"/destinations", referencesExpected}
		}
		r.Default = true
		return nil
	case '[':
		// null decodes to an empty label without an error.
		if err := json.Unmarshal(text, &r.List); err == nil && !slices.Contains(r.List, "") {
			return nil
		}
		return r.unmarshalMixed(text)
	}
	return &fieldError{"/destinations", referencesExpected}
}

// unmarshalMixed reads a list in which some references are ids as numbers.
func (r *References) unmarshalMixed(text []byte) error {
	var elements []json.RawMessage
	if err := json.Unmarshal(text, &elements); err != nil {
		return &fieldError{"/destinations", referencesExpected}
	}
	r.List = make([]string, len(elements))
	for i, element := range elements {
		if id, err := strconv.ParseInt(string(element), 10, 32); err == nil && id > 0 {
			r.List[i] = string(element)
			continue
		}
		if json.Unmarshal(element, &r.List[i]) != nil || r.List[i] == "" {
			return &fieldError{fmt.Sprintf("/destinations/%d", i), "must be a label or an id, such as \"billing\" or 12"}
		}
	}
	return nil
}

// MarshalJSON implements json.Marshaler.
func (r References) MarshalJSON() ([]byte, error) {
	if r.Default {
		return json.Marshal(defaultReference)
	}
	return json.Marshal(r.List)
}

// Schema implements huma.SchemaProvider.
func (References) Schema(huma.Registry) *huma.Schema {
	one := 1
	s := &huma.Schema{
		OneOf: []*huma.Schema{
			{Type: huma.TypeString, Enum: []any{defaultReference}},
			{Type: huma.TypeArray, MinItems: &one, Items: &huma.Schema{OneOf: []*huma.Schema{
				{Type: huma.TypeString, MinLength: &one}, {Type: huma.TypeInteger},
			}}},
		},
		Description: "Labels or ids, or \"default\"",
		Examples:    []any{[]any{"billing", 12}, defaultReference},
	}
	s.PrecomputeMessages()
	return s
}

// Accepted is the answer to a submission that is durably queued.
type Accepted struct {
	ID           string                `json:"id" example:"dlv_0198c5f26f3a7c3c9d5a2b1e4f607182" doc:"The delivery's id"`
	Status       string                `json:"status" enum:"accepted" doc:"Always accepted"`
	Duplicate    bool                  `json:"duplicate" doc:"Whether this repeats an earlier request, whose result this is"`
	Destinations []AcceptedDestination `json:"destinations" doc:"Where it goes"`
}

// AcceptedDestination is one destination of an accepted delivery.
type AcceptedDestination struct {
	ID    int32  `json:"id" doc:"The destination's id"`
	Label string `json:"label" doc:"The destination's label"`
	Item  string `json:"item_id" doc:"Names the queue row; with it the receiver recognises a repeated attempt"`
}

// Batch is the body of POST /v1/deliveries/batch.
type Batch struct {
	Deliveries []Submission `json:"deliveries" minItems:"1" doc:"At most 1,000, each as for a single submission"`
}

// BatchResult is the answer to a batch: one result per delivery, in order.
type BatchResult struct {
	Accepted int         `json:"accepted" doc:"How many are durably queued"`
	Rejected int         `json:"rejected" doc:"How many are not"`
	Results  []BatchItem `json:"results" doc:"One per delivery of the request, in its order"`
}

// BatchItem is what became of one delivery of a batch.
type BatchItem struct {
	Delivery *Accepted `json:"delivery,omitempty" doc:"Set where it was accepted"`
	Problem  *Problem  `json:"problem,omitempty" doc:"Set where it was not: the error that a single submission would have got"`
}

// Delivery is one delivery with all its destinations.
type Delivery struct {
	ID           string         `json:"id" doc:"The delivery's id"`
	Status       string         `json:"status" enum:"pending,processing,retrying,delivered,failed,partial" doc:"Of all its destinations together: partial means that all are final and some failed"`
	Destinations []DeliveryItem `json:"destinations" doc:"What became of it at each destination"`
}

// DeliveryItem is what became of a delivery at one destination.
type DeliveryItem struct {
	DeliveryID     string          `json:"delivery_id" doc:"The delivery's id"`
	ItemID         string          `json:"item_id,omitempty" doc:"The queue row while there is one"`
	DestinationID  int32           `json:"destination_id"`
	Label          string          `json:"destination,omitempty" doc:"The destination's label"`
	Status         string          `json:"status" enum:"pending,processing,retrying,delivered,failed" doc:"failed is a dead letter"`
	Priority       *int32          `json:"priority,omitempty"`
	ScheduledAt    *time.Time      `json:"scheduled_at,omitempty"`
	NextRetryAt    *time.Time      `json:"next_retry_at,omitempty"`
	RetryCount     *int32          `json:"retry_count,omitempty" doc:"Retries burnt so far"`
	MaxRetries     *int32          `json:"max_retries,omitempty"`
	Attempts       json.RawMessage `json:"attempts" doc:"One object per attempt: at, class, code, status, duration_ms, response"`
	LastAttemptAt  *time.Time      `json:"last_attempt_at,omitempty"`
	DeliveredAt    *time.Time      `json:"delivered_at,omitempty"`
	FailureReason  string          `json:"failure_reason,omitempty"`
	Reference      string          `json:"cross_system_reference,omitempty" doc:"What the receiver calls it"`
	CorrelationID  string          `json:"correlation_id,omitempty"`
	IdempotencyKey string          `json:"idempotency_key,omitempty"`
	Object         json.RawMessage `json:"object_details,omitempty" doc:"What was delivered: type, size, digest"`
	CreatedAt      time.Time       `json:"created_at"`
	UpdatedAt      *time.Time      `json:"updated_at,omitempty"`
}

// DeliveryPage is one page of a list of deliveries, newest first.
type DeliveryPage struct {
	Items []DeliveryItem `json:"items" doc:"One per delivery and destination, newest first"`
	Next  string         `json:"next_cursor,omitempty" doc:"Give it back as cursor for the next page; absent on the last"`
}

// Destination is one place that deliveries go to. Secrets in its configuration
// are shown as *** with a fingerprint.
type Destination struct {
	ID             int32           `json:"id"`
	Organization   string          `json:"organization"`
	Label          string          `json:"label"`
	Type           string          `json:"type" doc:"The transport"`
	Description    string          `json:"description,omitempty"`
	Default        bool            `json:"default" doc:"Whether deliveries to \"default\" go here"`
	State          string          `json:"state" enum:"active,paused,disabled" doc:"paused and disabled keep what waits"`
	DisabledReason string          `json:"disabled_reason,omitempty"`
	DisabledAt     *time.Time      `json:"disabled_at,omitempty"`
	Config         json.RawMessage `json:"config" doc:"Without its secrets"`
	Settings       any             `json:"settings" doc:"Concurrency, retries, circuit breaker and so on, in effect"`
	ManagedBy      string          `json:"managed_by" enum:"config,api" doc:"config: edit the file named by source"`
	Source         string          `json:"source,omitempty" doc:"Where the configuration declares it, as file:line"`
	Generation     int64           `json:"generation" doc:"Counts changes of the configuration"`
	CountUsage     int32           `json:"count_usage" doc:"Deliveries that arrived"`
	LastUsedAt     *time.Time      `json:"last_used_at,omitempty"`
	Health         *Health         `json:"health,omitempty" doc:"Absent before the first attempt"`
	CreatedAt      time.Time       `json:"created_at"`
	UpdatedAt      time.Time       `json:"updated_at"`
}

// Health is how a destination has been doing.
type Health struct {
	Status              string     `json:"status" enum:"healthy,degraded,unhealthy,disabled"`
	CircuitBreaker      string     `json:"circuit_breaker_state" enum:"closed,open,half-open"`
	CircuitBreakerSince *time.Time `json:"circuit_breaker_opened_at,omitempty"`
	BreakerReason       string     `json:"circuit_breaker_reason,omitempty" doc:"Why it is not closed"`
	ConsecutiveFailures int32      `json:"consecutive_failures" doc:"Attempts that failed in a row and are the destination's fault: neither rate-limited ones, nor those that a hold or a plugin ended"`
	TotalFailures       int32      `json:"total_failures" doc:"Attempts that failed or were rejected"`
	TotalDeliveries     int32      `json:"total_deliveries" doc:"Attempts that count: a delivery that arrives at its third attempt adds three"`
	SuccessRate         string     `json:"success_rate" doc:"Percent of all attempts that count since the beginning, cut off to two digits, so that 100.00 means that none failed; 0 before the first"`
	AverageMillis       *int32     `json:"average_response_time_ms,omitempty" doc:"Of attempts that succeeded: an exponentially weighted moving average in which the newest counts 5 %, about the last 40"`
	LastCheckAt         *time.Time `json:"last_check_at,omitempty" doc:"When anything was last learned of it, by an attempt or an active check"`
	LastFailureAt       *time.Time `json:"last_failure_at,omitempty"`
	LastSuccessAt       *time.Time `json:"last_success_at,omitempty"`
	HeldAt              *time.Time `json:"held_at,omitempty" doc:"Nothing is sent and nothing is burnt until the cause is gone"`
	HoldReason          string     `json:"hold_reason,omitempty"`
}

// Lane is a destination's share of the queue on the daemon that answers.
type Lane struct {
	DestinationID int32  `json:"destination_id"`
	Organization  string `json:"organization"`
	Label         string `json:"destination"`
	InFlight      int    `json:"in_flight" doc:"Attempts being made"`
	Buffered      int    `json:"buffered" doc:"Rows read ahead"`
	Breaker       string `json:"circuit_breaker_state"`
	Blocked       string `json:"blocked,omitempty" doc:"Why nothing is sent now"`
}

// TestResult is the outcome of a connection test.
type TestResult struct {
	OK    bool       `json:"ok"`
	Steps []TestStep `json:"steps" doc:"In the order in which they were taken; the first that fails is the last"`
}

// TestStep is one step of a connection test.
type TestStep struct {
	Name       string `json:"name" example:"dns"`
	OK         bool   `json:"ok"`
	DurationMS int64  `json:"duration_ms"`
	Detail     string `json:"detail,omitempty"`
	Code       string `json:"code,omitempty" doc:"Of a failed step: stable and scoped to the transport" example:"tcp.refused"`
	Error      string `json:"error,omitempty" doc:"Why the step failed"`
}

// ReloadReport is what reading the configuration again changed.
type ReloadReport struct {
	Summary     string   `json:"summary"`
	Added       []string `json:"added" doc:"Destinations, as organization/label"`
	Changed     []string `json:"changed" doc:"Destinations: what goes to the plugin in a new generation, the rest in place"`
	Removed     []string `json:"removed" doc:"Destinations that the files no longer declare: disabled, what waits for them is kept"`
	Waiting     []string `json:"waiting" doc:"Destinations whose plugin is not there or does not run: they stay as they were"`
	Applied     []string `json:"applied" doc:"Other settings that took effect, by name, never with their values"`
	Plugins     []string `json:"plugins" doc:"Plugins that were added, replaced, retried or removed"`
	Warnings    []string `json:"warnings" doc:"What was found and kept nothing from taking effect"`
	NotReloaded []string `json:"not_reloaded" doc:"Settings that changed in the file and take a restart"`
}
