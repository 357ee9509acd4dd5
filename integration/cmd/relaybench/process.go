package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// userHz is the unit of times in /proc/PID/stat, 100 on every Linux (getconf CLK_TCK).
const userHz = 100

// group is a peer's processes.
type group []*exec.Cmd

// start starts a program in a process group of its own, which ends with this program.
func start(log *bytes.Buffer, name string, args ...string) (*exec.Cmd, error) {
	command := exec.Command(name, args...)
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return command, command.Start()
}

func (g group) stop() {
	for _, command := range g {
		_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
		_ = command.Wait()
	}
}

// members are the processes and all that they started, each in whatever process group.
func (g group) members() (pids []string, err error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := map[string][]string{}
	for _, file := range stats {
		fields, err := statFields(file)
		if err != nil {
			continue // it has ended
		}
		children[fields[1]] = append(children[fields[1]], filepath.Base(filepath.Dir(file)))
	}
	for _, command := range g {
		pids = append(pids, strconv.Itoa(command.Process.Pid))
	}
	for i := 0; i < len(pids); i++ {
		pids = append(pids, children[pids[i]]...)
	}
	return pids, nil
}

// statFields are those after the program's name, which may contain anything: state,
// parent, process group (proc_pid_stat(5), from field 3 on).
func statFields(file string) ([]string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])), nil
}

// cpu is the processor time that the peer has used.
func (g group) cpu() (time.Duration, error) {
	pids, err := g.members()
	if err != nil {
		return 0, err
	}
	total := 0
	for _, pid := range pids {
		fields, err := statFields("/proc/" + pid + "/stat")
		if err != nil {
			return 0, err
		}
		for _, field := range fields[11:13] { // utime, stime
			ticks, err := strconv.Atoi(field)
			if err != nil {
				return 0, err
			}
			total += ticks
		}
	}
	return time.Duration(total) * time.Second / userHz, nil
}

// memory is the peer's resident memory in MiB; what its processes share is divided between
// them (Pss).
func (g group) memory() (float64, error) {
	pids, err := g.members()
	if err != nil {
		return 0, err
	}
	total := 0.0
	for _, pid := range pids {
		text, err := os.ReadFile("/proc/" + pid + "/smaps_rollup")
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
				kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
				if err != nil {
					return 0, fmt.Errorf("memory of process %s: %w", pid, err)
				}
				total += kib / 1024
			}
		}
	}
	return total, nil
}
