package peer_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/peer"
)

// dial makes this test binary a client that somebody else is.
const dial = "PEER_TEST_DIAL"

// groups is a directory in which control groups may be made.
const groups = "PEER_TEST_CGROUPS"

func TestMain(m *testing.M) {
	if address := os.Getenv(dial); address != "" {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		_, _ = io.Copy(io.Discard, conn)
		return
	}
	goleak.VerifyTestMain(m)
}

// pair is a connection within this process: what was accepted, and its other end.
func pair(t *testing.T, address string) (accepted, dialled *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
		t.Skipf("this machine has no IPv6 on loopback: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	to := listener.Addr().(*net.TCPAddr)
	host, _, _ := net.SplitHostPort(address)
	if host == "" {
		host = "127.0.0.1" // to a listener of both families
	}
	conn, err := net.Dial("tcp", net.JoinHostPort(host, fmt.Sprint(to.Port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	other, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	return other.(*net.TCPConn), conn.(*net.TCPConn)
}

func inode(t *testing.T, conn *net.TCPConn) uint32 {
	t.Helper()
	file, err := conn.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return uint32(info.Sys().(*syscall.Stat_t).Ino)
}

func TestTheOtherEndIsFound(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
		t.Run(address, func(t *testing.T) {
			accepted, dialled := pair(t, address)
			for _, ends := range [][2]*net.TCPConn{{accepted, dialled}, {dialled, accepted}} {
				got, err := peer.Of(ends[0])
				if err != nil {
					t.Fatal(err)
				}
				if got.UID != uint32(os.Getuid()) || got.Inode != inode(t, ends[1]) || !got.HasCgroup || got.Cgroup == 0 {
					t.Errorf("%s, want uid %d, inode %d", got, os.Getuid(), inode(t, ends[1]))
				}
			}
			if err := peer.CheckKernel(accepted); err == nil {
				t.Error("this process passed for the kernel")
			} else {
				t.Log(err)
			}
		})
	}
}

func TestAClosedEndIsNobodys(t *testing.T) {
	accepted, dialled := pair(t, "127.0.0.1:0")
	_ = dialled.Close()
	got, err := peer.Of(accepted)
	if err != nil || got.Inode != 0 {
		t.Fatalf("%s, %v, want inode 0", got, err)
	}
	if err := peer.CheckKernel(accepted); err == nil || errors.Is(err, peer.ErrBlind) {
		t.Fatalf("CheckKernel: %v, want it refused for good", err)
	}
}

// The kernel gives a listener when it finds no connection.
func TestAListenerOnTheOtherEndsPortIsNotTheOtherEnd(t *testing.T) {
	var accepted *net.TCPConn
	for {
		var dialled *net.TCPConn
		accepted, dialled = pair(t, "127.0.0.1:0")
		_ = dialled.SetLinger(0)
		_ = dialled.Close() // reset: the kernel forgets it at once
		listener, err := net.Listen("tcp", dialled.LocalAddr().String())
		if errors.Is(err, syscall.EADDRINUSE) {
			continue // by another program of this machine
		}
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		break
	}
	if got, err := peer.Of(accepted); !errors.Is(err, peer.ErrNoSocket) {
		t.Fatalf("%s, %v, want %v", got, err, peer.ErrNoSocket)
	}
	if err := peer.CheckKernel(accepted); !errors.Is(err, peer.ErrNoSocket) {
		t.Fatalf("CheckKernel: %v, want %v", err, peer.ErrNoSocket)
	}
}

// client is another process that dials, and its connection here.
func client(t *testing.T, change func(*exec.Cmd)) *net.TCPConn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	command := exec.Command("/proc/self/exe")
	command.Env = append(os.Environ(), dial+"="+listener.Addr().String())
	change(command)
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	_ = listener.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*net.TCPConn)
}

func TestAnotherUserIsRefused(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to be somebody else")
	}
	// Under umask 077 the test binary is its owner's alone.
	if info, err := os.Stat("/proc/self/exe"); err != nil || info.Mode()&0o001 == 0 {
		if err := errors.Join(err, os.Chmod("/proc/self/exe", 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	conn := client(t, func(command *exec.Cmd) {
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	})
	if got, err := peer.Of(conn); err != nil || got.UID != 65534 {
		t.Fatalf("%s, %v, want uid 65534", got, err)
	}
	if err := peer.CheckKernel(conn); err == nil || !strings.Contains(err.Error(), "uid 65534") || errors.Is(err, peer.ErrBlind) {
		t.Fatalf("CheckKernel: %v", err)
	}
}

func TestARootOfAnotherControlGroupIsRefused(t *testing.T) {
	dir := newGroup(t)
	group, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	info, err := group.Stat()
	if err != nil {
		t.Fatal(err)
	}
	conn := client(t, func(command *exec.Cmd) {
		command.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	})
	want := info.Sys().(*syscall.Stat_t).Ino
	if got, err := peer.Of(conn); err != nil || got.Cgroup != want || got.UID != 0 {
		t.Fatalf("%s, %v, want control group %d", got, err, want)
	}
	if err := peer.CheckKernel(conn); err == nil || !strings.Contains(err.Error(), fmt.Sprint("control group ", want)) || errors.Is(err, peer.ErrBlind) {
		t.Fatalf("CheckKernel: %v", err)
	}
}

// newGroup makes a control group, which ends with the test. Control groups are the
// machine's: it makes one only where it is told that it may.
func newGroup(t *testing.T) string {
	t.Helper()
	parent := os.Getenv(groups)
	if parent == "" {
		t.Skipf("%s names no directory of control groups (version 2) in which to make one", groups)
	}
	dir := filepath.Join(parent, fmt.Sprint("peer-test-", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for deadline := time.Now().Add(5 * time.Second); os.Remove(dir) != nil; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Error("left behind: ", dir)
				return
			}
		}
	})
	return dir
}

func TestTheJudgement(t *testing.T) {
	remote := netip.MustParseAddrPort("127.0.0.1:800")
	kernel := peer.Socket{Inode: 7, Cgroup: 1, HasCgroup: true}
	container := peer.Socket{Inode: 8, Cgroup: 4711, HasCgroup: true}
	for _, row := range []struct {
		name       string
		other, own peer.Socket
		want       string
	}{
		{"the kernel", kernel, container, ""},
		{"a user", peer.Socket{UID: 1000, Inode: 7, Cgroup: 1, HasCgroup: true}, container, "not root's"},
		{"root in a container", peer.Socket{Inode: 7, Cgroup: 99, HasCgroup: true}, container, "in a container or a service"},
		{"nobody", peer.Socket{Cgroup: 1, HasCgroup: true}, container, "closed already"},
		{"an old kernel", peer.Socket{Inode: 7}, container, "Linux 5.9"},
		{"a host without control groups", kernel, kernel, peer.ErrBlind.Error()},
		{"our own group unknown", kernel, peer.Socket{Inode: 8}, peer.ErrBlind.Error()},
		{"a user on a host without control groups", peer.Socket{UID: 1, Inode: 7, Cgroup: 1, HasCgroup: true}, kernel, "not root's"},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := peer.Judge(remote, row.other, row.own)
			switch {
			case row.want == "" && err != nil:
				t.Fatal(err)
			case row.want == "":
				return
			case err == nil || !strings.Contains(err.Error(), row.want):
				t.Fatalf("%v, want %q", err, row.want)
			case !strings.Contains(err.Error(), row.other.String()) || strings.Contains(err.Error(), "\n"):
				t.Errorf("%q does not name %q on one line", err, row.other)
			}
			if blind := row.want == peer.ErrBlind.Error(); errors.Is(err, peer.ErrBlind) != blind {
				t.Errorf("%v: blind is %t", err, !blind)
			}
		})
	}
}

func TestAThousandQuestionsLeaveNothingOpen(t *testing.T) {
	accepted, _ := pair(t, "127.0.0.1:0")
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := count()
	for range 1000 {
		if _, err := peer.Of(accepted); err != nil {
			t.Fatal(err)
		}
	}
	if after := count(); after != before {
		t.Fatalf("%d descriptors were open, %d are", before, after)
	}
}

func BenchmarkCheckKernel(b *testing.B) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	for b.Loop() {
		_ = peer.CheckKernel(conn.(*net.TCPConn))
	}
}
