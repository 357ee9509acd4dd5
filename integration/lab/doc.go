// Package lab runs test hosts: virtual machines with a distribution's own kernel
// and Docker Engine, joined by a bridge to a real NFSv4.1 server with one address
// per zone. It needs root on a Debian machine and no hardware virtualisation.
//
// It leaves nothing behind. [Isolate] moves the program into network, mount and
// PID namespaces of its own, and [Start] refuses to work outside: machines,
// servers, network, mounts and disks live in there and the kernel removes them
// when the program ends, however it ends. What stays is the cache directory
// ($XDG_CACHE_HOME/docker-volume-efs) with the built images.
//
// It does not know Docker volumes or the plugin: those are for the tests to
// bring in. It never reaches another network; whatever needs one, such as
// building the image, happens in [Prepare], before the isolation.
//
// A [Lab], its hosts and its servers may be used by several goroutines at once.
// PowerOff, PowerOn, Stop and Start of one host or server are for one goroutine
// at a time.
//
//	func TestMain(m *testing.M) {
//		os.Exit(lab.Main(m, func(ctx context.Context) error {
//			return lab.Prepare(ctx, "trixie", os.Stderr)
//		}))
//	}
//
//	func TestTwoHosts(t *testing.T) {
//		l, err := lab.Start(t.Context(), lab.Options{Hosts: []string{"host-a", "host-b"}})
//		...
//		defer l.Close()
//		version, err := l.Host("host-a").Run(t.Context(), "docker version --format '{{.Server.Version}}'")
//	}
//
// # Addresses
//
// The lab itself is 10.77.0.1; host-a to host-f are 10.77.0.101 to .106; the
// server answers on .11, .12 and .13 (zones a, b and c), the second server on
// .21. Hosts know each other and the servers (nfs, nfs-a, nfs-b, nfs-c,
// nfs-second) by name. fs-0123456789abcdef0.efs.eu-west-1.amazonaws.com is the
// server and fs-0fedcba9876543210.efs.eu-west-1.amazonaws.com the second one.
package lab
