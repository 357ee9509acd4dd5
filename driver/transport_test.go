package driver_test

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/mount/mounttest"
	"github.com/docker-volume-efs/docker-volume-efs/driver/nfs"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/proxytest"
)

// nfsServer answers the question whether it is there.
func nfsServer(t *testing.T) netip.AddrPort {
	t.Helper()
	mounttest.Loopback(t)
	return proxytest.Serve(t, proxytest.Echo).Addr
}

// onServer has a host's home file system on an NFS server.
func onServer(server netip.AddrPort, k *faults) func(*driver.Options) {
	return func(o *driver.Options) {
		o.Kernel, o.Host = k, "web"
		o.FileSystem = filesystem.Spec{Kind: filesystem.NFS, Host: server.Addr().String(), Port: server.Port(), Export: "/export"}
	}
}

func TestTransportIsMountedWithAWSsOptions(t *testing.T) {
	server := nfsServer(t)
	k := &faults{export: t.TempDir()}
	h := newHost(t, "", onServer(server, k))
	h.create("plain")
	h.create("tuned", "nfs=timeo=300")
	h.mount("plain", "1")
	h.mount("tuned", "1")
	mounts := k.mounts()
	if len(mounts) != 2 {
		t.Fatalf("mounts %v", mounts)
	}
	for i, options := range []nfs.Options{nil, {"timeo=300"}} {
		m := mounts[i]
		if m.Type != "nfs4" || m.Source != "127.0.0.1:/export" || m.ReadAheadKiB != nfs.ReadAheadKiB {
			t.Errorf("mount %+v", m)
		}
		if want := options.Kernel(server, netip.MustParseAddr("127.0.0.1")); !slices.Equal(m.Options, want) {
			t.Errorf("got  %v\nwant %v", m.Options, want)
		}
	}
}

// The kernel gives clients of one identity to each other, and servers take the state
// of one for the other's.
func TestClientIdentity(t *testing.T) {
	server := nfsServer(t)
	export := t.TempDir()
	// identities are those of all transports that a host has mounted.
	identities := func(h *testHost, k *faults) []string {
		t.Helper()
		h.create("plain")
		h.create("tuned", "nfs=timeo=300")
		h.mount("plain", "1")
		h.mount("tuned", "1")
		var all []string
		for _, m := range k.mounts() {
			all = append(all, m.Host)
			if len(m.Host) > 64 || !strings.HasPrefix(m.Host, "web-") {
				t.Errorf("identity %q", m.Host)
			}
		}
		return all
	}
	one, other := &faults{export: export}, &faults{export: export}
	h := newHost(t, "", onServer(server, one))
	first := identities(h, one)
	second := identities(newHost(t, "", onServer(server, other)), other)
	t.Run("is unique among transports and hosts of one name", func(t *testing.T) {
		all := slices.Sorted(slices.Values(slices.Concat(first, second)))
		if len(slices.Compact(all)) != 4 {
			t.Errorf("%v and %v", first, second)
		}
	})
	t.Run("is the same after a restart, and in Status", func(t *testing.T) {
		h.restart()
		if again := identities(h, one); !slices.Equal(again, slices.Concat(first, first)) {
			t.Errorf("it was %v and is %v", first, again[len(first):])
		}
		if got := h.status("tuned")["nfs_client"]; got != first[1] {
			t.Errorf("Status says %v", got)
		}
	})
}

func TestStaticMountTargets(t *testing.T) {
	near, far := nfsServer(t), nfsServer(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := closed.Addr().(*net.TCPAddr).AddrPort()
	_ = closed.Close()
	for _, row := range []struct {
		name string
		home netip.AddrPort
		want netip.AddrPort
	}{
		{"are used without asking DNS, the home zone's first", near, near},
		{"are tried one after the other", refusing, far},
	} {
		t.Run(row.name, func(t *testing.T) {
			k := &faults{export: t.TempDir()}
			h := newHost(t, "", func(o *driver.Options) {
				o.Kernel = k
				o.FileSystem = filesystem.Spec{Kind: filesystem.EFS, ID: "fs-0123456789abcdef0", Port: filesystem.NFSPort, Export: "/"}
				o.Targets, o.Zone = []proxy.Target{{Zone: "a", Addr: far}, {Zone: "b", Addr: row.home}}, "b"
				o.Volume.Via = "direct"
			})
			h.create("data")
			h.mount("data", "1")
			if m := k.mounts()[0]; !slices.Contains(m.Options, "port="+strconv.Itoa(int(row.want.Port()))) {
				t.Errorf("mounted with %v, want %v", m.Options, row.want)
			}
		})
	}
}

// The kernel would try it again for ever, and have others' new NFS clients wait.
func TestMountThroughARelayIsNotBegunIfNobodyAnswers(t *testing.T) {
	mounttest.Loopback(t)
	server := proxytest.Serve(t, proxytest.Echo)
	k := &faults{export: t.TempDir()}
	h := newHost(t, "", onServer(server.Addr, k), func(o *driver.Options) { o.Volume.Via = "relay" })
	server.Stop()
	wantKind(t, h.Create(t.Context(), "data", nil), driver.Unavailable, "connection refused")
	if all := k.mounts(); len(all) > 0 {
		t.Errorf("mounts %v", all)
	}
}

// To tell the kernel's transports from each other a question is put to the server.
func TestServerThatDiesRightAfterTheMountHoldsUpNoEnd(t *testing.T) {
	const source = "127.0.0.1:/export"
	server, k := nfsServer(t), &faults{export: t.TempDir()}
	first := k.hang(t, "server", source)
	h := newHost(t, "", onServer(server, k))
	k.hangsNow(t, 1)
	second := k.hang(t, "server", source)
	first()
	k.hangsNow(t, 2)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.stop()
	}()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the plugin's end waits for the server")
		second()
		<-ended
	}
	h.start() // for the test's end
}

// A call that finds an attempt to mount under way waits for it, and makes its own if that
// one fails: it tells how things were before the call.
func TestFailureOfAnEarlierAttemptIsNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, k := t.TempDir(), &faults{refusal: errors.New("out of order")}
		release := k.hang(t, "open", dir)
		h := newHost(t, dir, func(o *driver.Options) { o.Kernel = k })
		time.Sleep(time.Second)
		h.behind(func() { h.create("data") })
		synctest.Wait()
		release()
		synctest.Wait()
		if n := len(k.mounts()); n != 2 {
			t.Errorf("%d attempts to mount, want the one that failed and the call's own", n)
		}
		h.status("data")
	})
}
