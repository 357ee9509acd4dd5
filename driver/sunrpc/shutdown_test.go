package sunrpc_test

import (
	"errors"
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
