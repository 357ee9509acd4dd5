package driver_test

import (
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
)

func TestOverviewOfALocalDirectory(t *testing.T) {
	shared := t.TempDir()
	h := newHost(t, shared)
	h.create("data")
	h.create("other")
	h.mount("data", "1")
	h.mount("data", "2")
	o := h.Overview()
	if o.Host == "" || o.Known != 2 || len(o.FileSystems) != 1 || len(o.Troubles()) != 0 {
		t.Fatalf("it is %+v", o)
	}
	f := o.FileSystems[0]
	if f.FileSystem != "dir:"+shared || !f.Default || !f.Connected || f.Since.IsZero() {
		t.Errorf("the file system is %+v", f)
	}
	if len(f.Targets) != 0 || len(f.Transports) != 0 {
		t.Errorf("a directory has mount targets %v, transports %v", f.Targets, f.Transports)
	}
	if len(o.Mounted) != 1 {
		t.Fatalf("mounted are %+v", o.Mounted)
	}
	v := o.Mounted[0]
	if v.Name != "data" || v.FileSystem != f.FileSystem || v.Since.IsZero() || !maps.Equal(v.Mounts, map[string]int{"1": 1, "2": 1}) {
		t.Errorf("the volume is %+v", v)
	}
}

// onTargets has the home file system on two mount targets.
func onTargets(via string, a, b netip.AddrPort) func(*driver.Options) {
	return func(o *driver.Options) {
		o.Kernel = &faults{export: o.Data}
		o.FileSystem = filesystem.Spec{Kind: filesystem.EFS, ID: "fs-0123456789abcdef0", Port: filesystem.NFSPort, Export: "/"}
		o.Targets, o.Zone, o.Volume.Via = []proxy.Target{{Zone: "a", Addr: a}, {Zone: "b", Addr: b}}, "b", via
	}
}

func TestOverviewHasMountTargetsAndTransports(t *testing.T) {
	for _, via := range []string{"direct", "relay"} {
		t.Run(via, func(t *testing.T) {
			a, b := nfsServer(t), nfsServer(t)
			h := newHost(t, "", onTargets(via, a, b))
			h.create("data")
			h.mount("data", "1")
			f := h.Overview().FileSystems[0]
			if f.FileSystem != "fs-0123456789abcdef0" || f.Home != "b" || f.Current.Addr != b || len(f.Targets) != 2 {
				t.Errorf("the file system is %+v", f)
			}
			if len(f.Transports) != 1 {
				t.Fatalf("the transports are %+v", f.Transports)
			}
			one := f.Transports[0]
			if string(one.Path) != via || one.Target != (proxy.Target{Zone: "b", Addr: b}) {
				t.Errorf("the transport is %+v", one)
			}
			if relayed := via == "relay"; one.Listen.IsValid() != relayed || (one.Traffic != nil) != relayed {
				t.Errorf("it listens on %v and has traffic %v", one.Listen, one.Traffic)
			}
			// No kernel is here that would take the direct mount along.
			if err := h.Drain("b", true); (err == nil) != (via == "relay") || err != nil && !strings.Contains(err.Error(), "a direct mount stays in zone b: ") {
				t.Fatal(err)
			}
			eventually(t, "it shows the move", func() bool {
				f := h.Overview().FileSystems[0]
				return f.Current.Addr == a && f.Moves[proxy.CauseDrain] == 1 && len(f.Recent) == 1
			})
			if via == "relay" {
				if got := h.Overview().FileSystems[0].Transports[0].Target.Zone; got != "a" {
					t.Errorf("after the move the relay goes to %s", got)
				}
			}
		})
	}
}

// Containers' mounts go through it, whether or not anything was mounted since.
func TestOverviewHasRelaysOfAnEarlierRun(t *testing.T) {
	h := newHost(t, "", onTargets("relay", nfsServer(t), nfsServer(t)))
	h.create("data")
	h.mount("data", "1")
	before := h.Overview().FileSystems[0].Transports[0].Listen
	h.restart()
	all := h.Overview().FileSystems[0].Transports
	if len(all) != 1 || all[0].Path != status.Relayed || all[0].Listen != before || all[0].Traffic == nil {
		t.Errorf("after a restart there are %+v, want one at %s", all, before)
	}
}

// The sum over all relays is a counter, also when one of them is no more.
func TestOverviewHasWhatEndedRelaysCounted(t *testing.T) {
	h := newHost(t, "", onTargets("relay", nfsServer(t), nfsServer(t)))
	h.create("data")
	h.mount("data", "1")
	f := h.Overview().FileSystems[0]
	if f.Ended != nil {
		t.Errorf("before one has ended, they counted %+v", f.Ended)
	}
	// The reset may be there before the connection is.
	if conn, err := net.Dial("tcp", f.Transports[0].Listen.String()); err == nil {
		defer conn.Close()
	}
	eventually(t, "a process that is not the kernel is refused", func() bool { return h.Overview().FileSystems[0].Transports[0].Traffic.NotAdmitted == 1 })
	h.CloseRelays()
	f = h.Overview().FileSystems[0]
	if len(f.Transports) != 0 || f.Ended == nil || f.Ended.NotAdmitted != 1 {
		t.Errorf("there are %+v, and ended ones have counted %+v", f.Transports, f.Ended)
	}
}

func TestOverviewTellsATroubleOnce(t *testing.T) {
	shared := filepath.Join(t.TempDir(), "shared")
	if err := os.Mkdir(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, shared)
	for _, name := range []string{"a", "b", "c"} {
		h.create(name)
		h.mount(name, "1")
	}
	h.stop()
	if err := os.Rename(shared, shared+"-away"); err != nil {
		t.Fatal(err)
	}
	h.options.Misconfigured = nil
	h.start()
	eventually(t, "the file system is in trouble", func() bool { return h.Overview().FileSystems[0].Trouble != "" })
	o := h.Overview()
	if troubles := o.Troubles(); len(troubles) != 1 || !strings.Contains(troubles[0], "does not exist on this host") || len(o.Mounted) != 3 {
		t.Errorf("with %d mounted the troubles are %q", len(o.Mounted), troubles)
	}
	if o.FileSystems[0].Troubled.IsZero() || o.FileSystems[0].Connected {
		t.Errorf("the file system is %+v", o.FileSystems[0])
	}
	h.stop()
	if err := os.Rename(shared+"-away", shared); err != nil {
		t.Fatal(err)
	}
	h.options.Misconfigured = errors.New("setting EFS_VIA is wrong")
	h.start()
	if o := h.Overview(); !slices.Equal(o.Trouble, []string{"setting EFS_VIA is wrong"}) || len(o.Troubles()) != 1 {
		t.Errorf("with a wrong setting the troubles are %q", o.Troubles())
	}
}
