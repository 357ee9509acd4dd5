package driver_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/cloud"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/proxytest"
)

func TestProtectedTransports(t *testing.T) {
	e := newEFSHost(t)
	e.create("own")
	e.create("iam", "iam=on")
	e.create("role", "role=arn:aws:iam::123456789012:role/x")
	e.create("point", "accesspoint="+someAP, "path=/point")
	for _, name := range []string{"own", "iam", "role", "point"} {
		e.mount(name, "1")
	}
	identities := map[string]bool{}
	for _, m := range e.k.mounts() {
		identities[m.Host] = true
		if m.Source != "127.0.0.1:/" || slices.Contains(m.Options, "port="+fmt.Sprint(e.options.Targets[0].Addr.Port())) {
			t.Errorf("not through a relay: %+v", m)
		}
	}
	if len(identities) != 4 {
		t.Errorf("%d identities of NFS clients: %v", len(identities), identities)
	}
	for name, want := range map[string]string{
		"own": "NFSv4.1, relay, TLS", "iam": "NFSv4.1, relay, TLS, IAM", "role": "NFSv4.1, relay, TLS, IAM", "point": "NFSv4.1, relay, TLS",
	} {
		if got := e.status(name)["transport"]; got != want {
			t.Errorf("%s: transport %v, want %s", name, got, want)
		}
	}
	if got := e.status("point")["access_point"]; got != someAP {
		t.Errorf("access point %v", got)
	}
	var protections []string
	for _, f := range e.Overview().FileSystems {
		for _, t := range f.Transports {
			protections = append(protections, t.Protection)
		}
		if f.Source != "settings" {
			t.Errorf("mount targets from %q", f.Source)
		}
	}
	slices.Sort(protections)
	if want := []string{"tls", "tls accesspoint=" + someAP, "tls iam", "tls iam role=arn:aws:iam::123456789012:role/x"}; !slices.Equal(protections, want) {
		t.Errorf("the overview shows %q, want %q", protections, want)
	}
	for _, shown := range []string{someAP, "AKID", "AKIDarn:aws:iam::123456789012:role/x", fsID} {
		if !strings.Contains(e.certificates(), shown) {
			t.Errorf("no certificate has %s", shown)
		}
	}
}

// What is asked for protected is never mounted without.
// The kernel may answer a mount with a connection that it has to the same server: bytes would go there in the clear.
func TestMountThatJoinsAnotherConnectionIsRefused(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*driver.Options)
	}{
		{"of a volume by TLS", func(*driver.Options) {}},
		{"of a plain volume with via=relay", func(o *driver.Options) { plain(o); o.Volume.Via = "relay" }},
	} {
		t.Run(row.name, func(t *testing.T) {
			e := newEFSHost(t, row.change, func(o *driver.Options) {
				if !o.Volume.TLS {
					at(proxytest.Serve(t, proxytest.Echo).Addr)(o)
				}
				o.Kernel.(*faults).joins = o.Targets[0].Addr
			})
			wantKind(t, e.Create(t.Context(), "data", nil), driver.Failed, "the kernel uses its connection to "+e.options.Targets[0].Addr.String()+" instead of the relay")
			if n := len(e.k.mounts()); n == 0 {
				t.Error("nothing was mounted that could be refused")
			}
		})
	}
}

func TestNothingPlainStandsInForTLS(t *testing.T) {
	plain := nfsServer(t)
	for _, row := range []struct {
		name   string
		change func(*driver.Options)
		says   string
	}{
		{"where mount targets speak no TLS", func(o *driver.Options) { o.Targets = []proxy.Target{{Zone: "a", Addr: plain}} }, "TLS"},
		{"where they are not the file system's", func(o *driver.Options) { o.FileSystem.ID = "fs-00000000" }, "not the file system's mount target"},
		{"where nobody knows their authority", func(o *driver.Options) { o.Roots = nil }, "EFS_CA_FILE"},
		{"where there are no credentials", func(o *driver.Options) {
			o.Volume.IAM = true
			o.Cloud.(*aws).down = errors.New("no metadata")
		}, "no metadata"},
	} {
		t.Run(row.name, func(t *testing.T) {
			e := newEFSHost(t, row.change)
			err := e.Create(t.Context(), "data", nil)
			if err == nil || !strings.Contains(err.Error(), row.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want %q in it", err, row.says)
			}
			if n := len(e.k.mounts()); n != 0 {
				t.Errorf("%d mounts were made", n)
			}
		})
	}
}

func TestSecretsAreInNoState(t *testing.T) {
	e := newEFSHost(t, func(o *driver.Options) {
		o.Volume.IAM = true
		if err := os.Remove(filepath.Join(o.Data, "state/key.pem")); err != nil {
			t.Fatal(err)
		}
	})
	eventually(t, "the host has made its key, and a volume", func() bool { return e.Create(t.Context(), "data", nil) == nil })
	e.mount("data", "1")
	key := []byte(nil)
	err := filepath.WalkDir(e.options.Data, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if strings.Contains(string(content), someSecret) {
			t.Errorf("%s has the secret key", path)
		}
		if filepath.Base(path) == "key.pem" {
			key = content
			if info, err := entry.Info(); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the private key has mode %v, %v", info.Mode(), err)
			}
		}
		return err
	})
	if err != nil || key == nil {
		t.Errorf("no private key, %v", err)
	}
}

