package bench

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/proc"
)

// Machine is where figures were taken.
type Machine struct {
	Cores       int       `json:"cores"`
	CPU         string    `json:"cpu"`
	MemoryBytes int64     `json:"memory_bytes"`
	Kernel      string    `json:"kernel"`
	Go          string    `json:"go"`
	Commit      string    `json:"commit"`
	Started     time.Time `json:"started"`
	// LoadBefore is the 1-minute load average before anything was started: figures of a busy machine are too low.
	LoadBefore string `json:"load_before"`
}

func machine(ctx context.Context) (Machine, error) {
	memory, err := proc.System.TotalMemory()
	if err != nil {
		return Machine{}, err
	}
	return Machine{
		Cores: runtime.NumCPU(), CPU: cpuModel(), MemoryBytes: memory, Kernel: firstWord("/proc/sys/kernel/osrelease"),
		Go: runtime.Version(), Commit: commit(ctx), Started: time.Now().UTC(), LoadBefore: firstWord("/proc/loadavg"),
	}, nil
}

// firstWord of a file of the kernel's; what cannot be read is only missing in the description.
func firstWord(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	word, _, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	return word
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if name, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// commit names the source that is measured, with "-dirty" when files differ from it.
func commit(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
