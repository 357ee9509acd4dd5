package keeper_test

import (
	"bufio"
	"errors"
	"fmt"
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
	if took := time.Since(before); took > patience/2 {
		t.Fatalf("the next worker came after %s", took)
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
	if woken > 100 { // it looks at its worker once; to poll something each 5 ms would be 200
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
