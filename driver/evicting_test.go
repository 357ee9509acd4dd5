package driver_test

import (
	"net"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/mount/mounttest"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/proxytest"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/session/sessiontest"
)

// zoneServers are mount targets in zones a, b, c that know NFS clients, each those that came to it.
func zoneServers(t *testing.T) (servers [3]*sessiontest.Server, listeners [3]*proxytest.Server) {
	t.Helper()
	mounttest.Loopback(t)
	for i := range servers {
		server := sessiontest.New()
		servers[i], listeners[i] = server, proxytest.Serve(t, func(conn *net.TCPConn) { server.Serve(t, conn) })
	}
	return servers, listeners
}

// onServers has the home file system on them.
func onServers(listeners [3]*proxytest.Server) func(*driver.Options) {
	return func(o *driver.Options) {
		onTargets("direct", listeners[0].Addr, listeners[1].Addr)(o)
		o.Targets = append(o.Targets, proxy.Target{Zone: "c", Addr: listeners[2].Addr})
	}
}

// ownerOf is how the kernel introduces itself for the exclusive volume that was mounted last.
func ownerOf(t *testing.T, k *faults) string {
	t.Helper()
	all := exclusiveMounts(k)
	if len(all) == 0 {
		t.Fatal("no exclusive volume was mounted")
	}
	return "Linux NFSv4.1 " + all[len(all)-1].Host
}

// A server may know a client only where it came in.
func TestLeaseIsFreeWhenEveryMountTargetHasForgottenItsClient(t *testing.T) {
	servers, listeners := zoneServers(t)
	h := newHost(t, "", onServers(listeners))
	h.create("data", "access=exclusive")
	h.mount("data", "1")
	owner := ownerOf(t, h.options.Kernel.(*faults))
	const other = "Linux NFSv4.1 another host's"
	for _, s := range servers {
		s.Mount(owner, 0)
		s.Mount(other, 0)
	}
	h.unmount("data", "1")
	eventually(t, "the lease is given back", func() bool { return h.status("data")["lease"] == "not this host's" })
	for i, s := range servers {
		if clients, _ := s.Has(owner); clients != 0 {
			t.Errorf("mount target %d knows the client still", i)
		}
		if clients, _ := s.Has(other); clients != 1 {
			t.Errorf("mount target %d has forgotten another host's client", i)
		}
	}
}

// Nobody waits long for a mount target that has been found dead before.
func TestDeadMountTargetHoldsNoLeaseUp(t *testing.T) {
	servers, listeners := zoneServers(t)
	listeners[2].Stop()
	black := proxytest.Serve(t, func(conn *net.TCPConn) { _, _ = conn.Read(make([]byte, 1<<16)); <-t.Context().Done() })
	h := newHost(t, "", onServers(listeners), func(o *driver.Options) { o.Targets[2].Addr = black.Addr })
	h.create("data", "access=exclusive")
	h.mount("data", "1")
	owner := ownerOf(t, h.options.Kernel.(*faults))
	servers[0].Mount(owner, 0)
	eventually(t, "zone c is found dead", func() bool {
		for _, one := range h.Overview().FileSystems[0].Targets {
			if one.Zone == "c" {
				return one.Health == proxy.Down
			}
		}
		return false
	})
	begun := time.Now()
	h.unmount("data", "1")
	eventually(t, "the lease is given back", func() bool { return h.status("data")["lease"] == "not this host's" })
	if took := time.Since(begun); took > 3500*time.Millisecond { // 4 s of any other mount target
		t.Errorf("it took %v", took)
	}
	if clients, _ := servers[0].Has(owner); clients != 0 {
		t.Error("a mount target that lives knows the client still")
	}
}

// Its client may be alive at the server: nobody else may have the volume without more ado.
func TestLeaseIsKeptAsLongAsNoMountTargetAnswers(t *testing.T) {
	_, listeners := zoneServers(t)
	h := newHost(t, "", onServers(listeners))
	h.create("data", "access=exclusive")
	h.mount("data", "1")
	for _, one := range listeners {
		one.Stop()
	}
	h.unmount("data", "1")
	time.Sleep(time.Second)
	if h.status("data")["lease"] == "not this host's" {
		t.Error("it was given back")
	}
}
