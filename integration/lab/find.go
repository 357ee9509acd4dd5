package lab

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Running is a host of a lab that another process runs.
type Running struct {
	Name    string
	Address string
	Key     string // file with the key that opens it
	PID     int    // of its QEMU, in whose network namespace it is reachable
}

// FindRunning lists the hosts that run on this machine, of all labs, those started
// last first. It reads the process table, the only record of them: there is no
// file that could be left over. It needs root.
func FindRunning() ([]Running, error) {
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var hosts []Running
	for _, path := range entries {
		line, err := os.ReadFile(path)
		if err != nil {
			continue // it has just ended
		}
		var args []string
		for word := range bytes.SplitSeq(line, []byte{0}) {
			args = append(args, string(word))
		}
		name, ours := strings.CutPrefix(findArg(args, "-name"), machinePlate)
		if !ours || filepath.Base(args[0]) != qemuProgram {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			continue
		}
		_, address, _ := strings.Cut(findArg(args, "-append"), "lab.address=")
		if address == "" {
			continue // a snapshot being made
		}
		hosts = append(hosts, Running{
			Name: name, Address: address, PID: pid,
			Key: filepath.Join(filepath.Dir(findArg(args, "-kernel")), "id"),
		})
	}
	slices.SortFunc(hosts, func(a, b Running) int { return b.PID - a.PID })
	return hosts, nil
}

// Shell is the command line that logs in to the host, with ssh's words appended.
func (r Running) Shell(words ...string) []string {
	return append([]string{
		"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", r.PID), "--",
		"ssh", "-q", "-i", r.Key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"root@" + r.Address,
	}, words...)
}
