package keeper_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is for a busy machine; nothing here takes that long.
const patience = 20 * time.Second

// parent is a running parent, and what it and its workers say.
type parent struct {
	*testing.T
	command *exec.Cmd
	input   io.WriteCloser
	lines   chan string
	dir     string
	// worker and tcp are those of the latest ready line.
	worker int
	tcp    string
}

func start(t *testing.T, kind string, environ ...string) *parent {
	t.Helper()
	p := &parent{T: t, dir: t.TempDir(), lines: make(chan string, 1000)}
	p.command = exec.Command("/proc/self/exe", "a worker")
	p.command.Env = append(os.Environ(), append(environ, role+"="+kind, directory+"="+p.dir)...)
	p.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	p.command.Stderr = os.Stderr
	p.run()
	return p
}

func (p *parent) run() {
	p.Helper()
	output, err := p.command.StdoutPipe()
	if err != nil {
		p.Fatal(err)
	}
	if p.input, err = p.command.StdinPipe(); err != nil {
		p.Fatal(err)
	}
	if err := p.command.Start(); err != nil {
		p.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(p.lines)
		for scanner := bufio.NewScanner(output); scanner.Scan(); {
			p.Log(scanner.Text())
			p.lines <- scanner.Text()
		}
	}()
	p.Cleanup(func() {
		_ = p.command.Process.Kill()
		<-read
		_ = p.command.Wait()
	})
}

// await gives the words that follow a line's first.
func (p *parent) await(first string) []string {
	p.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case line, open := <-p.lines:
			if !open {
				p.Fatalf("the parent ended before %q was said", first)
			}
			if words := strings.Fields(line); len(words) > 0 && words[0] == first {
				return words[1:]
			}
		case <-timer.C:
			p.Fatalf("nobody said %q", first)
		}
	}
}

// ready waits until a worker is ready.
func (p *parent) ready() {
	p.Helper()
	words := p.await("ready")
	p.worker, _ = strconv.Atoi(words[0])
	if p.tcp != "" && p.tcp != words[1] {
		p.Fatalf("the listener was %s and is %s", p.tcp, words[1])
	}
	p.tcp = words[1]
}

func (p *parent) tell(command string) {
	p.Helper()
	if _, err := io.WriteString(p.input, command+"\n"); err != nil {
		p.Fatal(err)
	}
}

func (p *parent) ask(command, first string) []string {
	p.Helper()
	p.tell(command)
	return p.await(first)
}

func (p *parent) kill(pid int, signal unix.Signal) {
	p.Helper()
	if err := unix.Kill(pid, signal); err != nil {
		p.Fatal(err)
	}
}

// ends waits for the parent's end.
func (p *parent) ends() int {
	p.Helper()
	for range p.lines {
	}
	var exit *exec.ExitError
	if err := p.command.Wait(); err != nil && !errors.As(err, &exit) {
		p.Fatal(err)
	}
	return p.command.ProcessState.ExitCode()
}

func (p *parent) address(network string) string {
	if network == "unix" {
		return filepath.Join(p.dir, "unix.sock")
	}
	return p.tcp
}

// gone waits until a process is no more, or only a zombie.
func gone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
	}
	t.Fatalf("process %d is still there", pid)
}
