package sunrpc_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/docker-volume-efs/docker-volume-efs/driver/sunrpc"
)

func TestShutdownWritesToTheMountOfThatDevice(t *testing.T) {
	sys := t.TempDir()
	file := func(device string) string { return filepath.Join(sys, "fs/nfs", device, "shutdown") }
	for _, device := range []string{"0:57", "0:58"} {
		if err := os.MkdirAll(filepath.Dir(file(device)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file(device), []byte("0"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	table := open(t, sys)
	if err := table.Shutdown(unix.Mkdev(0, 58)); err != nil {
		t.Fatal(err)
	}
	for device, want := range map[string]string{"0:57": "0", "0:58": "1"} {
		if got, err := os.ReadFile(file(device)); err != nil || string(got) != want {
			t.Errorf("%s has %q, %v, want %q", device, got, err, want)
		}
	}
	if err := table.Shutdown(unix.Mkdev(0, 59)); !errors.Is(err, sunrpc.ErrNoShutdown) {
		t.Errorf("of a mount that is not there, or an older kernel: %v", err)
	}
}

func TestShutdownConnectedEndsTheMountsOfOneServer(t *testing.T) {
	sys := t.TempDir()
	mounted := func(device, client, to string) {
		t.Helper()
		dir := filepath.Join(sys, "fs/nfs", device)
		rpc := filepath.Join(sys, "kernel/sunrpc/rpc-clients", client)
		for _, dir := range []string{dir, rpc} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for link, target := range map[string]string{filepath.Join(dir, "nfs_client"): "../../../kernel/sunrpc/rpc-clients/" + client, filepath.Join(rpc, "switch"): "../../xprt-switches/" + to} {
			if err := os.Symlink(target, link); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "shutdown"), []byte("0"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(t, sys, "switch-1/xprt-1-tcp", "127.0.0.2\n", "src_port=1\ndst_port=4001\nlast_used=0\n")
	write(t, sys, "switch-2/xprt-2-tcp", "127.0.0.2\n", "src_port=2\ndst_port=4002\nlast_used=0\n")
	write(t, sys, "switch-3/xprt-3-tcp", "127.0.0.1\n", "src_port=3\ndst_port=4002\nlast_used=0\n")
	writeLocal(t, sys, "switch-4/xprt-4-tcp", "127.0.0.2\n", "<closed>\n", "<closed>\n")
	mounted("0:41", "clnt-1", "switch-1")
	mounted("0:42", "clnt-2", "switch-2")
	mounted("0:43", "clnt-5", "switch-2")
	mounted("0:44", "clnt-3", "switch-3")
	mounted("0:45", "clnt-4", "switch-4")
	mounted("0:46", "clnt-6", "switch-that-has-ended")
	if err := os.MkdirAll(filepath.Join(sys, "fs/nfs/net/nfs_client"), 0o755); err != nil {
		t.Fatal(err)
	}
	table := open(t, sys)
	if err := table.ShutdownConnected(netip.MustParseAddrPort("127.0.0.2:4002")); err != nil {
		t.Fatal(err)
	}
	for device, want := range map[string]string{"0:41": "0", "0:42": "1", "0:43": "1", "0:44": "0", "0:45": "0", "0:46": "0"} {
		if got, err := os.ReadFile(filepath.Join(sys, "fs/nfs", device, "shutdown")); err != nil || string(got) != want {
			t.Errorf("%s has %q, %v, want %q", device, got, err, want)
		}
	}
	if err := open(t, t.TempDir()).ShutdownConnected(netip.MustParseAddrPort("127.0.0.2:4002")); !errors.Is(err, sunrpc.ErrNoShutdown) {
		t.Errorf("without NFS: %v", err)
	}
}
