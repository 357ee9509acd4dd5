package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/proxytest"
)

// asCommand makes the test's program the command itself, for tests that look from outside.
const asCommand = "DOCKER_VOLUME_EFS_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		os.Exit(run())
	}
	os.Exit(m.Run())
}

// patience is far beyond what anything on loopback takes.
const patience = 30 * time.Second

// process is a command that runs.
type process struct {
	*exec.Cmd
	t    *testing.T
	done chan struct{} // closed when it has ended

	mu   sync.Mutex // guards the following field
	text strings.Builder
}

// launch starts the command by a shell's line in which "$@" stands for it, with files that it
// gets as descriptors 3 and on.
func launch(t *testing.T, shell string, files []*os.File, environ []string, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, done: make(chan struct{})}
	p.Cmd = exec.CommandContext(context.WithoutCancel(t.Context()), "/bin/sh", append([]string{"-c", shell, "sh", self}, args...)...)
	p.Env = append(environment(), environ...)
	p.ExtraFiles = files
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.Stdout, p.Stderr = writer, writer
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	_ = writer.Close()
	var reading sync.WaitGroup
	reading.Go(func() {
		defer reader.Close()
		for lines := bufio.NewScanner(reader); lines.Scan(); {
			p.mu.Lock()
			fmt.Fprintln(&p.text, lines.Text())
			p.mu.Unlock()
		}
	})
	go func() {
		reading.Wait()
		_ = p.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("%s said:\n%s", strings.Join(args, " "), p.log())
		}
	})
	return p
}

// environment makes the test's program the command, and has no settings of AWS's, systemd's and the plugin's
// own that whoever runs the tests has.
func environment() []string {
	theirs := slices.DeleteFunc(os.Environ(), func(pair string) bool {
		return slices.ContainsFunc([]string{"AWS_", "ECS_", "EFS_", "LISTEN_", "NOTIFY_SOCKET="}, func(obeyed string) bool { return strings.HasPrefix(pair, obeyed) })
	})
	return append(theirs, asCommand+"=1", "AWS_CONFIG_FILE=/nonexistent", "AWS_SHARED_CREDENTIALS_FILE=/nonexistent")
}

// relay starts a gateway that answers within milliseconds.
func runRelay(t *testing.T, args ...string) *process {
	t.Helper()
	return launch(t, `exec "$@"`, nil, nil, append([]string{"relay"}, args...)...)
}

func (p *process) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// line waits for a line that matches and returns what its group found.
func (p *process) line(pattern string) string {
	p.t.Helper()
	expression := regexp.MustCompile(pattern)
	var found []string
	eventually(p.t, "a line with "+pattern, func() bool {
		found = expression.FindStringSubmatch(p.log())
		return found != nil
	})
	return found[len(found)-1]
}

// addr is where it listens for clients.
func (p *process) addr() string {
	p.t.Helper()
	return p.line(`listening for NFS clients on (\S+),`)
}

// ended waits for the end and returns the exit status.
func (p *process) ended() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatal("it does not end")
	}
	return p.ProcessState.ExitCode()
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// worker is the process that serves.
func (p *process) worker() int {
	p.t.Helper()
	pid := 0
	eventually(p.t, "a worker", func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", p.Process.Pid))
		if err != nil {
			p.t.Fatal(err)
		}
		// Run's thread, which is not the first one, may have made it.
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.Process.Pid))
		for _, task := range tasks {
			more, _ := os.ReadFile(task)
			text = append(text, more...)
		}
		fields := strings.Fields(string(text))
		if len(fields) > 0 {
			pid, _ = strconv.Atoi(fields[0])
		}
		return pid > 0
	})
	return pid
}

// nfsServer answers NULL, and anything else by saying it again.
func nfsServer(t *testing.T) (addr string) {
	t.Helper()
	return proxytest.Serve(t, proxytest.Echo).Addr.String()
}

