// Package proc reads from Linux' /proc what processes have used: CPU time, peak memory, children. It only reads, and it
// must never count a process twice or lose one that ended while it looked.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc: USER_HZ is 100 on every architecture that Go runs on (proc(5)).
const tick = 10 * time.Millisecond

// FS is where the proc file system is mounted.
type FS string

// System is where Linux mounts it.
const System FS = "/proc"

// Stat is a part of /proc/<pid>/stat.
type Stat struct {
	PID, Parent int
	// Name is the program's name, at most 15 bytes.
	Name string
	// CPU is the process's own, user and system.
	CPU time.Duration
	// Waited is that of its ended children, and of theirs, as far as they were waited for.
	Waited time.Duration
	// Started tells a process from a later one with the same id: ticks since boot.
	Started uint64
}

// Stat reads one process. The error wraps os.ErrNotExist when there is none.
func (fs FS) Stat(pid int) (Stat, error) {
	data, err := os.ReadFile(fs.path(pid, "stat"))
	if err != nil {
		return Stat{}, fmt.Errorf("reading about process %d: %w", pid, gone(err))
	}
	stat, err := parseStat(data)
	if err != nil {
		return Stat{}, fmt.Errorf("reading about process %d: %w", pid, err)
	}
	return stat, nil
}

// gone makes ESRCH, which the kernel answers for a process that ended between open and read, the same as ENOENT.
func gone(err error) error {
	if err != nil && strings.Contains(err.Error(), "no such process") {
		return errors.Join(err, os.ErrNotExist)
	}
	return err
}

// parseStat reads the fields by their numbers in proc_pid_stat(5). The name stands in parentheses and may hold anything,
// also ") ".
func parseStat(data []byte) (Stat, error) {
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if open < 0 || end < open {
		return Stat{}, fmt.Errorf("no name in parentheses in %q", data)
	}
	fields := strings.Fields(string(data[end+1:]))
	const first, last = 3, 22 // fields[0] is the third field
	if len(fields) <= last-first {
		return Stat{}, fmt.Errorf("%d fields behind the name, want %d or more", len(fields), last-first+1)
	}
	var failed error
	number := func(field int) int64 {
		n, err := strconv.ParseInt(fields[field-first], 10, 64)
		failed = errors.Join(failed, err)
		return n
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data[:open])))
	failed = errors.Join(failed, err)
	stat := Stat{
		PID: pid, Parent: int(number(4)), Name: string(data[open+1 : end]),
		CPU:    time.Duration(number(14)+number(15)) * tick,
		Waited: time.Duration(number(16)+number(17)) * tick,
	}
	stat.Started = uint64(number(22))
	return stat, failed
}

// Descendants returns the live processes below pid, without pid, in the order of their ids.
func (fs FS) Descendants(pid int) ([]Stat, error) {
	all, err := fs.processes()
	if err != nil {
		return nil, err
	}
	below := map[int]bool{pid: true}
	// Ids can wrap around, so a child may come before its parent: go on until nothing is new.
	for grown := true; grown; {
		grown = false
		for _, stat := range all {
			if below[stat.Parent] && !below[stat.PID] {
				below[stat.PID], grown = true, true
			}
		}
	}
	return slices.DeleteFunc(all, func(s Stat) bool { return s.PID == pid || !below[s.PID] }), nil
}

func (fs FS) processes() ([]Stat, error) {
	entries, err := os.ReadDir(string(fs))
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	var all []Stat
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := fs.Stat(pid)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, stat)
	}
	slices.SortFunc(all, func(a, b Stat) int { return a.PID - b.PID })
	return all, nil
}

// treeTries bounds how often TreeCPU starts over because a process came or went while it looked.
const treeTries = 10

// TreeCPU returns the CPU time of a process, of everything below it, and of all their children that have ended.
func (fs FS) TreeCPU(pid int) (time.Duration, error) {
	var total time.Duration
	for range treeTries {
		before, err := fs.Stat(pid)
		if err != nil {
			return 0, err
		}
		below, err := fs.Descendants(pid)
		if err != nil {
			return 0, err
		}
		after, err := fs.Stat(pid)
		if err != nil {
			return 0, err
		}
		total = after.CPU + after.Waited
		for _, stat := range below {
			total += stat.CPU + stat.Waited
		}
		// A child that ended in between would be counted twice or not at all: as itself, and in its parent's Waited.
		if before.Waited == after.Waited {
			return total, nil
		}
	}
	return total, nil
}

