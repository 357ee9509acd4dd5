package systemd

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTheVariablesMean(t *testing.T) {
	for _, row := range []struct {
		name             string
		fds, pid, fdname string
		want             []string
		says             string
	}{
		{"nothing without systemd", "", "", "", nil, ""},
		{"one socket with its unit's name", "1", "7", "relay.socket", []string{"relay.socket"}, ""},
		{"two sockets with names of their own", "2", "7", "listen:peer", []string{"listen", "peer"}, ""},
		{"sockets without names, of an old systemd", "2", "7", "", []string{"", ""}, ""},
		{"nothing, if they are for the process that started this one", "1", "6", "listen", nil, ""},
		{"trouble, if the number is none", "one", "7", "", nil, "unset them"},
		{"trouble, if the number is negative", "-1", "7", "", nil, "unset them"},
		{"trouble, if nobody has so many", "100000", "7", "", nil, "unset them"},
		{"trouble, if they are for nobody", "1", "", "", nil, "unset them"},
		{"trouble, if names are missing", "2", "7", "listen", nil, "1 names for 2 sockets"},
	} {
		t.Run(row.name, func(t *testing.T) {
			values := map[string]string{"LISTEN_FDS": row.fds, "LISTEN_PID": row.pid, "LISTEN_FDNAMES": row.fdname}
			got, err := given(func(name string) string { return values[name] }, 7)
			if !slices.Equal(got, row.want) || (err == nil) != (row.says == "") || err != nil && !strings.Contains(err.Error(), row.says) {
				t.Errorf("%q, %v; want %q, %q", got, err, row.want, row.says)
			}
		})
	}
}

// descriptor gives away a descriptor of its own.
func descriptor(t *testing.T, of interface{ File() (*os.File, error) }) int {
	t.Helper()
	file, err := of.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fd, err := syscall.Dup(int(file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func isOpen(fd int) bool {
	var stat syscall.Stat_t
	return !errors.Is(syscall.Fstat(fd, &stat), syscall.EBADF)
}

func TestAListenerIsTakenAndTakesConnections(t *testing.T) {
	origin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fd := descriptor(t, origin.(*net.TCPListener))
	_ = origin.Close()
	all, err := adopt(fd, []string{"listen"})
	if err != nil || len(all) != 1 || all[0].Name != "listen" {
		t.Fatalf("%v, %v", all, err)
	}
	defer all[0].Close()
	client, err := net.Dial("tcp", all[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := all[0].Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if _, is := all[0].Listener.(*net.TCPListener); !is {
		t.Errorf("a %T", all[0].Listener)
	}
	if isOpen(fd) {
		t.Error("the descriptor that systemd gave is still open: the socket could never be closed")
	}
}

func TestWhatDoesNotListenIsRefused(t *testing.T) {
	datagrams, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer datagrams.Close()
	fd := descriptor(t, datagrams.(*net.UDPConn))
	if all, err := adopt(fd, []string{"dns.socket"}); err == nil || !strings.Contains(err.Error(), "ListenStream=") || !strings.Contains(err.Error(), "dns.socket") {
		t.Errorf("%v, %v", all, err)
	}
	if isOpen(fd) {
		t.Error("it is left open")
	}
	// As with Accept=yes: a connection for each process.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if all, err := adopt(descriptor(t, conn.(*net.TCPConn)), []string{"nfs.socket"}); err == nil {
		t.Errorf("a connection was taken for a listener: %v", all)
	}
	if _, err := adopt(99999, []string{"nothing"}); err == nil {
		t.Error("a descriptor that is none was taken")
	}
}

func TestTheVariablesAreTakenAway(t *testing.T) {
	for _, variable := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		t.Setenv(variable, "1")
	}
	if all, err := Listeners(); err != nil || len(all) != 0 {
		t.Fatalf("what is process 1's: %v, %v", all, err)
	}
	if _, there := os.LookupEnv("LISTEN_FDS"); there {
		t.Error("a child would take them for its own")
	}
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	if err := Notify("READY=1\nSTATUS=well"); err != nil {
		t.Fatal(err)
	}
	_ = socket.SetReadDeadline(time.Now().Add(10 * time.Second))
	buffer := make([]byte, 100)
	n, err := socket.Read(buffer)
	if got := string(buffer[:n]); err != nil || got != "READY=1\nSTATUS=well" {
		t.Errorf("%q, %v", got, err)
	}
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Notify("READY=1"); err != nil {
		t.Errorf("with nobody to hear: %v", err)
	}
	t.Setenv("NOTIFY_SOCKET", "relative")
	if err := Notify("READY=1"); err == nil {
		t.Error("to a relative path")
	}
}
