package store

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Floor is a place in a destination's rows of one priority, as the lane statement
// orders them: behind the row of this due time and id. Without an id it is before all
// rows of that time.
type Floor struct {
	DestinationID int32
	Priority      int32
	Due           time.Time
	ID            string
}

// discoverSQL is a loose scan of delivery_queue_lane_idx: one descent for each
// destination and priority that has rows, however many rows those are. It goes
// through ranges of the index, which leave out what is known to be dead: while
// anybody holds a snapshot, every row that was delivered since is met again by each
// scan that begins before it (measured, 3.3 s for 400,000 of them).
const discoverSQL = `
select found.destination_id, -found.rank, found.due, extract(epoch from found.due - now())::float8, g.n
from unnest($1::int[], $2::int[], $3::timestamptz[], $4::text[], $5::int[], $6::int[]) with ordinality
  as g(destination_id, rank, due, id, end_id, end_rank, n)
cross join lateral (
  with recursive w as (
    (select destination_id, -priority as rank, coalesce(next_retry_at, scheduled_at) as due
     from delivery_queue q
     where q.status in ('pending', 'processing')
       and (q.destination_id, (-q.priority), coalesce(q.next_retry_at, q.scheduled_at), q.id) > (g.destination_id, g.rank, g.due, g.id)
       and (q.destination_id, (-q.priority)) < (g.end_id, g.end_rank)
     order by q.destination_id, (-q.priority), coalesce(q.next_retry_at, q.scheduled_at), q.id
     limit 1)
    union all
    select n.* from w cross join lateral (
      select destination_id, -priority, coalesce(next_retry_at, scheduled_at)
      from delivery_queue q
      where q.status in ('pending', 'processing') and (q.destination_id, (-q.priority)) > (w.destination_id, w.rank)
        and (q.destination_id, (-q.priority)) < (g.end_id, g.end_rank)
      order by q.destination_id, (-q.priority), coalesce(q.next_retry_at, q.scheduled_at), q.id
      limit 1) n)
  select * from w) found
limit $7`

// discoverPage bounds the lanes and the ranges of one discovery statement.
const discoverPage = 1000

// lanePosition is a destination and the negative of a priority, as the index has them.
type lanePosition struct{ destination, rank int32 }

func (p lanePosition) compare(q lanePosition) int {
	return cmp.Or(cmp.Compare(p.destination, q.destination), cmp.Compare(p.rank, q.rank))
}

// span is a part of the index: from a place in a lane up to another lane.
type span struct {
	lane lanePosition
	due  pgtype.Timestamptz
	id   string
	end  lanePosition
}

// never is later than every due time.
func never() pgtype.Timestamptz {
	return pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true}
}

// spans cuts the index at the floors.
func spans(floors []Floor) []span {
	parts := make([]span, 0, len(floors)+1)
	parts = append(parts, span{lane: lanePosition{math.MinInt32, math.MinInt32}, due: never()})
	for _, f := range floors {
		parts = append(parts, span{lane: lanePosition{f.DestinationID, -f.Priority}, due: pgtype.Timestamptz{Time: f.Due, Valid: true}, id: f.ID})
	}
	slices.SortFunc(parts, func(a, b span) int { return a.lane.compare(b.lane) })
	for i := range parts {
		parts[i].end = lanePosition{math.MaxInt32, math.MaxInt32}
		if i+1 < len(parts) {
			parts[i].end = parts[i+1].lane
		}
	}
	return parts
}

// Discover calls f for every destination and priority that has rows waiting, with
// the first of them. In a lane that has a floor it looks for rows from there on
// only; there may be one floor a lane.
func (s *Store) Discover(ctx context.Context, floors []Floor, f func(Waiting)) error {
	left := spans(floors)
	for len(left) > 0 {
		page := left[:min(len(left), discoverPage)]
		n, last, at, err := s.discoverPage(ctx, page, f)
		if err != nil {
			return err
		}
		if n < discoverPage {
			left = left[len(page):]
			continue
		}
		left = left[at:]
		left[0].lane, left[0].due, left[0].id = last, never(), ""
	}
	return nil
}

// discoverPage tells how many lanes it found, which was the last and in which span.
func (s *Store) discoverPage(ctx context.Context, page []span, f func(Waiting)) (n int, last lanePosition, at int, err error) {
	ctx, cancel := s.deadline(ctx)
	defer cancel()
	destination, rank := make([]int32, len(page)), make([]int32, len(page))
	due, id := make([]pgtype.Timestamptz, len(page)), make([]string, len(page))
	endID, endRank := make([]int32, len(page)), make([]int32, len(page))
	for i, r := range page {
		destination[i], rank[i], due[i], id[i], endID[i], endRank[i] = r.lane.destination, r.lane.rank, r.due, r.id, r.end.destination, r.end.rank
	}
	var w Waiting
	var wait float64
	var ordinal int64
	err = s.scan(ctx, s.relaxed, func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&w.DestinationID, &w.Priority, &w.Due, &wait, &ordinal}, func() error {
			n++
			w.Wait = time.Duration(wait * float64(time.Second))
			last, at = lanePosition{w.DestinationID, -w.Priority}, int(ordinal)-1
			f(w)
			return nil
		})
		return err
	}, discoverSQL, destination, rank, due, id, endID, endRank, discoverPage)
	return n, last, at, wrap("looking for lanes with work", err)
}
