package keeper_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/keeper"
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

func TestAKilledWorkersConnectionsAreServedByTheNext(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			p := start(t, "serving", slowStart+"=300ms")
			p.ready()
			var conns []net.Conn
			dial := func() {
				conn, err := net.Dial(network, p.address(network))
				if err != nil {
					t.Fatalf("connection %d: %v", len(conns), err)
				}
				t.Cleanup(func() { _ = conn.Close() })
				fmt.Fprintln(conn, "line", len(conns))
				conns = append(conns, conn)
			}
			for range 20 {
				dial()
			}
			killed := p.worker
			p.kill(killed, unix.SIGKILL)
			gone(t, killed)
			for range 20 {
				dial()
				time.Sleep(5 * time.Millisecond)
			}
			p.ready()
			dial()
			p.tell("accept")
			for i, conn := range conns {
				_ = conn.SetReadDeadline(time.Now().Add(patience))
				got, err := bufio.NewReader(conn).ReadString('\n')
				if want := fmt.Sprintf("%d line %d\n", p.worker, i); got != want || err != nil || p.worker == killed {
					t.Fatalf("connection %d: %q, %v; want %q", i, got, err, want)
				}
			}
		})
	}
}

func TestAListenerThatIsDroppedIsClosedForGood(t *testing.T) {
	p := start(t, "serving")
	p.ready()
	if got := p.ask("names", "names"); !slices.Equal(got, []string{"tcp,unix"}) {
		t.Fatalf("kept: %v", got)
	}
	p.ask("drop tcp", "dropped")
	if conn, err := net.Dial("tcp", p.tcp); !errors.Is(err, unix.ECONNREFUSED) {
		t.Fatalf("dialled %v, %v, want it refused", conn, err)
	}
	if got := p.ask("names", "names"); !slices.Equal(got, []string{"unix"}) {
		t.Fatalf("kept: %v", got)
	}
	p.kill(p.worker, unix.SIGKILL)
	p.tcp = "" // the next worker makes another
	p.ready()
	if got := p.ask("names", "names"); !slices.Equal(got, []string{"tcp,unix"}) {
		t.Fatalf("kept: %v", got)
	}
}

func TestAListenerThatAWorkerOnlyClosesIsStillOpen(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			p := start(t, "serving")
			p.ready()
			p.ask("close "+network, "closed")
			conn, err := net.Dial(network, p.address(network))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintln(conn, "line")
			p.kill(p.worker, unix.SIGKILL)
			p.ready()
			p.tell("accept")
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			if got, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasSuffix(got, " line\n") {
				t.Fatalf("%q, %v", got, err)
			}
		})
	}
}

func TestAChildOfACrashedWorkerDelaysNothing(t *testing.T) {
	p := start(t, "leaky")
	p.ready()
	before := time.Now()
	p.kill(p.worker, unix.SIGKILL)
	p.ready()
	if took := time.Since(before); took > 2*time.Second {
		t.Fatalf("the next worker came after %s", took)
	}
}

func TestTheWorkersEndIsPassedOn(t *testing.T) {
	for _, row := range []struct {
		name string
		end  func(*parent)
		want int
	}{
		{"exit status 0", func(p *parent) { p.tell("exit 0") }, 0},
		{"death by SIGTERM", func(p *parent) { p.kill(p.command.Process.Pid, unix.SIGTERM) }, 143},
		{"exit status after SIGTERM", func(p *parent) {
			p.ask("trap", "trapped")
			p.kill(p.command.Process.Pid, unix.SIGTERM)
		}, 7},
		{"exit status after SIGINT to the whole process group", func(p *parent) {
			p.ask("trap", "trapped")
			p.kill(-p.command.Process.Pid, unix.SIGINT)
		}, 7},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := start(t, "serving")
			p.ready()
			row.end(p)
			if got := p.ends(); got != row.want {
				t.Fatalf("the parent's exit status is %d, want %d", got, row.want)
			}
			gone(t, p.worker)
		})
	}
	t.Run("any status while nothing is kept", func(t *testing.T) {
		if got := start(t, "bare").ends(); got != 3 {
			t.Fatalf("the parent's exit status is %d, want 3", got)
		}
	})
}

func TestACrashIsAnyOtherEnd(t *testing.T) {
	p := start(t, "restless")
	p.ready()
	for _, end := range []func(){
		func() { p.tell("exit 3") },
		func() { p.kill(p.worker, unix.SIGKILL) },
		func() { p.kill(p.worker, unix.SIGTERM) }, // not from the parent
	} {
		before := p.worker
		end()
		p.ready()
		if p.worker == before {
			t.Fatal("no other worker")
		}
	}
}

