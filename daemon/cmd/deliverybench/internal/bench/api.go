package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/load"
)

// caller submits over the HTTP API. It is safe for concurrent use.
type caller struct {
	base, token string
	http        *http.Client
}

func newCaller(d *daemon, workers int) *caller {
	return &caller{base: d.base, token: d.token, http: load.NewHTTPClient(workers)}
}

func (c *caller) close() { c.http.CloseIdleConnections() }

// maxAnswer bounds what is read of an answer.
const maxAnswer = 8 << 20

// submission is the body of one submission to the i-th destination; later keeps it from being due for a day.
func submission(event []byte, destination int, later bool) []byte {
	scheduled := ""
	if later {
		scheduled = fmt.Sprintf(`,"scheduled_at":%q`, time.Now().Add(24*time.Hour).UTC().Format(time.RFC3339))
	}
	return slices.Concat(fmt.Appendf(nil, `{"destinations":[%q]%s,"payload":{"type":"order.paid","data":`, label(destination), scheduled),
		event, []byte(`}}`))
}

// batch is the body of one batch of submissions.
func batch(submissions [][]byte) []byte {
	return slices.Concat([]byte(`{"deliveries":[`), bytes.Join(submissions, []byte(",")), []byte(`]}`))
}

// one submits one delivery and returns the id under which the receiver will see it.
func (c *caller) one(ctx context.Context, body []byte) (string, error) {
	var accepted struct {
		Destinations []struct {
			Item string `json:"item_id"`
		} `json:"destinations"`
	}
	if err := c.post(ctx, "/v1/deliveries", body, http.StatusAccepted, &accepted); err != nil {
		return "", err
	}
	if len(accepted.Destinations) != 1 || accepted.Destinations[0].Item == "" {
		return "", errors.New("submitting: the answer does not name one item")
	}
	return accepted.Destinations[0].Item, nil
}

// many submits a batch, all of which must be accepted.
func (c *caller) many(ctx context.Context, body []byte, n int) error {
	var result struct {
		Accepted int `json:"accepted"`
		Rejected int `json:"rejected"`
	}
	if err := c.post(ctx, "/v1/deliveries/batch", body, http.StatusOK, &result); err != nil {
		return err
	}
	if result.Accepted != n || result.Rejected != 0 {
		return fmt.Errorf("submitting a batch of %d: %d accepted, %d rejected", n, result.Accepted, result.Rejected)
	}
	return nil
}

func (c *caller) post(ctx context.Context, path string, body []byte, want int, answer any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("submitting: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+c.token)
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("submitting: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("submitting: reading the answer: %w", err)
	}
	if response.StatusCode != want {
		return fmt.Errorf("submitting: %s: %s", response.Status, strings.TrimSpace(string(text[:min(len(text), 512)])))
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("submitting: reading the answer: %w", err)
	}
	return nil
}
