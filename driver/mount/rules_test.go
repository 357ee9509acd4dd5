package mount_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/driver/mount"
)

// shareMounts makes the mounts of the tests' own namespace shared, as those of every
// host with systemd are: what is mounted in a copy of it then shows here, too, unless
// the copy sees to it.
func shareMounts(t *testing.T) {
	t.Helper()
	propagate := func(how uintptr) {
		if err := syscall.Mount("", "/", "", syscall.MS_REC|how, ""); err != nil {
			t.Error(err)
		}
	}
	propagate(syscall.MS_SHARED)
	t.Cleanup(func() { propagate(syscall.MS_PRIVATE) })
}

func TestNothingOfARootPropagatesToTheHost(t *testing.T) {
	shareMounts(t)
	before := mountTable(t)
	bind(t)
	if after := mountTable(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestNamespaceHoldsNothingButTheRoot(t *testing.T) {
	root, _ := bind(t)
	table, err := root.Table()
	if err != nil {
		t.Fatal(err)
	}
	var points []string
	for line := range strings.Lines(table) {
		points = append(points, strings.Fields(line)[4])
	}
	if slices.Sort(points); !slices.Equal(points, []string{"/", "/fs"}) {
		t.Errorf("it holds %v", points)
	}
}

// The kernel makes the NFS client's identity of the host name that the mounting
// thread sees.
func TestMountingThreadHasTheClientsName(t *testing.T) {
	root, _ := bind(t)
	if name, err := root.HostName(); err != nil || name != "test-host" {
		t.Errorf("it is %q, %v", name, err)
	}
}

func TestRootOfAFileSystemIsNodev(t *testing.T) {
	root := mount.Open(mount.Mount{Type: "tmpfs", Source: "test", Host: "test-host"})
	defer func() {
		root.Close()
		<-root.Finished()
	}()
	<-root.Done()
	table, err := root.Table()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(table) {
		if fields := strings.Fields(line); fields[4] == "/fs" && !slices.Contains(strings.Split(fields[5], ","), "nodev") {
			t.Errorf("mount table line %q lacks nodev", line)
		}
	}
}

func TestDetachDoesNotWaitForOpenFiles(t *testing.T) {
	root, _ := bind(t, "a")
	target := attach(t, root, "a", mount.Flags{})
	file, err := os.Create(filepath.Join(target, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if mounted, err := mount.Detach(target); !mounted || err != nil {
		t.Errorf("detached %v, %v", mounted, err)
	}
	if _, err := file.WriteString("rows"); err != nil {
		t.Error(err)
	}
}

func TestDetachFollowsNoLink(t *testing.T) {
	root, _ := bind(t, "a")
	target := attach(t, root, "a", mount.Flags{})
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if mounted, _ := mount.Detach(link); mounted || tableLine(t, target) == "" {
		t.Error("what the link points at was detached")
	}
}

func TestServer(t *testing.T) {
	const root = "30 28 0:27 / / rw,relatime - tmpfs tmpfs rw,size=64k\n"
	for _, row := range []struct{ name, line, want string }{
		{"at the standard port", "31 30 0:52 / /fs rw,nodev - nfs4 10.0.1.5:/ rw,vers=4.1,clientaddr=10.0.9.9,addr=10.0.1.5\n", "10.0.1.5:2049"},
		{
			"is where the kernel is, not where it was sent, at its port",
			"31 30 0:52 / /fs rw,nodev - nfs4 10.0.1.5:/ rw,vers=4.1,port=20049,clientaddr=10.0.9.9,addr=10.0.2.5\n", "10.0.2.5:20049",
		},
		{"with an IPv6 address", "31 30 0:52 / /fs rw,nodev - nfs4 [fd00::5]:/ rw,vers=4.1,clientaddr=fd00::9,addr=fd00::5\n", "[fd00::5]:2049"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got, err := mount.ServerIn([]byte(root + row.line)); err != nil || got != netip.MustParseAddrPort(row.want) {
				t.Errorf("%v, %v; want %s", got, err, row.want)
			}
		})
	}
	for _, row := range []struct{ name, line, want string }{
		{"without an address", "31 30 0:52 / /fs rw - nfs4 10.0.1.5:/ rw,vers=4.1\n", "without addr="},
		{"with an address that is none", "31 30 0:52 / /fs rw - nfs4 10.0.1.5:/ rw,addr=x\n", "mount table"},
		{"with a port that is none", "31 30 0:52 / /fs rw - nfs4 10.0.1.5:/ rw,addr=10.0.1.5,port=x\n", "port"},
		{"that is not there", "", "not in the mount table"},
	} {
		t.Run(row.name+" is an error", func(t *testing.T) {
			if _, err := mount.ServerIn([]byte(root + row.line)); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("error %v", err)
			}
		})
	}
	t.Run("of a local directory is none", func(t *testing.T) {
		root, _ := bind(t)
		if server, err := root.Server(); err != nil || server.IsValid() {
			t.Errorf("%v, %v", server, err)
		}
	})
}

// stats is what Linux 6.12 says of a mount, with most operations left out.
const stats = `device rootfs mounted on / with fstype rootfs
device 10.0.1.5:/ mounted on /fs with fstype nfs4 statvers=1.1
	opts:	rw,vers=4.1,rsize=1048576,wsize=1048576
	events:	0 0 0 0 0
	xprt:	tcp 785 0 1 0 0 21 21 0 21 0 2 0 0
	per-op statistics
	        NULL: 1 1 0 44 24 0 0 0 0
	 EXCHANGE_ID: 2 2 0 520 224 0 1 1 0
	CREATE_SESSION: 1 1 0 208 132 0 0 0 0
`

func TestIntroductions(t *testing.T) {
	for _, row := range []struct {
		name, stats string
		want        int
	}{
		{"are the requests", stats, 2},
		{"are none where there is no NFS", "device tmpfs mounted on / with fstype tmpfs\n", 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got, err := mount.IntroductionsIn(row.stats); err != nil || got != row.want {
				t.Errorf("%d, %v; want %d", got, err, row.want)
			}
		})
	}
	t.Run("that are no number are an error", func(t *testing.T) {
		if _, err := mount.IntroductionsIn("EXCHANGE_ID: many"); err == nil {
			t.Error("no error")
		}
	})
	t.Run("of a local directory are none", func(t *testing.T) {
		root, _ := bind(t)
		if got, err := root.Introductions(); err != nil || got != 0 {
			t.Errorf("%d, %v", got, err)
		}
	})
}
