package driver_test

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/oncrpc"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/oncrpc/oncrpctest"
)

// exclusiveRelays are where a host's relays with a lease listen.
func (h *testHost) exclusiveRelays() (all []netip.AddrPort) {
	for _, addr := range h.RelaysRunning() {
		if addr.Addr() == netip.MustParseAddr("127.0.0.2") {
			all = append(all, addr)
		}
	}
	return all
}

// connectAsKernel connects to a relay, and has sysfs say that the kernel did.
func (k *faults) connectAsKernel(t *testing.T, relay netip.AddrPort) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp4", relay.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	local := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	k.showTransport(t, relay.Addr(), local.Addr().String(), fmt.Sprintf("src_port=%d\ndst_port=%d\nlast_used=1\n", local.Port(), relay.Port()))
	return conn
}

// showTransport makes the kernel's only transport in the directory that stands for sysfs.
func (k *faults) showTransport(t *testing.T, server netip.Addr, local, info string) {
	t.Helper()
	dir := filepath.Join(k.sys, "kernel/sunrpc/xprt-switches/switch-0/xprt-0-tcp")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{"srcaddr": local + "\n", "xprt_info": info, "dstaddr": server.String() + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Before Linux 6.5 a mount cannot be shut down: what waits for a relay that nobody serves any more waits for ever.
func TestTheRelayOfALostLeaseGivesErrorsUntilTheKernelsClientIsGone(t *testing.T) {
	hosts, _, _ := leasing(t, "a", "b")
	a, b := hosts[0], hosts[1]
	k := a.options.Kernel.(*faults)
	a.stop()
	k.sys = t.TempDir()
	k.showTransport(t, netip.MustParseAddr("127.0.0.2"), "<closed>", "<closed>")
	a.start()
	a.mount("data", "1")
	relays := a.exclusiveRelays()
	if len(relays) != 1 {
		t.Fatalf("its relays: %v", relays)
	}
	if _, err := b.Preempt(t.Context(), "data"); err != nil {
		t.Fatal(err)
	}
	dismissed := func(when string) {
		t.Helper()
		conn := k.connectAsKernel(t, relays[0])
		defer conn.Close()
		call := oncrpctest.NewCall(7, oncrpctest.ExchangeID, oncrpctest.Owner("host")).Record()
		head, err := oncrpc.ReadHead(call)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(call); err != nil {
			t.Fatal(err)
		}
		want := head.Dismissal()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s it answers %x, %v; want %x", when, got, err, want)
		}
	}
	restart := func() {
		a.stop()
		a.start()
	}
	isLost := func() bool { return strings.Contains(fmt.Sprint(a.status("data")["trouble"]), "lost its lease") }

	eventually(t, "Status says that the lease is lost", isLost)
	dismissed("when the lease is lost")
	if why := a.whyOf(relays[0]); !strings.Contains(why, "lost its lease") || !strings.Contains(why, "gets errors") {
		t.Errorf("its relay's status says %q", why)
	}
	b.mount("data", "1")
	restart()
	dismissed("after a restart")
	if !isLost() {
		t.Error("Status says nothing of it after a restart")
	}
	a.stop()
	other, err := net.Listen("tcp4", relays[0].String())
	if err != nil {
		t.Fatal(err)
	}
	a.start()
	time.Sleep(3 * time.Second)
	if running := a.exclusiveRelays(); len(running) != 0 || a.RelaysKept() != 1 {
		t.Errorf("while another process has its port, its relays are %v and %d are kept", running, a.RelaysKept())
	}
	_ = other.Close()
	eventually(t, "it has its port again", func() bool { return len(a.exclusiveRelays()) == 1 })
	dismissed("when it has its port again")
	a.stop()
	if mounted, err := k.Detach(a.point("data")); !mounted || err != nil { // docker plugin disable -f
		t.Fatal(mounted, err)
	}
	a.start()
	dismissed("after the plugin was disabled")
	if a.IsUsed("data") {
		t.Error("a container that nobody counts keeps the volume in use")
	}

	b.unmount("data", "1")
	eventually(t, "the host takes the volume again", func() bool { return mountOf(t.Context(), a, "data", "2") == nil })
	a.stop()
	a.forgetLost() // as a crash in that moment does
	a.start()
	if running := a.exclusiveRelays(); len(running) != 2 {
		t.Errorf("with the new lease's, its relays are %v", running)
	}
	dismissed("after a restart of the host that has taken the volume again")
	if isLost() {
		t.Error("Status says that it is lost")
	}

	k.showTransport(t, netip.MustParseAddr("127.0.0.2"), "<closed>", "<closed>")
	time.Sleep(3 * time.Second)
	if running := a.exclusiveRelays(); len(running) != 2 {
		t.Errorf("while the kernel's client has no connection, its relays are %v", running)
	}
	kept := a.RelaysKept()
	k.showTransport(t, netip.MustParseAddr("10.0.1.5"), "<closed>", "<closed>")
	eventually(t, "the relay is closed when the kernel's client is gone", func() bool { return len(a.exclusiveRelays()) == 1 && a.RelaysKept() == kept-1 })
	if got := a.status("data")["lease"]; got != "this host's" {
		t.Errorf("its lease: %v", got)
	}
	a.unmount("data", "2")
}

// whyOf is what status says of a relay.
func (h *testHost) whyOf(relay netip.AddrPort) string {
	for _, one := range h.Overview().FileSystems[0].Transports {
		if one.Listen == relay {
			return one.Why
		}
	}
	return ""
}

// forgetLost has the stopped host's state say of no relay that its lease was lost.
func (h *testHost) forgetLost() {
	h.t.Helper()
	path := filepath.Join(h.options.Data, "state", "relays")
	text, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	said := regexp.MustCompile(`[0-9a-f]{8} (.*),"lost":\{[^}]*\}(.*)`)
	if !said.Match(text) {
		h.t.Fatalf("nothing was lost: %s", text)
	}
	text = said.ReplaceAllFunc(text, func(line []byte) []byte {
		kept := said.ReplaceAll(line, []byte("$1$2"))
		return fmt.Appendf(nil, "%08x %s", crc32.ChecksumIEEE(kept), kept)
	})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		h.t.Fatal(err)
	}
}
