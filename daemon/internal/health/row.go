package health

import (
	"math"
	"math/bits"
	"strconv"
	"time"
)

// Row is the health of a destination as its destination_health row keeps it.
// A zero time stands for null. The circuit breaker's columns are not here.
type Row struct {
	// Status is the column status.
	Status Status
	// LastCheckAt is when anything was last learned of the destination, by a
	// delivery or by an active check.
	LastCheckAt time.Time
	// ConsecutiveFailures is the number of failed attempts in a row.
	ConsecutiveFailures int
	// TotalFailures is the number of attempts that failed or were rejected.
	TotalFailures int64
	// TotalDeliveries is the number of attempts that were not neutral.
	TotalDeliveries int64
	// SuccessRate is the share of attempts that succeeded, of all since the
	// row began; see SuccessRate.
	SuccessRate string
	// AverageResponseTime is the moving average over successful attempts in ms,
	// rounded up, so that 0 only stands for "none yet", which is null.
	AverageResponseTime int
	// LastFailureAt is when an attempt last failed or was rejected.
	LastFailureAt time.Time
	// LastSuccessAt is when an attempt last succeeded.
	LastSuccessAt time.Time
	// DisabledAt is when the destination was disabled.
	DisabledAt time.Time
	// DisabledReason says why; empty stands for null.
	DisabledReason string
	// Metadata belongs into the column metadata.
	Metadata Metadata
}

// Metadata is what the table has no column for.
type Metadata struct {
	// FailingSince is when the present run of failures began; zero without one.
	FailingSince time.Time `json:"failing_since,omitzero"`
	// FailedDeliveries is the number of deliveries that failed in it.
	FailedDeliveries int `json:"failed_deliveries,omitempty"`
	// FailedChecks is the number of active checks that failed in a row.
	FailedChecks int `json:"failed_checks,omitempty"`
}

// New returns the record that a row holds; the zero row is a destination
// without a history. settings must be valid and complete. Values that cannot be
// are put right rather than refused, as anyone may have written the row.
func New(settings Settings, row Row, now time.Time) *Tracker {
	t := &Tracker{
		settings:        settings,
		failures:        int32(min(max(row.ConsecutiveFailures, 0), math.MaxInt32)),
		failedChecks:    int32(min(max(row.Metadata.FailedChecks, 0), math.MaxInt32)),
		totalDeliveries: max(row.TotalDeliveries, 0),
		totalFailures:   max(row.TotalFailures, 0),
		average:         float64(max(row.AverageResponseTime, 0)),
		lastCheckAt:     row.LastCheckAt,
		lastFailureAt:   row.LastFailureAt,
		lastSuccessAt:   row.LastSuccessAt,
	}
	if row.Status == Disabled {
		t.disabled, t.disabledAt, t.disabledReason = true, row.DisabledAt, row.DisabledReason
	}
	if t.failures > 0 {
		t.failingSince = beganBy(row, now)
		t.failed = int32(min(max(row.Metadata.FailedDeliveries, 0), int(t.failures)))
	}
	return t
}

// beganBy returns the beginning of a run of failures, or the latest time that
// it may have begun: too late only delays a disabling.
func beganBy(row Row, now time.Time) time.Time {
	began := row.Metadata.FailingSince
	if began.IsZero() {
		began = row.LastFailureAt
	}
	if began.IsZero() || began.After(now) {
		return now
	}
	return began
}

// Row returns the present record, the totals included.
func (t *Tracker) Row() Row {
	return Row{
		Status:              t.Status(),
		LastCheckAt:         t.lastCheckAt,
		ConsecutiveFailures: int(t.failures),
		TotalFailures:       t.totalFailures,
		TotalDeliveries:     t.totalDeliveries,
		SuccessRate:         SuccessRate(t.totalDeliveries, t.totalFailures),
		AverageResponseTime: int(min(math.Ceil(t.average), math.MaxInt32)),
		LastFailureAt:       t.lastFailureAt,
		LastSuccessAt:       t.lastSuccessAt,
		DisabledAt:          t.disabledAt,
		DisabledReason:      t.disabledReason,
		Metadata:            Metadata{FailingSince: t.failingSince, FailedDeliveries: int(t.failed), FailedChecks: int(t.failedChecks)},
	}
}

// TakeCounts returns what the totals have grown by since the last time. Fold the
// outcomes of a transaction and take the counts right after, so that the totals
// grow in the transaction that ends those attempts.
func (t *Tracker) TakeCounts() (deliveries, failures int64) {
	deliveries, failures = t.newDeliveries, t.newFailures
	t.newDeliveries, t.newFailures = 0, 0
	return deliveries, failures
}

// SuccessRate returns the share of deliveries that did not fail as percentage
// text with two digits, such as "99.50". It is cut off rather than rounded, so
// that "100.00" means that nothing failed. Without deliveries it is "0", the
// column's default.
func SuccessRate(deliveries, failures int64) string {
	if deliveries <= 0 {
		return "0"
	}
	succeeded := min(max(deliveries-failures, 0), deliveries)
	// In 128 bits, where no total overflows; the quotient is at most 10,000.
	hi, lo := bits.Mul64(uint64(succeeded), 10_000)
	hundredths, _ := bits.Div64(hi, lo, uint64(deliveries))
	text := strconv.AppendUint(make([]byte, 0, len("100.00")), hundredths/100, 10)
	return string(append(text, '.', byte('0'+hundredths/10%10), byte('0'+hundredths%10)))
}