// A host that starts while AWS and DNS are dead knows where its mount targets were.
func TestMountTargetsAreKnownOverARestart(t *testing.T) {
	server := nfsServer(t)
	e := newEFSHost(t, func(o *driver.Options) {
		o.Targets, o.Volume.TLS, o.Zone = nil, false, ""
		o.Cloud.(*aws).told = cloud.Told{Targets: []proxy.Target{{Zone: "a", Addr: server}}, Source: cloud.SourceAPI, HomeZone: "a"}
	})
	e.create("data")
	e.mount("data", "1")
	if got := e.status("data"); got["zone"] != "a" || got["mount_targets_from"] != cloud.SourceAPI {
		t.Errorf("Status %v", got)
	}
	e.unmount("data", "1")
	e.set(func() { e.down = errors.New("AWS is down") })
	e.restart()
	e.mount("data", "2")
	if got := e.status("data")["zone"]; got != "a" {
		t.Errorf("zone %v", got)
	}
}

func TestAWSIsNotInThePathOfMounts(t *testing.T) {
	e := newEFSHost(t, func(o *driver.Options) { o.Volume.IAM = true })
	e.create("data")
	e.mount("data", "0")
	before := e.asked()
	for i := range 50 {
		id := fmt.Sprint(i + 1)
		e.mount("data", id)
		e.unmount("data", id)
		if _, err := e.Get(t.Context(), "data"); err != nil {
			t.Fatal(err)
		}
		e.List(t.Context())
	}
	if n := e.asked() - before; n != 0 {
		t.Errorf("AWS was asked %d times", n)
	}
}

// With a file system's id and a volume's options, and no setting at all.
func TestCatalogueOfAnotherFileSystemIsReachedAsItsVolumesAre(t *testing.T) {
	for _, via := range []string{"auto", "direct"} {
		t.Run("EFS_VIA="+via, func(t *testing.T) {
			var home string
			e := newEFSHost(t, func(o *driver.Options) {
				o.Cloud.(*aws).told = cloud.Told{Targets: o.Targets, Source: cloud.SourceAPI, HomeZone: "a"}
				home = t.TempDir()
				o.FileSystem, o.Targets = filesystem.Spec{Kind: filesystem.Directory, Dir: home}, nil
				o.Volume.TLS, o.Volume.Via = false, via
			})
			// The mount targets speak nothing but TLS.
			e.create("far", "filesystem="+fsID, "iam=on", "via=auto")
			e.mount("far", "1")
			if got, _ := e.status("far")["transport"].(string); got != "NFSv4.1, relay, TLS, IAM" {
				t.Errorf("transport %q", got)
			}
			if !strings.Contains(e.certificates(), "AKID") {
				t.Error("the catalogue was reached as nobody")
			}
			e.unmount("far", "1")
			e.restart()
			e.mount("far", "2")
			other := newHost(t, "", func(o *driver.Options) {
				data := o.Data
				*o = e.options
				o.Data, o.Host = data, "web-2"
			})
			other.mount("far", "1") // found by the home catalogue
		})
	}
}

