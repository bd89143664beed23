package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
)

func newDeliveries() *cobra.Command {
	return group("deliveries", "Look at and operate deliveries", newDeliveriesList(), newDeliveriesShow(), newDeliveriesCancel(), newDeliveriesReplay())
}

func newDeliveriesList() *cobra.Command {
	var f api.DeliveryFilter
	var since string
	cmd := &cobra.Command{
		Use: "list", Short: "List deliveries, newest first",
		Example: `  deliveryd deliveries list --status failed --since 24h
  deliveryd deliveries list --destination billing --json`,
	}
	r := addRemote(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.Status, "status", "", "pending, processing, retrying, delivered or failed")
	flags.StringVar(&f.Destination, "destination", "", "label or id")
	flags.BoolVar(&f.Undelivered, "undelivered", false, "only what waits for destinations that are disabled, paused or held")
	flags.StringVar(&f.CorrelationID, "correlation-id", "", "only with this correlation id")
	flags.StringVar(&since, "since", "", "a time in RFC 3339, or how long ago, such as 24h")
	flags.StringVar(&f.Cursor, "cursor", "", "next_cursor of the page before")
	flags.IntVar(&f.Limit, "limit", 50, "how many at most, up to 500")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if f.Since, err = sinceArgument(since, time.Now()); err != nil {
			return usageError{err}
		}
		c, err := r.client()
		if err != nil {
			return err
		}
		page, err := c.Deliveries(cmd.Context(), f)
		if err != nil {
			return err
		}
		if r.json {
			return printJSON(cmd.OutOrStdout(), page)
		}
		return printPage(cmd.OutOrStdout(), page)
	}
	return cmd
}

func sinceArgument(value string, now time.Time) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(value); err == nil {
		return now.Add(-ago), nil
	}
	at, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return time.Time{}, fmt.Errorf("--since: %q is neither a time in RFC 3339 nor a duration such as 24h", value)
	}
	return at, nil
}

func printPage(w io.Writer, page *api.DeliveryPage) error {
	rows := make([][]string, len(page.Items))
	for i := range page.Items {
		it := &page.Items[i]
		rows[i] = []string{it.DeliveryID, destinationName(it), it.Status, strconv.Itoa(len(attempts(it))), when(&it.CreatedAt), it.FailureReason}
	}
	if err := table(w, []string{"DELIVERY", "DESTINATION", "STATUS", "ATTEMPTS", "ACCEPTED", "REASON"}, rows); err != nil {
		return err
	}
	if page.Next != "" {
		_, err := fmt.Fprintf(w, "more with --cursor %s\n", page.Next)
		return err
	}
	return nil
}

func destinationName(it *api.DeliveryItem) string {
	if it.Label != "" {
		return it.Label
	}
	return strconv.Itoa(int(it.DestinationID))
}

// attempt is what is printed of one attempt.
type attempt struct {
	At         time.Time `json:"at"`
	Class      string    `json:"class"`
	Code       string    `json:"code"`
	Status     int       `json:"status"`
	DurationMS int64     `json:"duration_ms"`
	Message    string    `json:"message"`
	// Event and By say what somebody did with the delivery between two attempts.
	Event string `json:"event"`
	By    string `json:"by"`
	// Late: the outcome came when somebody else had the row already, and did not count.
	Late bool `json:"late"`
}

// row is an attempt or event as "deliveries show" prints it.
func (a *attempt) row(number int) []string {
	if a.Event != "" {
		return []string{"  " + strconv.Itoa(number), when(&a.At), a.Event, "", "", "by " + a.By}
	}
	result := a.Class
	if a.Late {
		result += " (late)"
	}
	return []string{"  " + strconv.Itoa(number), when(&a.At), result, firstOf(a.Code, status(a.Status)), fmt.Sprintf("%d ms", a.DurationMS), a.Message}
}

// attempts reads the attempts of an item; what does not look like them is none.
func attempts(it *api.DeliveryItem) []attempt {
	var list []attempt
	if err := json.Unmarshal(it.Attempts, &list); err != nil {
		return nil
	}
	return list
}

func newDeliveriesShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show ID", Short: "Show a delivery with every attempt", Args: cobra.ExactArgs(1)}
	r := addRemote(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := r.client()
		if err != nil {
			return err
		}
		delivery, err := c.Delivery(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if r.json {
			return printJSON(cmd.OutOrStdout(), delivery)
		}
		return printDelivery(cmd.OutOrStdout(), delivery)
	}
	return cmd
}

func printDelivery(w io.Writer, d *api.Delivery) error {
	if _, err := fmt.Fprintf(w, "%s: %s\n", d.ID, d.Status); err != nil {
		return err
	}
	for i := range d.Destinations {
		it := &d.Destinations[i]
		if _, err := fmt.Fprintf(w, "\n%s: %s\n", oneLine(destinationName(it)), describeItem(it)); err != nil {
			return err
		}
		list := attempts(it)
		if len(list) == 0 {
			continue
		}
		rows := make([][]string, len(list))
		for j := range list {
			rows[j] = list[j].row(j + 1)
		}
		if err := table(w, []string{"  #", "AT", "RESULT", "CODE", "TOOK", "MESSAGE"}, rows); err != nil {
			return err
		}
	}
	return nil
}

func status(code int) string {
	if code == 0 {
		return ""
	}
	return strconv.Itoa(code)
}

func describeItem(it *api.DeliveryItem) string {
	text := it.Status
	switch {
	case it.DeliveredAt != nil:
		text += " at " + when(it.DeliveredAt)
	case it.NextRetryAt != nil:
		text += ", next attempt at " + when(it.NextRetryAt)
	case it.ScheduledAt != nil && it.ScheduledAt.After(it.CreatedAt):
		text += ", scheduled for " + when(it.ScheduledAt)
	}
	if it.Reference != "" {
		text += ", the receiver calls it " + oneLine(it.Reference)
	}
	if it.FailureReason != "" {
		text += ": " + printable(it.FailureReason) // whole: what to do about it stands at its end
	}
	return text
}
