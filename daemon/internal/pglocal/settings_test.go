package pglocal

import (
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSharedBuffersAreBounded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		memory := rapid.Int64Range(0, 1<<50).Draw(t, "memory")
		value := settings(memory, true)["shared_buffers"]
		mb, err := strconv.Atoi(strings.TrimSuffix(value, "MB"))
		if err != nil || mb < 128 || mb > 2048 {
			t.Fatalf("shared_buffers = %q for %d bytes of memory, want 128MB to 2048MB", value, memory)
		}
	})
}

func TestOnlyTestsGoWithoutFsync(t *testing.T) {
	t.Parallel()
	if value, ok := settings(1<<30, true)["fsync"]; ok {
		t.Errorf("fsync = %s for a user's data, want PostgreSQL's own default", value)
	}
	if value := settings(1<<30, false)["fsync"]; value != "off" {
		t.Errorf("fsync = %q with DisableFsync, want off", value)
	}
}

func TestQuoteSetting(t *testing.T) {
	t.Parallel()
	if got := quoteSetting(`it's`); got != `'it''s'` {
		t.Errorf("quoteSetting = %s, want 'it''s'", got)
	}
}
