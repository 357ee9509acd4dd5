package driver_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/mount/mounttest"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/cloud"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/proxytest"
)

// refusing is a mount target that is not there: its port is nobody's.
func refusing(zone string, last byte) proxy.Target {
	return proxy.Target{Zone: zone, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, last}), 1)}
}

// shown are the mount targets that a host shows.
func shown(h *testHost) string {
	var all []string
	for _, f := range h.Overview().FileSystems {
		for _, target := range f.Targets {
			all = append(all, target.Target.String())
		}
	}
	return fmt.Sprint(all)
}

// hours has a host ask AWS for a long time, which passes at once.
func hours(t *testing.T, test func(t *testing.T, a *aws, h *testHost)) {
	t.Helper()
	mounttest.Loopback(t)
	synctest.Test(t, func(t *testing.T) {
		a := &aws{told: cloud.Told{Targets: []proxy.Target{refusing("a", 1)}, Source: cloud.SourceAPI, HomeZone: "a"}}
		h := newHost(t, "", func(o *driver.Options) {
			o.Kernel, o.Cloud = &faults{}, a
			o.FileSystem = filesystem.Spec{Kind: filesystem.EFS, ID: fsID, Port: filesystem.NFSPort, Export: "/"}
		})
		_ = h.Create(t.Context(), "data", nil) // fails, and the mount targets are known
		if got := shown(h); got != "[a=127.0.0.1:1]" {
			t.Fatalf("mount targets %s", got)
		}
		test(t, a, h)
	})
}

func TestMountTargetsAreFollowed(t *testing.T) {
	hours(t, func(t *testing.T, a *aws, h *testHost) {
		for _, told := range [][]proxy.Target{
			{refusing("a", 1), refusing("b", 2)}, // a new one
			{refusing("b", 2)},                   // one was deleted
			{refusing("b", 3)},                   // one has moved
		} {
			a.set(func() { a.told.Targets = told })
			time.Sleep(7 * time.Minute)
			if got := shown(h); got != fmt.Sprint(told) {
				t.Errorf("shown %s, want %v", got, told)
			}
		}
	})
}

// A mount target that is left may have been deleted: that is asked at once.
func TestMountTargetsAreAskedForWhenOneIsLost(t *testing.T) {
	mounttest.Loopback(t)
	near, far := proxytest.Serve(t, proxytest.Echo), proxytest.Serve(t, proxytest.Echo)
	a := &aws{told: cloud.Told{Targets: []proxy.Target{{Zone: "a", Addr: near.Addr}, {Zone: "b", Addr: far.Addr}}, Source: cloud.SourceAPI, HomeZone: "a"}}
	h := newHost(t, "", func(o *driver.Options) {
		o.Kernel, o.Cloud = &faults{export: t.TempDir()}, a
		o.FileSystem = filesystem.Spec{Kind: filesystem.EFS, ID: fsID, Port: filesystem.NFSPort, Export: "/"}
	})
	h.create("data")
	h.mount("data", "1")
	a.set(func() { a.told.Targets = a.told.Targets[1:] })
	near.Stop()
	begun := time.Now()
	for shown(h) != fmt.Sprint(a.told.Targets) {
		if time.Since(begun) > time.Minute {
			t.Fatalf("shown %s", shown(h))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestAWSIsDownForHours(t *testing.T) {
	hours(t, func(t *testing.T, a *aws, h *testHost) {
		time.Sleep(7 * time.Minute)
		a.set(func() { a.down = errors.New("throttled") })
		before := a.asked()
		time.Sleep(3 * time.Hour)
		if got := shown(h); got != "[a=127.0.0.1:1]" {
			t.Errorf("the mount targets are forgotten: %s", got)
		}
		if n := a.asked() - before; n < 5 || n > 12 {
			t.Errorf("AWS was asked %d times in 3 hours", n)
		}
		a.set(func() { a.down, a.told.Targets = nil, []proxy.Target{refusing("c", 4)} })
		time.Sleep(40 * time.Minute)
		if got := shown(h); got != "[c=127.0.0.4:1]" {
			t.Errorf("shown %s", got)
		}
	})
}
