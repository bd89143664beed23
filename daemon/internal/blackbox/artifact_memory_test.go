package blackbox_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestArtifactsTakeLittleMemory delivers a large file to four destinations at once.
// DELIVERYD_ARTIFACT_MIB makes it larger.
func TestArtifactsTakeLittleMemory(t *testing.T) {
	t.Parallel()
	// KiB above idle, daemon and plugin together. Measured 40 and 41 MiB with
	// 256 MiB.
	const most = 64 << 10
	size := int64(64)
	if text := os.Getenv("DELIVERYD_ARTIFACT_MIB"); text != "" {
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		size = n
	}
	f := newFleet(t, settings{}, "a", "b", "c", "d")
	files := newFileReceiver()
	f.receiver.file = files.take
	d := f.start()
	// One small file first: what is loaded once is not the large one's.
	id, _ := f.uploadArtifact(d, 1<<20)
	f.submitArtifact(d, id)
	f.await("the small file", "select not exists (select 1 from delivery_queue)")
	pids := append(d.plugins(), d.cmd.Process.Pid)
	idle := memory(t, "VmRSS", pids)

	id, digest := f.uploadArtifact(d, size<<20)
	f.submitArtifact(d, id)
	f.await("the large file", "select not exists (select 1 from delivery_queue)")
	peak := memory(t, "VmHWM", pids)
	t.Logf("%d MiB to %d destinations: idle %d MiB, peak %d MiB, above idle %d MiB", size, len(f.labels), idle>>10, peak>>10, (peak-idle)>>10)
	if !raced && peak-idle > most { // the race detector has shadows of all memory
		t.Errorf("daemon and plugin took %d KiB above idle, want at most %d", peak-idle, most)
	}
	files.mu.Lock()
	defer files.mu.Unlock()
	for _, label := range f.labels {
		if got := files.digests["/"+label]; len(got) != 2 || got[1] != digest {
			t.Errorf("%s got %v, want %s", label, got, digest)
		}
	}
}

// memory sums a field of /proc/PID/status up, in KiB.
func memory(t *testing.T, field string, pids []int) (sum int) {
	t.Helper()
	for _, pid := range pids {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(status), field+":")
		n, err := strconv.Atoi(strings.Fields(rest)[0])
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}
