package keeper_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/keeper"
)

// This test binary is also the parent and its workers.
const (
	role      = "KEEPER_TEST_ROLE"
	directory = "KEEPER_TEST_DIR"
	slowStart = "KEEPER_TEST_SLOW_START"
)

// A worker's main goroutine stays on the first thread, so that it can end that.
func init() { //nolint:gochecknoinits // nothing else is sure to run there
	if os.Getenv(role) != "" {
		runtime.LockOSThread()
	}
}

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(role) == "":
		goleak.VerifyTestMain(m)
	case keeper.IsWorker():
		if err := work(os.Getenv(role)); err != nil {
			fmt.Println("worker failed:", err)
			os.Exit(99)
		}
	default:
		log := logrus.New()
		log.SetOutput(os.Stdout)
		run := keeper.Run
		if os.Getenv(role) == "restless" {
			run = keeper.RunWithoutPauses
		}
		status, err := run(context.Background(), keeper.Options{Log: log})
		if err != nil {
			fmt.Println("parent failed:", err)
		}
		os.Exit(status)
	}
}

// worker is what a worker under test has.
type worker struct {
	kept *keeper.Kept
	open map[string]net.Listener
}

// work is a worker: it does what it reads, a line at a time, and says so.
func work(kind string) error {
	if pause, err := time.ParseDuration(os.Getenv(slowStart)); err == nil {
		time.Sleep(pause)
	}
	if kind == "bare" {
		os.Exit(3)
	}
	if kind == "leaky" {
		child := exec.Command("sleep", "15")
		child.ExtraFiles = []*os.File{os.NewFile(3, "the way to the parent")}
		if err := child.Start(); err != nil {
			return err
		}
	}
	kept, err := keeper.Inherited()
	if err != nil {
		return err
	}
	w := worker{kept, map[string]net.Listener{}}
	// No other test listens on this address, so that a port is refused when it is closed.
	for name, address := range map[string]string{"tcp": "127.0.0.12:0", "unix": filepath.Join(os.Getenv(directory), "unix.sock")} {
		if err := w.listen(name, address); err != nil {
			return err
		}
	}
	if kind == "crashing" {
		fmt.Println("crash", time.Now().UnixMilli())
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	}
	hups := make(chan os.Signal, 16)
	signal.Notify(hups, unix.SIGHUP)
	go func() {
		for range hups {
			fmt.Println("hup")
		}
	}()
	fmt.Println("ready", os.Getpid(), w.open["tcp"].Addr())
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		if err := w.obey(strings.Fields(input.Text())); err != nil {
			return err
		}
	}
	return input.Err()
}

func (w worker) listen(name, address string) error {
	if inherited := w.kept.Listener(name); inherited != nil {
		w.open[name] = inherited
		return nil
	}
	listener, err := net.Listen(name, address)
	if err != nil {
		return err
	}
	w.open[name] = listener
	return w.kept.Keep(name, listener)
}

func (w worker) obey(words []string) error {
	switch words[0] {
	case "accept":
		for _, listener := range w.open {
			go answer(listener)
		}
		fmt.Println("accepting")
	case "names":
		fmt.Println("names", strings.Join(w.kept.Names(), ","))
	case "beside":
		fmt.Println("beside", w.kept.Beside())
	case "drop":
		if err := errors.Join(w.kept.Drop(words[1]), w.open[words[1]].Close()); err != nil {
			return err
		}
		fmt.Println("dropped")
	case "close":
		fmt.Println("closed", w.open[words[1]].Close())
	case "again":
		// What this worker has is put in the place of what the parent has.
		if err := w.kept.Keep("tcp", w.open["tcp"]); err != nil {
			return err
		}
		fmt.Println("kept")
	case "exit":
		status, _ := strconv.Atoi(words[1])
		os.Exit(status)
	case "trap":
		terms := make(chan os.Signal, 16)
		signal.Notify(terms, unix.SIGTERM, unix.SIGINT)
		go func() {
			<-terms
			time.Sleep(100 * time.Millisecond)
			os.Exit(7 + len(terms)) // a signal that came twice shows
		}()
		fmt.Println("trapped")
	case "child":
		// What a child of the worker has beside its standard files.
		output, err := exec.Command("ls", "-l", "/proc/self/fd").Output()
		if err != nil {
			return err
		}
		fmt.Println("child", strings.Count(string(output), "socket:"), os.Getenv("DOCKER_VOLUME_EFS_KEEPER"))
	case "descriptors":
		mine, err := os.ReadDir("/proc/self/fd")
		fmt.Println("descriptors", len(mine), err)
	case "orphan":
		// The shell ends at once, what it started when even a busy machine has looked at it.
		command := exec.Command("sh", "-c", "sleep 2 >/dev/null 2>&1 &")
		fmt.Println("orphan", command.Run())
	case "undie":
		// The kernel shows the same of a process that was killed and of which a thread still waits: its
		// first thread has ended, and others have not.
		fmt.Println("undying", os.Getpid())
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	case "rubbish":
		return w.rubbish()
	}
	return nil
}

// rubbish sends what no worker should, and more than the parent keeps.
func (w worker) rubbish() error {
	parent := w.kept.Parent()
	file, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	null := int(file.Fd())
	many := make([]int, 100)
	for i := range many {
		many[i] = null
	}
	conn, err := net.Dial("tcp", w.open["tcp"].Addr().String())
	if err != nil {
		return err
	}
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var connected []byte
	if err := raw.Control(func(fd uintptr) { connected = unix.UnixRights(int(fd)) }); err != nil {
		return err
	}
	for i, each := range []struct {
		message string
		rights  []byte
	}{
		{"x", nil},
		{"K", nil},
		{"Kname", nil},
		{"Kname", unix.UnixRights(null)},
		{"Kname", connected},
		{"Kname", unix.UnixRights(many...)},
		{"Dname", unix.UnixRights(many...)},
		{"Na b", unix.UnixRights(null, null)},
		{"K" + strings.Repeat("n", 100_000), unix.UnixRights(null)},
		{"\x00\xff\xfe", unix.UnixRights(null)},
	} {
		if _, _, err := parent.WriteMsgUnix([]byte(each.message), each.rights, nil); err != nil {
			return err
		}
		answer := make([]byte, 1024)
		n, err := parent.Read(answer)
		if wanted := byte('-'); err != nil || n == 0 || answer[0] != wanted && !strings.HasPrefix(each.message, "Dname") {
			return fmt.Errorf("rubbish %d: %q, %w", i, answer[:n], err)
		}
	}
	kept := 2
	for ; ; kept++ {
		if err := w.kept.Keep(fmt.Sprint("more", kept), w.open["tcp"]); err != nil {
			fmt.Println("rubbish", kept, err)
			break
		}
	}
	for i := range kept {
		if err := w.kept.Drop(fmt.Sprint("more", i)); err != nil {
			return err
		}
	}
	fmt.Println("names", strings.Join(w.kept.Names(), ","))
	// A message of nothing looks as if the worker had hung up.
	_, err = parent.Write(nil)
	fmt.Println("silence", err, w.kept.Keep("late", w.open["tcp"]) != nil)
	return nil
}

// answer answers a line with the worker's number and the line.
func answer(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err == nil {
				_, _ = io.WriteString(conn, strconv.Itoa(os.Getpid())+" "+line)
			}
		}()
	}
}
