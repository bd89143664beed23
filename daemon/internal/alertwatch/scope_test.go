package alertwatch

import (
	"testing"

	"github.com/deliveryd/deliveryd/daemon/internal/alert"
)

// However high a threshold is, it is counted up to: else it could never be reached.
func TestThresholdsAreReached(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ threshold, limit int }{
		{0, 0}, {1, 10}, {10_000, 100_000}, {50_000, 100_000}, {200_000, 200_000}, {10_000_000, 10_000_000},
	} {
		s := alert.Settings{Backlog: alert.BacklogLimit{Count: test.threshold}, DeadLetters: alert.Count{Count: test.threshold}}
		if got := scopeOf(&s); got.BacklogFrom != test.threshold || got.BacklogLimit != test.limit || got.DeadLimit != test.limit {
			t.Errorf("threshold %d: %+v, want %d", test.threshold, got, test.limit)
		}
	}
}
