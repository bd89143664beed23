package pglocal

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// canPassDirectories: a process can reach a directory that it holds open, by /proc/self/fd, without permission for the
// directories above it.
const canPassDirectories = true

// dieWithParent asks the kernel to send the server SIGQUIT (immediate shutdown, which takes its children with it) when
// the thread that starts it ends. SIGKILL would leave the children to notice; SIGINT would write a checkpoint first,
// which can take longer than a supervisor takes to start the daemon again.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }

// servesDirectory reports whether a process is a postmaster on a data directory (it works in it), and whether that
// could be found out.
func servesDirectory(pid int, data string) (serves, known bool) {
	cwd, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "cwd"))
	if err != nil {
		return false, false
	}
	resolved, err := filepath.EvalSymlinks(data)
	return err == nil && cwd == resolved, err == nil
}

// defunct reports whether a process has ended and only waits for its parent to ask how.
func defunct(pid int) bool {
	fields := processStat(strconv.Itoa(pid))
	return len(fields) > 0 && (fields[0] == "Z" || fields[0] == "X")
}

// childrenOf lists the processes whose parent is pid.
func childrenOf(pid int) []int {
	var children []int
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, process := range processes {
		name := filepath.Base(process)
		if fields := processStat(name); len(fields) < 2 || fields[1] != strconv.Itoa(pid) {
			continue
		}
		if child, err := strconv.Atoi(name); err == nil {
			children = append(children, child)
		}
	}
	return children
}

// processStat returns the fields of /proc/<pid>/stat from the third on: state, parent, ... (proc_pid_stat(5)); none
// when the process is gone. The second, the program's name in parentheses, may hold anything, also ") ".
func processStat(pid string) []string {
	data, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return nil
	}
	return strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
}

// availableMemory returns the bytes of memory that this machine or its container has.
func availableMemory() int64 {
	memory := int64(1 << 30)
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err == nil {
		total := uint64(info.Totalram) * uint64(info.Unit) //nolint:unconvert // 32 bits wide on some architectures
		memory = int64(min(total, math.MaxInt64))
	}
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		// "max" when there is no limit.
		if limit, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil && limit > 0 {
			memory = min(memory, limit)
		}
	}
	return memory
}
