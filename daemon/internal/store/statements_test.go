package store

import (
	"reflect"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// hot are the constants that are not built with jet, by name.
func hot() map[string]string {
	return map[string]string{
		"insertItems": insertItemsSQL, "claimKeys": claimKeysSQL, "insertKeyedItems": insertKeyedItemsSQL, "readKey": readKeySQL,
		"readReady": readReadySQL, "payload": payloadSQL, "discover": discoverSQL, "mark": markSQL,
		"firstDelivered": firstDeliveredSQL, "delivered": deliveredSQL, "firstDeliveredKeep": firstDeliveredKeepSQL, "deliveredKeep": deliveredKeepSQL, "undelivered": undeliveredSQL, "logged": loggedSQL,
		"health": healthSQL, "usage": usageSQL, "secretUse": secretUseSQL, "insertCounts": insertCountsSQL, "takeCounts": takeCountsSQL, "lockHealth": lockHealthSQL, "totals": totalsSQL, "renew": renewSQL, "live": daemonsSQL, "acquire": acquireSQL,
		"release": releaseSQL, "releaseAll": releaseAllSQL, "sweepDaemons": sweepDaemonsSQL, "gone": goneSQL, "waiting": waitingSQL, "deadLetters": deadLettersSQL, "cancel": cancelSQL,
		"replayOne": replayOneSQL, "replayMany": replayManySQL, "expire": expireSQL, "sweepKeys": sweepKeysSQL,
		"sweepFinished": sweepFinishedSQL, "logPartitions": logPartitionsSQL, "statistics": statisticsSQL, "strayDays": strayDaysSQL, "audit": auditSQL, "sweepAudit": sweepAuditSQL, "lockOneHealth": lockOneHealthSQL, "lockRow": lockRowSQL, "healthCame": healthCameSQL, "operated": operatedSQL,
		"healthForced": healthForcedSQL, "healthReleased": healthReleasedSQL, "alertFigures": alertFiguresSQL, "listAlerts": listAlertsSQL, "currentAlerts": currentAlertsSQL,
		"acknowledgeAlert": acknowledgeAlertSQL, "resolveAlert": resolveAlertSQL, "alertState": alertStateSQL, "watchAlerts": watchAlertsSQL,
		"sealedConfigs": sealedConfigsSQL, "sealedSecrets": sealedSecretsSQL, "resealConfig": resealConfigSQL, "resealSecret": resealSecretSQL,
		"resealing": resealingSQL, "lockDestination": lockDestinationSQL, "waits": waitsSQL, "deleteDestination": deleteDestinationSQL, "deadLetter": deadLetterSQL, "lockSecrets": lockSecretsSQL, "deleteOldLogs": deleteOldLogsSQL,
		"createArtifact": createArtifactSQL, "appendChunk": appendChunkSQL, "renewUpload": renewUploadSQL, "finishArtifact": finishArtifactSQL,
		"abandonArtifact": abandonArtifactSQL, "artifactChunk": artifactChunkSQL, "sweepLock": sweepLockSQL, "released": releasedSQL,
		"releaseArtifacts": releaseArtifactsSQL, "expiredArtifacts": expiredSQL, "condemn": condemnSQL, "condemned": condemnedSQL,
		"deleteChunks": deleteChunksSQL, "deleteArtifact": deleteArtifactSQL,
	}
}

// collect returns the statements in a struct of structs, by the path of their fields.
func collect(v reflect.Value, path string, into map[string]statement) {
	for i := range v.NumField() {
		name := path + v.Type().Field(i).Name
		if v.Field(i).Type() == reflect.TypeFor[statement]() {
			into[name] = statement{sql: v.Field(i).Field(0).String()}
			continue
		}
		collect(v.Field(i), name+".", into)
	}
}

func TestEveryStatementIsBuiltAndValid(t *testing.T) {
	t.Parallel()
	f := open(t)
	texts := hot()
	built := map[string]statement{}
	collect(reflect.ValueOf(buildStatements()), "", built)
	for name, st := range built {
		texts[name] = st.sql
	}
	conn, err := f.sql.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	for name, sql := range texts {
		if sql == "" {
			t.Errorf("%s is not built", name)
		} else if _, err := conn.Conn().Prepare(t.Context(), "", sql); err != nil {
			t.Errorf("%s: %v\n%s", name, err, sql)
		}
	}
}

// TestPlansUseTheirIndexes asks for generic plans, which know no argument: a
// partial index whose predicate comes as an argument would not be found then.
func TestPlansUseTheirIndexes(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.exec(t, `insert into delivery_destinations (organization_id, type, label, config) select 'acme', 'webhook', 'd' || i, '{}' from generate_series(1, 50) i`)
	f.exec(t, `insert into delivery_queue (id, organization_id, destination_id, payload, scheduled_at, status, updated_at)
		select 'row' || i, 'acme', 1 + i % 50, '{"type":"t"}', now() - i * interval '1 second',
		  case when i % 3 = 0 then 'failed' else 'pending' end, now() - i * interval '1 second' from generate_series(1, 30000) i`)
	f.exec(t, `insert into delivery_logs (delivery_id, destination_id, organization_id, object_details, status)
		select 'row' || i, 1, case when i % 20 = 0 then 'acme' else 'other' end, '{}', 'delivered' from generate_series(1, 20000) i`)
	f.exec(t, `vacuum analyze delivery_queue`)
	f.exec(t, `vacuum analyze delivery_destinations`)
	f.exec(t, `analyze delivery_logs`)
	st := buildStatements()
	for _, test := range []struct{ name, sql, index string }{
		{"readReady", readReadySQL, "delivery_queue_lane_idx"},
		{"discover", discoverSQL, "delivery_queue_lane_idx"},
		{"waiting", waitingSQL, "delivery_queue_lane_idx"},
		{"expire", expireSQL, "delivery_queue_lane_idx"},
		{"deadLetters", deadLettersSQL, "delivery_queue_finished_idx"},
		{"replayMany", replayManySQL, "delivery_queue_finished_idx"},
		{"sweepFinished", sweepFinishedSQL, "delivery_queue_finished_idx"},
		{"items", st.delivery.items.sql, "delivery_queue_pkey"},
		{"cancel", cancelSQL, "delivery_queue_pkey"},
		{"replayOne", replayOneSQL, "delivery_queue_pkey"},
		{"mark", markSQL, "delivery_queue_pkey"},
		{"firstDelivered", firstDeliveredSQL, "delivery_queue_pkey"},
		{"delivered", deliveredSQL, "delivery_queue_pkey"},
		{"undelivered", undeliveredSQL, "delivery_queue_pkey"},
		{"listLogs", st.delivery.listLogs.sql, "organization_id_created_at_idx"},
	} {
		t.Run(test.name, func(t *testing.T) {
			plan := f.genericPlan(t, test.sql)
			if !strings.Contains(plan, test.index) {
				t.Errorf("does not use %s:\n%s", test.index, plan)
			}
			if strings.Contains(plan, "Seq Scan on delivery_queue") {
				t.Errorf("scans the queue:\n%s", plan)
			}
		})
	}
}

func (f *fixture) genericPlan(t *testing.T, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), f.db.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, set := range []string{"set plan_cache_mode = force_generic_plan", "set jit = off", "prepare p as " + sql} {
		if _, err := conn.Exec(t.Context(), set); err != nil {
			t.Fatalf("%s: %v", set, err)
		}
	}
	var n int
	if err := conn.QueryRow(t.Context(), "select cardinality(parameter_types) from pg_prepared_statements where name = 'p'").Scan(&n); err != nil {
		t.Fatal(err)
	}
	arguments := ""
	if n > 0 {
		arguments = "(" + strings.TrimSuffix(strings.Repeat("null,", n), ",") + ")"
	}
	rows, err := conn.Query(t.Context(), "explain (costs off) execute p"+arguments, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}
