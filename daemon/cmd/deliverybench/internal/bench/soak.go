package bench

import (
	"context"
	"fmt"
	"time"
)

// SoakRun is a long run at a part of the peak rate.
type SoakRun struct {
	// Peak is the rate under full load, just before.
	Peak float64 `json:"peak_rate"`
	// Fed is the rate that was queued.
	Fed     float64   `json:"fed_rate"`
	Windows []SoakRow `json:"windows"`
	Arrived Arrived   `json:"arrived"`
}

// SoakRow is a part of the run.
type SoakRow struct {
	Minutes float64 `json:"minutes"`
	Rate    float64 `json:"rate"`
	// Memory is the most that was seen.
	Memory Memory `json:"memory"`
	// Waiting is how many rows the queue holds at the end of the part; the sizes are from then, too.
	Waiting int64 `json:"waiting_rows"`
	// QueueTable and QueueIndexes must not grow; the log does, by what was delivered.
	QueueTable   int64 `json:"queue_table_bytes"`
	QueueIndexes int64 `json:"queue_index_bytes"`
	Logs         int64 `json:"logs_bytes"`
}

const (
	soakShare = 0.7
	// peakFor is how long the peak is measured.
	peakFor = 20 * time.Second
	// soakWindows is how many rows the soak's table has.
	soakWindows = 10
)

func (h *harness) soak(ctx context.Context) error {
	var run SoakRun
	h.result.Soak = &run
	err := h.withDaemon(ctx, webhook, steadyShape(), func(ctx context.Context, d *daemon) error {
		_, err := h.under(ctx, d, 0, func(s *steady) error {
			if _, err := s.watch(ctx, snapshotWarmUp, snapshotWarmUp, nil); err != nil {
				return err
			}
			rates, err := s.watch(ctx, peakFor, peakFor, nil)
			run.Peak = mean(rates)
			return err
		})
		return err
	})
	if err != nil {
		return err
	}
	run.Fed = run.Peak * soakShare
	h.Log.Info("peak", "rate", int(run.Peak), "soak_rate", int(run.Fed))
	return h.withDaemon(ctx, webhook, steadyShape(), func(ctx context.Context, d *daemon) (err error) {
		run.Arrived, err = h.under(ctx, d, run.Fed, func(s *steady) error {
			started := time.Now()
			for range soakWindows {
				row, err := h.soakWindow(ctx, s)
				if err != nil {
					return err
				}
				row.Minutes = time.Since(started).Minutes()
				run.Windows = append(run.Windows, row)
				h.Log.Info("soak", "minutes", fmt.Sprintf("%.1f", row.Minutes), "rate", int(row.Rate), "daemon_mib", row.Memory.Daemon>>20, "waiting", row.Waiting)
			}
			return nil
		})
		return err
	})
}

// looks is how often memory is read in a window. Go's moves up and down between collections: only its peaks tell growth.
const looks = 20

func (h *harness) soakWindow(ctx context.Context, s *steady) (SoakRow, error) {
	var peak Memory
	length := h.Soak / soakWindows
	rates, err := s.watch(ctx, length, length/looks, func() error {
		now, _, err := s.d.memory()
		peak = Memory{max(peak.Daemon, now.Daemon), max(peak.Plugin, now.Plugin)}
		return err
	})
	if err != nil {
		return SoakRow{}, err
	}
	row, err := s.d.soakRow(ctx)
	row.Rate, row.Memory = mean(rates), peak
	return row, err
}

// soakSQL adds up the log's partitions. The exact count is cheap: the queue is short, or the run has failed anyway.
const soakSQL = ownMark + `
select (select count(*) from delivery_queue), pg_table_size('delivery_queue'), pg_indexes_size('delivery_queue'),
  coalesce((select sum(pg_total_relation_size(inhrelid)) from pg_inherits where inhparent = 'delivery_logs'::regclass), 0)::bigint`

func (d *daemon) soakRow(ctx context.Context) (row SoakRow, err error) {
	if err := d.conn.QueryRow(ctx, soakSQL).Scan(&row.Waiting, &row.QueueTable, &row.QueueIndexes, &row.Logs); err != nil {
		return row, fmt.Errorf("reading table sizes: %w", err)
	}
	return row, nil
}
