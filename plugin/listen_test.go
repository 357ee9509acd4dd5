package plugin

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestListenMakesASocketForRootOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "docker", "plugins", "efs.sock")
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("the socket is %v, %v", info.Mode(), err)
	}
	if err := listener.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close the socket is still there: %v", err)
	}
}

func TestListenReplacesASocketThatACrashLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	if err := left.Close(); err != nil {
		t.Fatal(err)
	}
	listener, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestListenRefusesASocketThatIsServed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	served, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	if second, err := Listen(path); err == nil {
		second.Close()
		t.Fatal("it was taken away from who serves it")
	} else if text := err.Error(); !strings.Contains(text, path) || !strings.Contains(text, "--socket") {
		t.Errorf("the error does not say what to do: %s", text)
	}
	if conn, err := net.Dial("unix", path); err != nil {
		t.Errorf("the first one is gone: %v", err)
	} else {
		conn.Close()
	}
}

// A server that is so busy that its queue is full serves.
func TestListenRefusesASocketWhoseQueueIsFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	socket, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(socket)
	if err := errors.Join(syscall.Bind(socket, &syscall.SockaddrUnix{Name: path}), syscall.Listen(socket, 0)); err != nil {
		t.Fatal(err)
	}
	first, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if second, err := Listen(path); err == nil {
		second.Close()
		t.Error("it was taken away from who serves it")
	}
}

func TestListenLeavesOtherFilesAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if listener, err := Listen(path); err == nil {
		listener.Close()
		t.Error("it listens where a file was")
	} else if !strings.Contains(err.Error(), path) {
		t.Errorf("the error does not say where: %v", err)
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "data" {
		t.Errorf("the file has %q, %v", content, err)
	}
}

func TestListenFailsWhereNothingCanBeMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(file, "s"), filepath.Join(t.TempDir(), strings.Repeat("long", 50))} {
		if listener, err := Listen(path); err == nil {
			listener.Close()
			t.Errorf("it listens on %s", path)
		} else if !strings.HasPrefix(err.Error(), "listen: ") {
			t.Errorf("%s: %v", path, err)
		}
	}
}