// Otherwise a terminal would signal it, and then the parent once more.
func TestAWorkerIsNotInItsParentsProcessGroup(t *testing.T) {
	p := start(t, "serving")
	p.ready()
	group, err := unix.Getpgid(p.worker)
	if err != nil || group == p.command.Process.Pid {
		t.Fatalf("the worker is in group %d, %v", group, err)
	}
}

func TestSIGHUPIsPassedOnAndEndsNothing(t *testing.T) {
	p := start(t, "serving")
	p.ready()
	p.kill(p.command.Process.Pid, unix.SIGHUP)
	p.await("hup")
	if got := p.ask("names", "names"); !slices.Equal(got, []string{"tcp,unix"}) {
		t.Fatalf("kept: %v", got)
	}
}

func TestSIGTERMEndsAParentThatHasNoWorker(t *testing.T) {
	p := start(t, "crashing")
	for range 6 {
		p.await("crash")
	}
	time.Sleep(100 * time.Millisecond) // into a pause of 800 ms
	p.kill(p.command.Process.Pid, unix.SIGTERM)
	for line := range p.lines {
		if strings.HasPrefix(line, "crash") {
			t.Error("another worker was started")
		}
	}
	if got := p.ends(); got != 0 {
		t.Fatalf("exit status %d", got)
	}
}

func TestAWorkerThatKeepsCrashingIsStartedLessAndLessOften(t *testing.T) {
	p := start(t, "crashing")
	var starts []int64
	for range 7 {
		at, err := strconv.ParseInt(p.await("crash")[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		starts = append(starts, at)
	}
	for i, atLeast := range []int64{0, 50, 100, 200, 400, 800} {
		if pause := starts[i+1] - starts[i]; pause < atLeast {
			t.Errorf("start %d came %d ms after the one before, want %d or more", i+1, pause, atLeast)
		}
	}
}

func TestPausesGrowWhileCrashesFollowEachOther(t *testing.T) {
	const ms, s = time.Millisecond, time.Second
	for _, row := range []struct {
		name          string
		crashes, want []time.Duration
	}{
		{"the first crash", []time.Duration{0}, []time.Duration{0}},
		{"crashes far apart", []time.Duration{0, 5 * s, 10 * s}, []time.Duration{0, 0, 0}},
		{
			"crashes close together",
			[]time.Duration{0, s, 2 * s, 3 * s, 4 * s, 5 * s, 6 * s, 7 * s},
			[]time.Duration{0, 50 * ms, 100 * ms, 200 * ms, 400 * ms, 800 * ms, s, s},
		},
		{"quiet, and another", []time.Duration{0, s, 2 * s, 7 * s, 8 * s}, []time.Duration{0, 50 * ms, 100 * ms, 0, 50 * ms}},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := keeper.Pauses(row.crashes...); !slices.Equal(got, row.want) {
				t.Fatalf("pauses %v, want %v", got, row.want)
			}
		})
	}
}

func TestAKilledParentTakesItsWorkerAlong(t *testing.T) {
	p := start(t, "serving")
	p.ready()
	p.kill(p.command.Process.Pid, unix.SIGKILL)
	gone(t, p.worker)
	// A process of many threads is a zombie before the last of them has closed its files.
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("tcp", p.tcp)
		if errors.Is(err, unix.ECONNREFUSED) {
			return
		}
		if err == nil {
			_ = conn.Close()
		}
		if time.Now().After(deadline) {
			t.Fatalf("somebody still listens: %v", err)
		}
	}
}

func TestAParentSurvivesRubbish(t *testing.T) {
	p := start(t, "serving")
	p.ready()
	before := descriptors(t, p.command.Process.Pid)
	p.tell("rubbish")
	if got := p.await("rubbish"); got[0] != strconv.Itoa(keeper.MaxKept) {
		t.Errorf("%v, want %d listeners kept", got, keeper.MaxKept)
	}
	if got := p.await("names"); !slices.Equal(got, []string{"tcp,unix"}) {
		t.Errorf("kept: %v", got)
	}
	if got := p.await("silence"); got[len(got)-1] != "true" {
		t.Errorf("after silence: %v", got)
	}
	p.kill(p.worker, unix.SIGKILL)
	p.ready()
	if got := descriptors(t, p.command.Process.Pid); !slices.Equal(got, before) {
		t.Errorf("the parent's descriptors were\n%v and are\n%v", before, got)
	}
}

// descriptors are a process's open files, in order, sockets by their kind only.
func descriptors(t *testing.T, pid int) []string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, entry := range entries {
		if target, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil {
			kind, _, _ := strings.Cut(target, ":")
			files = append(files, kind)
		}
	}
	slices.Sort(files)
	return files
}