// Whoever reads that he may not write, and asks for more then, is not told the same again.
func TestReadOnlyCatalogueIsReachedAsTheNextVolumeAsks(t *testing.T) {
	e := newEFSHost(t, func(o *driver.Options) {
		at(proxytest.Serve(t, proxytest.Echo).Addr)(o)
		o.Cloud.(*aws).told = cloud.Told{Targets: o.Targets, Source: cloud.SourceAPI, HomeZone: "a"}
		o.FileSystem, o.Targets = filesystem.Spec{Kind: filesystem.Directory, Dir: t.TempDir()}, nil
		o.Volume.TLS = false
	})
	e.create("first", "filesystem="+fsID)
	if err := errors.Join(syscall.Mount(e.export, e.export, "", syscall.MS_BIND, ""), syscall.Mount("", e.export, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(e.export, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	e.restart()
	wantKind(t, e.Create(t.Context(), "plain", opts("filesystem="+fsID)), driver.Failed, "read-only")
	// The mount target speaks no TLS here, which shows that it was tried.
	err := e.Create(t.Context(), "asks", opts("filesystem="+fsID, "tls=on"))
	if err == nil || strings.Contains(err.Error(), "read-only") || !strings.Contains(err.Error(), "tls") {
		t.Errorf("it says %v", err)
	}
}

// A volume that cannot be reached as it asks takes no catalogue away from those that can.
func TestVolumeThatAsksForMoreLeavesTheCatalogueAsItIs(t *testing.T) {
	for _, row := range []struct {
		name    string
		restart bool
	}{
		{"as long as it is connected", false},
		{"and after a restart", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			e := newEFSHost(t, func(o *driver.Options) {
				at(proxytest.Serve(t, proxytest.Echo).Addr)(o)
				o.Cloud.(*aws).told = cloud.Told{Targets: o.Targets, Source: cloud.SourceAPI, HomeZone: "a"}
				o.FileSystem, o.Targets = filesystem.Spec{Kind: filesystem.Directory, Dir: t.TempDir()}, nil
				o.Volume.TLS = false
			})
			e.create("plain", "filesystem="+fsID)
			e.mount("plain", "1")
			e.set(func() { e.nobody = errors.New("no role") })
			if err := e.Create(t.Context(), "asks", opts("filesystem="+fsID, "iam=on", "accesspoint="+someAP)); err == nil {
				t.Fatal("it was made")
			}
			if row.restart {
				e.unmount("plain", "1")
				e.restart()
			}
			e.create("another", "filesystem="+fsID)
			e.mount("another", "1")
			e.mount("plain", "2")
		})
	}
}

// One volume's bad identity is no news of the mount targets: they are asked by nobody's.
func TestOneVolumesIdentityEndsNoFailover(t *testing.T) {
	e := newEFSHost(t)
	authority := proxytest.NewAuthority(t)
	config := &tls.Config{Certificates: []tls.Certificate{authority.Sign(t, fsName, time.Now().Add(time.Hour))}, ClientAuth: tls.RequireAnyClientCert}
	near, far := proxytest.ServeTLS(t, config, nil), proxytest.ServeTLS(t, config, nil)
	h := newHost(t, "", func(o *driver.Options) {
		*o = e.options
		o.Data, o.Roots, o.Region = t.TempDir(), authority.Roots(), "eu-west-1"
		o.Targets = []proxy.Target{{Zone: "a", Addr: near.Addr}, {Zone: "b", Addr: far.Addr}}
	})
	h.create("good")
	h.mount("good", "1")
	e.set(func() { e.down = errors.New("the role cannot be assumed") })
	err := h.Create(t.Context(), "bad", opts("role=arn:aws:iam::123456789012:role/gone"))
	if err == nil {
		// The record is there; the mount fails.
		err = mountOf(t.Context(), h, "bad", "1")
	}
	wantKind(t, err, driver.Failed, "cannot be assumed")
	if trouble := h.status("good")["trouble"]; trouble != nil {
		t.Errorf("the other volume has the trouble %v", trouble)
	}
	near.Stop()
	for begun := time.Now(); h.status("good")["zone"] != "b"; time.Sleep(50 * time.Millisecond) {
		if time.Since(begun) > 20*time.Second {
			t.Fatalf("it is in zone %v still", h.status("good")["zone"])
		}
	}
}

// AWS STS that is slow or out of reach is no news of the mount targets, nor of other volumes.
func TestCredentialsThatHangAreOneVolumesTrouble(t *testing.T) {
	e := newEFSHost(t)
	e.create("good")
	e.mount("good", "1")
	e.set(func() { e.silent = true })
	err := e.Create(t.Context(), "bad", opts("role=arn:aws:iam::123456789012:role/x"))
	if err == nil {
		err = mountOf(t.Context(), e.testHost, "bad", "1")
	}
	wantKind(t, err, driver.Unavailable, "no IAM credentials")
	if text := err.Error(); strings.Contains(text, "mount target") || strings.Contains(text, "2049") {
		t.Errorf("it blames the mount target: %s", text)
	}
	if trouble := e.status("good")["trouble"]; trouble != nil {
		t.Errorf("the other volume has the trouble %v", trouble)
	}
	e.mount("good", "2")
	e.create("another")
	e.set(func() { e.silent = false })
	e.mount("bad", "2")
}

// A volume in use whose role may not be assumed any more is looked after in the background;
// that must not ask AWS STS at each look.
func TestRefusedIdentityIsLeftAlone(t *testing.T) {
	e := newEFSHost(t, func(o *driver.Options) { o.Check = 5 * time.Millisecond })
	e.create("role", "role=arn:aws:iam::123456789012:role/x")
	e.mount("role", "1")
	e.stop()
	before := 0
	e.set(func() {
		e.denied, before = errors.New("AccessDenied: not authorized to perform: sts:AssumeRole"), e.given
	})
	e.start()
	asked := func() (n int) {
		e.set(func() { n = e.given - before })
		return n
	}
	eventually(t, "credentials are asked for", func() bool { return asked() > 0 })
	time.Sleep(300 * time.Millisecond)
	if n := asked(); n != 1 {
		t.Errorf("credentials were asked for %d times, want once", n)
	}
	err := e.Mount(t.Context(), "role", "2", func(string) error { return nil })
	wantKind(t, err, driver.Failed, "AccessDenied")
	e.set(func() { e.denied = nil })
	e.mount("role", "2")
}
