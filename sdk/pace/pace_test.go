package pace

import (
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestPercentage(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		alive uint64
		want  int
	}{
		{0, 900}, {1 << 20, 900}, {2 << 20, 900}, {8 << 20, 500}, {17 << 20, 280}, {Spare, 200}, {10 * Spare, 110}, {1 << 40, 100},
	} {
		got := percentage(test.alive, Spare, false)
		if got != test.want {
			t.Errorf("%d MiB alive: %d %%, want %d", test.alive>>20, got, test.want)
		}
		// The promise: never more than Spare beyond a doubled heap.
		if garbage := test.alive * uint64(got) / 100; garbage > test.alive+Spare {
			t.Errorf("%d MiB alive: %d MiB of garbage", test.alive>>20, garbage>>20)
		}
	}
}

func TestPercentageWhileSomethingLargeIsUnderWay(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		alive uint64
		want  int
	}{
		{0, 200}, {4 << 20, 200}, {12 << 20, 60}, {24 << 20, 30}, {64 << 20, 25}, {1 << 40, 25},
	} {
		if got := percentage(test.alive, Spare, true); got != test.want {
			t.Errorf("%d MiB alive: %d %%, want %d", test.alive>>20, got, test.want)
		}
	}
}

func TestLargeEnds(t *testing.T) {
	t.Parallel()
	// Not Start: the percentage is the whole process's, and other tests' too.
	p := &Pacer{spare: Spare}
	p.count(1)
	first := p.last
	second := p.Large()
	p.count(-1)
	if p.last != first {
		t.Errorf("with one of two large things over the percentage is %d, want %d", p.last, first)
	}
	second()
	if p.last <= first {
		t.Errorf("with all large things over the percentage is %d, want more than %d", p.last, first)
	}
	var none *Pacer
	none.Large()()
}

// asChild makes the test binary a process whose collector is adjusted: it is
// the whole process's.
const asChild = "DELIVERYD_TEST_PACE"

func TestMain(m *testing.M) {
	if os.Getenv(asChild) != "" {
		child()
		return
	}
	os.Exit(m.Run())
}

// child prints its percentages: as it was started, and after it has kept more
// than Spare alive.
func child() {
	Start(Spare)
	show := func() {
		percent := debug.SetGCPercent(usual)
		debug.SetGCPercent(percent)
		println(percent)
	}
	show()
	keep := make([]byte, 2*Spare)
	rounds := 1000 // cleanups run some time after a collection
	if os.Getenv("GOGC") != "" {
		rounds = 10
	}
	for range rounds {
		runtime.GC()
		percent := debug.SetGCPercent(usual)
		debug.SetGCPercent(percent)
		if percent <= 2*usual {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	show()
	runtime.KeepAlive(keep)
}

func run(t *testing.T, env ...string) []int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), append(env, asChild+"=1")...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var percents []int
	for _, field := range strings.Fields(string(out)) {
		percent, err := strconv.Atoi(field)
		if err != nil {
			t.Fatalf("output %q", out)
		}
		percents = append(percents, percent)
	}
	if len(percents) != 2 {
		t.Fatalf("output %q", out)
	}
	return percents
}

func TestAdjustsToWhatLives(t *testing.T) {
	t.Parallel()
	if got := run(t, "GOGC="); got[0] < 300 || got[1] < usual || got[1] > 150 {
		t.Errorf("percentages %v: want many with a small heap, and at most 150 with %d MiB alive", got, 2*Spare>>20)
	}
}

func TestLeavesTheOperatorsWord(t *testing.T) {
	t.Parallel()
	if got := run(t, "GOGC=150"); got[0] != 150 || got[1] != 150 {
		t.Errorf("percentages %v, want 150", got)
	}
}
