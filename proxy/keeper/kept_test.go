package keeper_test

import (
	"errors"
	"net"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/keeper"
)

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
