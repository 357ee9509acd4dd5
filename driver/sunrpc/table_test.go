package sunrpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/docker-volume-efs/docker-volume-efs/driver/mount/mounttest"
	"github.com/docker-volume-efs/docker-volume-efs/driver/sunrpc"
)

func TestMain(m *testing.M) {
	if sunrpc.IsMover() {
		if err := sunrpc.RunMover(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	mounttest.Main(m)
}

// info is what Linux 6.12 says of a connected transport.
const info = `last_used=4294939217
cur_cong=0
cong_win=256
max_num_slots=65536
min_num_slots=2
num_reqs=2
binding_q_len=0
sending_q_len=0
pending_q_len=0
backlog_q_len=0
main_xprt=1
src_port=785
tasks_queuelen=0
dst_port=2049
`

func open(t *testing.T, dir string) *sunrpc.Table {
	t.Helper()
	table, err := sunrpc.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	})
	return table
}

// write makes the files of one transport in a directory that stands for sysfs.
func write(t *testing.T, sys, name, address, info string) {
	t.Helper()
	writeLocal(t, sys, name, address, "10.0.1.200\n", info)
}

func writeLocal(t *testing.T, sys, name, address, local, info string) {
	t.Helper()
	dir := filepath.Join(sys, "kernel/sunrpc/xprt-switches", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{"dstaddr": address, "srcaddr": local, "xprt_info": info} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTransports(t *testing.T) {
	sys := t.TempDir()
	write(t, sys, "switch-0/xprt-0-tcp", "10.0.1.5\n", info+"\x00")
	write(t, sys, "switch-0/xprt-1-udp", "10.0.1.5\n", info)
	write(t, sys, "switch-7/xprt-3-tcp", "fd00::5\n", "some_new_key=words\nsrc_port=1\ndst_port=20049\nlast_used=0\n")
	write(t, sys, "switch-8/xprt-4-tcp", "10.0.2.5\n", "src_port=0\ndst_port=2049\n")
	writeLocal(t, sys, "switch-9/xprt-5-tcp", "10.0.3.5\n", "<closed>\n", "<closed>\n")
	writeLocal(t, sys, "switch-9/xprt-6-tcp", "10.0.3.5\n", "<not a socket>\n", info)
	writeLocal(t, sys, "switch-9/xprt-7-tcp", "10.0.3.5\n", "10.0.1.200\n", "<closed>\n")
	all, err := open(t, sys).Transports()
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b sunrpc.Transport) int { return strings.Compare(a.Name, b.Name) })
	want := []sunrpc.Transport{
		{"switch-0/xprt-0-tcp", netip.MustParseAddr("10.0.1.5"), true, 2049, netip.MustParseAddrPort("10.0.1.200:785"), 4294939217},
		{"switch-7/xprt-3-tcp", netip.MustParseAddr("fd00::5"), true, 20049, netip.MustParseAddrPort("10.0.1.200:1"), 0},
		{"switch-8/xprt-4-tcp", netip.MustParseAddr("10.0.2.5"), false, 2049, netip.MustParseAddrPort("10.0.1.200:0"), 0},
		{Name: "switch-9/xprt-5-tcp", Server: netip.MustParseAddr("10.0.3.5")},
		{Name: "switch-9/xprt-6-tcp", Server: netip.MustParseAddr("10.0.3.5")},
		{Name: "switch-9/xprt-7-tcp", Server: netip.MustParseAddr("10.0.3.5")},
	}
	if !slices.Equal(all, want) {
		t.Errorf("got  %+v\nwant %+v", all, want)
	}
}

func TestTransportsFails(t *testing.T) {
	t.Run("on a kernel that does not list them", func(t *testing.T) {
		_, err := open(t, t.TempDir()).Transports()
		if !errors.Is(err, sunrpc.ErrUnsupported) {
			t.Errorf("error %v", err)
		}
	})
	for _, row := range []struct{ name, address, info string }{
		{"on an address that is none", "nowhere\n", info},
		{"on a port that is none", "10.0.1.5\n", "src_port=x\n"},
		{"on a port too high", "10.0.1.5\n", "dst_port=65536\n"},
	} {
		t.Run(row.name+", naming the transport", func(t *testing.T) {
			sys := t.TempDir()
			write(t, sys, "switch-0/xprt-9-tcp", row.address, row.info)
			_, err := open(t, sys).Transports()
			if err == nil || !strings.Contains(err.Error(), "switch-0/xprt-9-tcp") {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestMoveWritesTheAddress(t *testing.T) {
	sys := t.TempDir()
	write(t, sys, "switch-0/xprt-0-tcp", "10.0.1.5\n", info)
	table := open(t, sys)
	to := netip.MustParseAddr("10.0.2.5")
	if err := table.Move(t.Context(), "switch-0/xprt-0-tcp", to); err != nil {
		t.Fatal(err)
	}
	if got, err := table.Transport("switch-0/xprt-0-tcp"); err != nil || got.Server != to {
		t.Errorf("it is at %v, %v", got, err)
	}
	for _, gone := range []string{"switch-0/xprt-1-tcp", "../../../xprt-0-tcp"} {
		if err := table.Move(t.Context(), gone, to); err == nil {
			t.Errorf("%s was moved", gone)
		}
	}
}

// A pipe that is full stands for a transport that is busy: who writes waits.
func TestMoveTriesAgainWhileTheTransportIsBusy(t *testing.T) {
	sys := t.TempDir()
	const name = "switch-0/xprt-0-tcp"
	write(t, sys, name, "10.0.1.5\n", info)
	file := filepath.Join(sys, "kernel/sunrpc/xprt-switches", name, "dstaddr")
	if err := errors.Join(os.Remove(file), unix.Mkfifo(file, 0o600)); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	full, err := unix.FcntlInt(pipe.Fd(), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pipe.Write(make([]byte, full)); err != nil {
		t.Fatal(err)
	}
	table := open(t, sys)
	short, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	if err := table.Move(short, name, netip.MustParseAddr("10.0.2.5")); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("of a busy transport: %v", err)
	}
	moved := make(chan error, 1)
	go func() { moved <- table.Move(t.Context(), name, netip.MustParseAddr("10.0.3.5")) }()
	time.Sleep(500 * time.Millisecond) // the first attempt is over
	if _, err := io.ReadFull(pipe, make([]byte, full)); err != nil {
		t.Fatal(err)
	}
	if err := <-moved; err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 64)
	n, err := pipe.Read(got)
	if err != nil || string(got[:n]) != "10.0.3.5" {
		t.Errorf("written was %q, %v", got[:n], err)
	}
}

func TestOpenMountsTheKernelsOwn(t *testing.T) {
	table, err := sunrpc.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	// This machine may have no NFS in its kernel; sysfs it has.
	if _, err := table.Transports(); err != nil && !errors.Is(err, sunrpc.ErrUnsupported) {
		t.Error(err)
	}
}
