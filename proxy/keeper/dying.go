package keeper

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lookEvery is how often a worker is looked at, and looksInARow how often it must be found dying
	// until it counts as one that cannot end.
	lookEvery   = time.Second
	looksInARow = 2
	// exiting is PF_EXITING, include/linux/sched.h.
	exiting = 0x4
	// flagsField is that of the flags in /proc/PID/stat, counted from the state (proc(5)).
	flagsField = 6
)

// await waits until a worker has ended, or has been killed and cannot end. That happens to one that
// waits in the kernel for a file system whose connection it carried itself: the kernel waits for an
// answer, and the answer for the next worker.
func (k *keeper) await(worker int, ended <-chan unix.WaitStatus) (status unix.WaitStatus, stuck bool) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for looks := 0; ; {
		select {
		case status := <-ended:
			return status, false
		case <-tick.C:
			if looks++; k.isEnded() || !dying(worker) {
				looks = 0
			}
			if looks == looksInARow {
				return unix.WaitStatus(unix.SIGKILL), true
			}
		}
	}
}

// dying tells whether a process runs no more, though some of its threads have not ended: its first one
// has, is about to, or was killed.
func dying(pid int) bool {
	stat := read(fmt.Sprintf("/proc/%d/stat", pid))
	// The program's name may have anything in it, and ends with the last parenthesis.
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) <= flagsField {
		return false
	}
	flags, err := strconv.ParseUint(fields[flagsField], 10, 64)
	return fields[0] == "Z" || err == nil && flags&exiting != 0 || killed(pid)
}

// killed tells whether SIGKILL has reached a process's first thread, which has not seen it.
func killed(pid int) bool {
	for line := range strings.Lines(read(fmt.Sprintf("/proc/%d/status", pid))) {
		if set, is := strings.CutPrefix(line, "SigPnd:"); is {
			pending, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
			return err == nil && pending&(1<<(unix.SIGKILL-1)) != 0
		}
	}
	return false
}

// read reads a file of /proc, "" if that fails: by system calls alone, so that a parent that looks at its
// worker is woken for nothing else.
func read(path string) string {
	const enough = 4096
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	data := make([]byte, enough)
	n, err := unix.Read(fd, data)
	if err != nil {
		return ""
	}
	return string(data[:n])
}
