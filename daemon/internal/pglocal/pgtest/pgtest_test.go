package pgtest_test

import (
	"fmt"
	"testing"

	"github.com/deliveryd/deliveryd/daemon/internal/pglocal/pgtest"
	"github.com/google/go-cmp/cmp"
)

func TestDatabasesAreMigratedAndApart(t *testing.T) {
	t.Parallel()
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			pool := pgtest.New(t).Pool(t)
			if _, err := pool.Exec(t.Context(), `insert into delivery_lanes (destination_id) values ($1)`, i); err != nil {
				t.Fatalf("inserting into the test's database: %v", err)
			}
			var got []int32
			if err := pool.QueryRow(t.Context(), `select array_agg(destination_id) from delivery_lanes`).Scan(&got); err != nil {
				t.Fatalf("reading the test's database: %v", err)
			}
			if diff := cmp.Diff([]int32{int32(i)}, got); diff != "" {
				t.Errorf("rows of another test are visible (-want +got):\n%s", diff)
			}
		})
	}
}