func connect(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// talk sends a text and reports what keeps it from coming back.
func talk(conn net.Conn, text string) error {
	if _, err := io.WriteString(conn, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("received %q, want %q", got, text)
	}
	return nil
}

func mustTalk(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if err := talk(conn, text); err != nil {
		t.Fatal(err)
	}
}

func TestRelayRefusesWithOneLineThatSaysWhatToDo(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	const target = "--target=a=127.0.0.1:1"
	for _, row := range []struct {
		args string
		says string
		exit int
	}{
		{"", "no target is given", exitUsage},
		{target, "nothing to listen on: give --listen", exitUsage},
		{"--listen=127.0.0.1:0 --target=a=10.0.0.1 --target=a=10.0.0.2", "zone a is given twice", exitUsage},
		{"--listen=127.0.0.1:0 --target=a=10.0.0.1 --target=b=10.0.0.1", "address 10.0.0.1:2049 is given twice", exitUsage},
		{"--listen=127.0.0.1:0 --target=a=10.0.0", "write zone=address", exitUsage},
		{"--listen=127.0.0.1:0 --target=10.0.0.1", "write zone=address", exitUsage},
		{"--listen=127.0.0.1 " + target, "write address:port", exitUsage},
		{"--listen=127.0.0.1:0 --zone=b " + target, "home zone b: no target is there", exitUsage},
		{"--listen=127.0.0.1:0 --allow=10.0.0.1/8 " + target, "write 10.0.0.0/8 for the network", exitUsage},
		{"--listen=127.0.0.1:0 --inter=soon " + target, "write a time such as 5s", exitUsage},
		{"--listen=127.0.0.1:0 --inter=0 " + target, "write a time such as 5s", exitUsage},
		{"--listen=127.0.0.1:0 --fall=0 " + target, "write a number from 1 to 1000", exitUsage},
		{"--listen=127.0.0.1:0 --return=never " + target, "write sticky or home", exitUsage},
		{"--listen=127.0.0.1:0 --max-connections=0 " + target, "write 1 or more", exitUsage},
		{"--listen=127.0.0.1:0 --max-per-client=-1 " + target, "0 for any number", exitUsage},
		{"--listen=127.0.0.1:0 --drain=-1s " + target, "write 0 or more", exitUsage},
		{"--listen=127.0.0.1:0 --log-level=loud " + target, "write debug, info, warn or error", exitUsage},
		{"--listen=127.0.0.1:0 --http=8080 " + target, "--http: listen on \"8080\": write address:port", exitUsage},
		{"--listen=127.0.0.1:0 --peer-connect=10.0.0.9:1 " + target, "a gateway has one of the two", exitUsage},
		{"--peer-listen=127.0.0.1:0 " + target, "takes --cert, --key and --peer-ca", exitUsage},
		{"--listen=127.0.0.1:0 --cert=x " + target, "takes --cert, --key and --peer-ca", exitUsage},
		{"--listen=127.0.0.1:0 --peer-name=x " + target, "neither is given", exitUsage},
		{"--listen=127.0.0.1:0 --peer-connect=10.0.0.9:1 --cert=/nowhere/c --key=/nowhere/k --peer-ca=/nowhere/a", "/nowhere/c: no such file", exitTrouble},
		{"--listen=127.0.0.1:0 --colour " + target, "unknown flag: --colour", exitUsage},
		{"--listen=127.0.0.1:0 --tls " + target, "write the file system's id", exitUsage},
		{"--listen=127.0.0.1:0 --iam --filesystem=nfs://10.0.0.1/e " + target, "write the file system's id", exitUsage},
		{"--listen=127.0.0.1:0 --access-point=x --filesystem=fs-01234567 " + target, "the id of an access point", exitUsage},
		{"--listen=127.0.0.1:0 --role=x --filesystem=fs-01234567 " + target, "the ARN of an IAM role", exitUsage},
		{"--listen=127.0.0.1:0 --tls --ca-file=/nowhere/ca --filesystem=fs-01234567 --region=eu-west-1 " + target, "/nowhere/ca: no such file", exitTrouble},
		{"--listen=127.0.0.1:0 --tls --filesystem=fs-01234567 --peer-connect=10.0.0.9:1 --cert=c --key=k --peer-ca=a", "the gateway at the other end", exitUsage},
		{"--listen=127.0.0.1:1 " + target, "target a=127.0.0.1:1 is this gateway itself", exitUsage},
		{"--listen=" + busy.Addr().String() + " " + target, "another process listens there", exitTrouble},
		{"--listen=192.0.2.1:2049 " + target, "this machine has no such address", exitTrouble},
	} {
		t.Run(row.args, func(t *testing.T) {
			if strings.Contains(row.args, "127.0.0.1:1 ") && strings.Contains(row.says, "itself") && os.Getuid() != 0 {
				t.Skip("only root may listen on port 1")
			}
			p := runRelay(t, strings.Fields(row.args)...)
			exit := p.ended()
			text := p.log()
			if exit != row.exit || strings.Count(text, "\n") != 1 || !strings.HasPrefix(text, "docker-volume-efs: ") || !strings.Contains(text, row.says) {
				t.Errorf("exit status %d, want %d and one line with %q:\n%s", exit, row.exit, row.says, text)
			}
		})
	}
}

func TestRelayChecksWhatItIsToldAndEnds(t *testing.T) {
	server := nfsServer(t)
	good := runRelay(t, "--listen=127.0.0.1:0", "--target=a="+server, "--check")
	if exit := good.ended(); exit != 0 || !strings.Contains(good.log(), "a="+server+"  answers in ") {
		t.Errorf("exit status %d:\n%s", exit, good.log())
	}
	bad := runRelay(t, "--target=a="+server, "--target=b=127.0.0.1:1", "--check")
	if exit := bad.ended(); exit != exitTrouble || !strings.Contains(bad.log(), "connection refused") {
		t.Errorf("exit status %d:\n%s", exit, bad.log())
	}
}

// A crash of what serves is a reset for those who are connected, and nothing but a wait for
// those who come.
func TestRelayThatCrashesRefusesNobody(t *testing.T) {
	p := runRelay(t, "--listen=127.0.0.1:0", "--target=a="+nfsServer(t))
	addr := p.addr()
	client := connect(t, addr)
	mustTalk(t, client, "hello")
	if err := syscall.Kill(p.worker(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	for i := range 50 {
		if err := talk(connect(t, addr), fmt.Sprintf("client %d", i)); err != nil {
			// The dead worker's queue may still have taken it, as a client's of the time before.
			if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) || i > 0 {
				t.Fatalf("client %d: %v", i, err)
			}
		}
	}
	t.Logf("50 clients were served within %v of the crash", time.Since(begun))
	if _, err := client.Read(make([]byte, 1)); err == nil {
		t.Error("who was connected is not told")
	}
	if !strings.Contains(p.log(), "the worker crashed") {
		t.Error("no line tells of it")
	}
	p.signal(syscall.SIGTERM)
	if exit := p.ended(); exit != 0 {
		t.Errorf("exit status %d", exit)
	}
}

func TestRelayEndsWhenItIsTold(t *testing.T) {
	p := runRelay(t, "--listen=127.0.0.1:0", "--target=a="+nfsServer(t), "--drain=1h")
	client := connect(t, p.addr())
	mustTalk(t, client, "hello")
	p.signal(syscall.SIGTERM)
	p.line("1 clients are connected, and reset in (1h)")
	mustTalk(t, client, "it goes on")
	p.signal(syscall.SIGTERM)
	if exit := p.ended(); exit != 0 {
		t.Errorf("exit status %d", exit)
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client: %v", err)
	}
}