// Memory is resident memory in bytes.
type Memory struct {
	Now, Peak int64
}

// Memory reads the resident memory of a process.
func (fs FS) Memory(pid int) (Memory, error) {
	data, err := os.ReadFile(fs.path(pid, "status"))
	if err != nil {
		return Memory{}, fmt.Errorf("reading the memory of process %d: %w", pid, gone(err))
	}
	var m Memory
	if m.Now, err = kilobytes(data, "VmRSS"); err == nil {
		m.Peak, err = kilobytes(data, "VmHWM")
	}
	if err != nil {
		return Memory{}, fmt.Errorf("reading the memory of process %d: %w", pid, err)
	}
	return m, nil
}

// Program is the name of the file that a process runs; Stat.Name is cut short.
func (fs FS) Program(pid int) (string, error) {
	path, err := os.Readlink(fs.path(pid, "exe"))
	if err != nil {
		return "", fmt.Errorf("reading about process %d: %w", pid, gone(err))
	}
	return filepath.Base(path), nil
}

// ForgetPeak makes the peak of a process's resident memory what it has now (proc(5), clear_refs).
func (fs FS) ForgetPeak(pid int) error {
	if err := os.WriteFile(fs.path(pid, "clear_refs"), []byte("5"), 0); err != nil {
		return fmt.Errorf("forgetting the peak of memory of process %d: %w", pid, gone(err))
	}
	return nil
}

// TotalMemory returns the machine's memory in bytes.
func (fs FS) TotalMemory() (int64, error) {
	data, err := os.ReadFile(filepath.Join(string(fs), "meminfo"))
	if err != nil {
		return 0, fmt.Errorf("reading the machine's memory: %w", err)
	}
	return kilobytes(data, "MemTotal")
}

// kilobytes finds a line such as "VmHWM:     1234 kB".
func kilobytes(data []byte, name string) (int64, error) {
	for line := range strings.Lines(string(data)) {
		rest, found := strings.CutPrefix(line, name+":")
		if !found {
			continue
		}
		fields := strings.Fields(rest)
		if len(fields) != 2 || fields[1] != "kB" {
			return 0, fmt.Errorf("%s is %q, want a number of kB", name, strings.TrimSpace(rest))
		}
		n, err := strconv.ParseInt(fields[0], 10, 64)
		return n << 10, err
	}
	return 0, fmt.Errorf("no line %s", name)
}

// Load is the CPU time that a whole machine has spent since it booted.
type Load struct {
	// Busy is all work. Stolen is what other guests of the same host took.
	Busy, Stolen time.Duration
}

// Load reads the machine's CPU times.
func (fs FS) Load() (Load, error) {
	data, err := os.ReadFile(filepath.Join(string(fs), "stat"))
	if err != nil {
		return Load{}, fmt.Errorf("reading the machine's load: %w", err)
	}
	return parseLoad(data)
}

// parseLoad reads the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal, ...
func parseLoad(data []byte) (Load, error) {
	line, _, _ := bytes.Cut(data, []byte("\n"))
	fields := strings.Fields(string(line))
	if len(fields) < 9 || fields[0] != "cpu" {
		return Load{}, fmt.Errorf("the machine's load is %q, want cpu and 8 or more numbers", line)
	}
	var load Load
	for i, field := range fields[1:9] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return Load{}, fmt.Errorf("reading the machine's load: %w", err)
		}
		const idle, iowait, steal = 3, 4, 7
		switch i {
		case idle, iowait:
		case steal:
			load.Stolen = time.Duration(n) * tick
		default:
			load.Busy += time.Duration(n) * tick
		}
	}
	return load, nil
}

func (fs FS) path(pid int, file string) string {
	return filepath.Join(string(fs), strconv.Itoa(pid), file)
}