func TestFiftyCrashesLeakNothing(t *testing.T) {
	p := start(t, "restless")
	p.ready()
	crash := func() {
		p.kill(p.worker, unix.SIGKILL)
		p.ready()
		p.ask("again", "kept")
	}
	crash()
	parents, workers := descriptors(t, p.command.Process.Pid), p.ask("descriptors", "descriptors")
	for range 50 {
		crash()
	}
	if got := descriptors(t, p.command.Process.Pid); !slices.Equal(got, parents) {
		t.Errorf("the parent's descriptors were\n%v and are\n%v", parents, got)
	}
	if got := p.ask("descriptors", "descriptors"); !slices.Equal(got, workers) {
		t.Errorf("a worker's descriptors were %v and are %v", workers, got)
	}
	if got := p.ask("child", "child"); !slices.Equal(got, []string{"0"}) {
		t.Errorf("a worker's child has sockets or believes that it is the worker: %v", got)
	}
}

// As process 1 the parent inherits what a worker's children leave behind.
func TestAParentThatIsProcess1LeavesNoZombies(t *testing.T) {
	p := &parent{T: t, dir: t.TempDir(), lines: make(chan string, 1000)}
	p.command = exec.Command("/proc/self/exe")
	p.command.Env = append(os.Environ(), role+"=serving", directory+"="+p.dir)
	p.command.Stderr = os.Stderr
	p.command.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig:   unix.SIGKILL,
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWPID,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	p.run()
	p.ready()
	if p.worker > 50 {
		t.Fatalf("worker %d: the parent is not process 1", p.worker)
	}
	if got := p.ask("orphan", "orphan"); !slices.Equal(got, []string{"<nil>"}) {
		t.Fatalf("orphan: %v", got)
	}
	children := func() []string {
		all, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.command.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		var pids []string
		for _, file := range all {
			text, _ := os.ReadFile(file)
			pids = append(pids, strings.Fields(string(text))...)
		}
		return pids
	}
	if got := children(); len(got) != 2 {
		t.Fatalf("children %v, want the worker and an orphan", got)
	}
	for deadline := time.Now().Add(patience); len(children()) != 1; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("children %v, want the worker", children())
		}
	}
}

func TestAnIdleParentIsSmallAndSleeps(t *testing.T) {
	p := start(t, "serving")
	p.ready()
	pid := p.command.Process.Pid
	time.Sleep(500 * time.Millisecond) // until its start is over
	before := wakes(t, pid)
	time.Sleep(time.Second)
	woken := wakes(t, pid) - before
	t.Log("woken ", woken)
	if woken > 10 {
		t.Errorf("the parent's threads were woken %d times in a second", woken)
	}
	// What it shares with the worker, which is the same program, is in RssFile; the
	// race detector adds a lot to RssAnon.
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmRSS") || strings.HasPrefix(line, "Rss") || strings.HasPrefix(line, "Threads") {
			t.Log(strings.Join(strings.Fields(line), " "))
		}
	}
}

// wakes is how often all threads of a process gave up a processor by themselves.
func wakes(t *testing.T, pid int) int {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, thread := range threads {
		status, err := os.ReadFile(thread)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if count, found := strings.CutPrefix(line, "voluntary_ctxt_switches:"); found {
				n, _ := strconv.Atoi(strings.TrimSpace(count))
				sum += n
			}
		}
	}
	return sum
}

func TestWithoutAParentNothingIsKept(t *testing.T) {
	if keeper.IsWorker() {
		t.Fatal("this is no worker")
	}
	inherited, err := keeper.Inherited()
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, kept := range []*keeper.Kept{inherited, {}} {
		if err := errors.Join(kept.Keep("a", listener), kept.Drop("a"), kept.Drop("b")); err != nil {
			t.Error(err)
		}
		if names := kept.Names(); len(names) != 0 || kept.Listener("a") != nil {
			t.Errorf("kept: %v", names)
		}
	}
}

func TestAnEnvironmentThatNoParentMadeIsRefused(t *testing.T) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	for _, value := range []string{"", "x", "-1", "1", "9999", strconv.Itoa(ends[0])} {
		t.Setenv("DOCKER_VOLUME_EFS_KEEPER", value)
		if kept, err := keeper.Inherited(); err == nil || kept != nil {
			t.Errorf("%q: %v, %v, want an error", value, kept, err)
		}
		if keeper.IsWorker() {
			t.Errorf("%q: still a worker", value)
		}
	}
}

func FuzzQuestion(f *testing.F) {
	for _, seed := range []string{"", "K", "Kname", "D", "Dname", "N", "Nname", "Na b", "x", "K" + strings.Repeat("n", 128), "K" + strings.Repeat("n", 129)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		again, err := keeper.ParseQuestion(message)
		if err != nil {
			return
		}
		if string(again) != string(message) || len(message) > keeper.MaxQuestion || strings.ContainsAny(string(message), " \n\x00\x7f") {
			t.Fatalf("%q was taken as %q", message, again)
		}
	})
}
