package driver_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/mount"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/cloud"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/doctor"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/proxytest"
)

const (
	someARN  = "arn:aws:sts::123456789012:assumed-role/web/i-0123"
	someRole = "arn:aws:iam::123456789012:role/web"
)

// examined has a host examined.
func examined(h *testHost) (all []doctor.Finding) {
	h.t.Helper()
	h.Doctor(h.t.Context(), func(f doctor.Finding) { all = append(all, f) })
	return all
}

// finding is the first of a check.
func finding(t *testing.T, all []doctor.Finding, check string) doctor.Finding {
	t.Helper()
	i := slices.IndexFunc(all, func(f doctor.Finding) bool { return f.Check == check })
	if i < 0 {
		t.Fatalf("%s was not asked: %s", check, outcomes(all))
	}
	return all[i]
}

// outcomes are all findings, short.
func outcomes(all []doctor.Finding) string {
	var words []string
	for _, f := range all {
		words = append(words, string(f.Outcome)+" "+f.Check)
	}
	return strings.Join(words, ", ")
}

// inAWS is an EFS host whose AWS knows all.
func inAWS(o *driver.Options) {
	a := o.Cloud.(*aws)
	a.place = cloud.Place{Region: "eu-west-1", RegionFrom: "AWS_REGION", Zone: "a", ZoneFrom: "EFS_ZONE"}
	a.who = cloud.Identity{ARN: someARN, KeyID: "ASIAIOSFODNN7EXAMPLE", From: "EC2RoleProvider", Expires: time.Now().Add(time.Hour)}
	a.told = cloud.Told{Targets: o.Targets, Source: cloud.SourceAPI, HomeZone: "a"}
	a.dns = o.Targets
	o.Targets = nil
	o.Volume.IAM = true
}

// anyKey is a host's key. Under load it takes longer to make one than a mount may.
var anyKey = sync.OnceValues(func() (content []byte, err error) {
	dir, err := os.MkdirTemp("", "key")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "key.pem")
	if _, err = efs.LoadKey(path); err == nil {
		content, err = os.ReadFile(path)
	}
	return content, err
})

// putKey gives a host that is to start its key.
func putKey(t *testing.T, data string) {
	t.Helper()
	key, err := anyKey()
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Join(data, "state"), 0o700), os.WriteFile(filepath.Join(data, "state/key.pem"), key, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestDoctorChecksInOrder(t *testing.T) {
	e := newEFSHost(t, inAWS)
	e.create("data")
	all := examined(e.testHost)
	const want = "ok settings, ok kernel NFS, ok region and zone, ok mount targets, ok DNS, ok port, ok TLS, ok identity, ok access, ok catalogue, ok clock, ok write test, ok latency"
	if got := outcomes(all); got != want {
		t.Errorf("got  %s\nwant %s\n%+v", got, want, all)
	}
	for check, says := range map[string]string{
		"settings": "tls iam", "region and zone": "home zone a (EFS_ZONE)", "mount targets": "1 by EFS API: a=127.0.0.1:", "DNS": fsName + " leads to a=127.0.0.1:",
		"port": "connected within", "TLS": "TLS 1.3", "identity": someARN + ", key ASIA…MPLE of EC2RoleProvider, until ", "access": "mounted, path relay, tls iam",
		"catalogue": "1 volumes", "clock": "within a second of AWS's", "write test": "written and synced", "latency": "home zone, in use",
	} {
		if f := finding(t, all, check); !strings.Contains(f.Found, says) {
			t.Errorf("%s: %q does not say %q", check, f.Found, says)
		}
	}
	if left, err := os.ReadDir(filepath.Join(e.export, ".docker-volume-efs/tmp")); err != nil || len(left) > 0 {
		t.Errorf("the write test left %v, %v", left, err)
	}
}

// Each way in which volumes come is asked, and each role.
func TestDoctorChecksEachProtectionInUse(t *testing.T) {
	e := newEFSHost(t, inAWS, func(o *driver.Options) { o.Volume.IAM = false })
	e.create("role", "role=arn:aws:iam::123456789012:role/x")
	e.mount("role", "1")
	var identities, handshakes []string
	for _, f := range examined(e.testHost) {
		switch f.Check {
		case "identity":
			identities = append(identities, string(f.Outcome)+" "+f.Target)
		case "TLS":
			_, as, _ := strings.Cut(f.Target, " ")
			handshakes = append(handshakes, string(f.Outcome)+" "+as)
		}
	}
	if got := strings.Join(identities, ", "); got != "ok , ok arn:aws:iam::123456789012:role/x" {
		t.Errorf("identities: %s", got)
	}
	if got := strings.Join(handshakes, ", "); got != "ok , ok tls iam role=arn:aws:iam::123456789012:role/x" {
		t.Errorf("handshakes: %s", got)
	}
}

// What was heard once is asked when nobody tells any more.
func TestDoctorChecksRememberedMountTargets(t *testing.T) {
	e := newEFSHost(t, inAWS)
	e.create("data")
	e.set(func() { e.down = errors.New("AWS is down") })
	e.set(func() { e.dns = nil })
	all := examined(e.testHost)
	if f := finding(t, all, "mount targets"); f.Outcome != doctor.Warning || !strings.Contains(f.Found, "those of before: a=127.0.0.1") || !strings.Contains(f.Why, "AWS is down") {
		t.Errorf("%+v", f)
	}
	if f := finding(t, all, "port"); f.Outcome != doctor.OK {
		t.Errorf("%+v", f)
	}
}

func TestDoctorOfALocalDirectory(t *testing.T) {
	h := newHost(t, t.TempDir(), func(o *driver.Options) { o.Kernel = &faults{lacks: mount.ErrNotOffered} })
	const want = "ok settings, warning kernel NFS, ok access, ok catalogue, ok write test"
	if got := outcomes(examined(h)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestDoctorOfAnNFSServer(t *testing.T) {
	server := nfsServer(t)
	h := newHost(t, "", onServer(server, &faults{export: t.TempDir()}))
	all := examined(h)
	const want = "ok settings, ok kernel NFS, ok mount targets, ok port, ok access, ok catalogue, ok clock, ok write test, ok latency"
	if got := outcomes(all); got != want {
		t.Errorf("got  %s\nwant %s\n%+v", got, want, all)
	}
	if f := finding(t, all, "clock"); !strings.Contains(f.Found, "the file system's") {
		t.Errorf("the clock was compared with another: %+v", f)
	}
}

// closedPort is where nobody listens.
func closedPort(t *testing.T) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

// at has the mount target somewhere else.
func at(addr netip.AddrPort) func(*driver.Options) {
	return func(o *driver.Options) { o.Targets = []proxy.Target{{Zone: "a", Addr: addr}} }
}

func plain(o *driver.Options) { o.Volume.TLS = false }

// behindTLS has a mount target with such a certificate.
func behindTLS(t *testing.T, name string, until time.Duration, verify func([][]byte, [][]*x509.Certificate) error) func(*driver.Options) {
	return func(o *driver.Options) {
		authority := proxytest.NewAuthority(t)
		o.Roots = authority.Roots()
		at(proxytest.ServeTLS(t, &tls.Config{
			Certificates: []tls.Certificate{authority.Sign(t, name, time.Now().Add(until))}, ClientAuth: tls.RequireAnyClientCert, VerifyPeerCertificate: verify,
		}, nil).Addr)(o)
	}
}

func TestDoctorSaysWhatFailedWhyAndWhatToChange(t *testing.T) {
	set := func(change func(*aws, *driver.Options)) func(*driver.Options) {
		return func(o *driver.Options) { change(o.Cloud.(*aws), o) }
	}
	refusing := func(err error) func(*driver.Options) {
		return func(o *driver.Options) { o.Kernel.(*faults).refuses = err }
	}
	for _, row := range []struct {
		name    string
		change  []func(*driver.Options)
		check   string
		outcome doctor.Outcome
		says    []string // in what was found, why, or what to do
		skipped string   // a check that is skipped because of it
	}{
		{"settings that are wrong", []func(*driver.Options){func(o *driver.Options) { o.Misconfigured = errors.New("setting EFS_VIA=\"x\"") }}, "settings", doctor.Failed, []string{"EFS_VIA"}, "access"},
		{"a kernel without NFS", []func(*driver.Options){func(o *driver.Options) { o.Kernel.(*faults).lacks = mount.ErrNotOffered }}, "kernel NFS", doctor.Failed, []string{"Linux ", "modprobe nfsv4"}, "access"},
		{"a region that nobody knows", []func(*driver.Options){set(func(a *aws, _ *driver.Options) { a.place = cloud.Place{Metadata: errors.New("no metadata here")} })}, "region and zone", doctor.Failed, []string{"no metadata here", "AWS_REGION"}, "TLS"},
		{"no metadata, as on premises", []func(*driver.Options){set(func(a *aws, _ *driver.Options) {
			a.place = cloud.Place{Region: "eu-west-1", RegionFrom: "AWS_REGION", Metadata: errors.New("no metadata here")}
		})}, "region and zone", doctor.OK, []string{"no home zone", "no metadata here"}, ""},
		{"an API that may not be asked", []func(*driver.Options){set(func(a *aws, _ *driver.Options) {
			a.told.Source, a.told.APIError = cloud.SourceDNS, errors.New("AccessDenied: allow the action elasticfilesystem:DescribeMountTargets")
		})}, "mount targets", doctor.Warning, []string{"1 by DNS", "elasticfilesystem:DescribeMountTargets"}, ""},
		{"mount targets that nobody knows", []func(*driver.Options){set(func(a *aws, _ *driver.Options) { a.down = errors.New("AWS is down") })}, "mount targets", doctor.Failed, []string{"AWS is down", "EFS_TARGETS"}, "access"},
		{"no mount target in the home zone", []func(*driver.Options){set(func(a *aws, _ *driver.Options) { a.place.Zone = "z" })}, "mount targets", doctor.Warning, []string{"home zone z", "make a mount target in z"}, ""},
		{"a name that leads nowhere", []func(*driver.Options){set(func(a *aws, _ *driver.Options) { a.dns = nil })}, "DNS", doctor.Warning, []string{fsName + " leads nowhere", "no such host", "DNS host names of the VPC"}, ""},
		{"a name that leads elsewhere", []func(*driver.Options){set(func(a *aws, _ *driver.Options) {
			a.dns = []proxy.Target{{Addr: netip.MustParseAddrPort("10.9.9.9:2049")}}
		})}, "DNS", doctor.Warning, []string{"10.9.9.9 is none of the file system's"}, ""},
		{"a port that refuses", []func(*driver.Options){at(closedPort(t)), plain}, "port", doctor.Failed, []string{"refused", "nothing listens on port", "EFS_TARGETS"}, "access"},
		{"what is no NFS", []func(*driver.Options){at(proxytest.Serve(t, func(conn *net.TCPConn) { _, _ = conn.Write([]byte("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")) }).Addr), plain}, "port", doctor.Failed, []string{"no NFSv4 server", "EFS_TARGETS"}, "access"},
		{"silence", []func(*driver.Options){at(proxytest.Serve(t, func(conn *net.TCPConn) {
			_, _ = conn.Read(make([]byte, 1))
			_, _ = conn.Read(make([]byte, 4096))
			<-t.Context().Done()
		}).Addr), plain}, "port", doctor.Failed, []string{"silent", "security group"}, "latency"},
		{"another file system's certificate", []func(*driver.Options){behindTLS(t, "fs-1.efs.eu-west-1.amazonaws.com", time.Hour, nil)}, "TLS", doctor.Failed, []string{"it is for fs-1.efs", fsName, "not a mount target of " + fsID}, "access"},
		{"a certificate of nobody", []func(*driver.Options){behindTLS(t, fsName, time.Hour, nil), func(o *driver.Options) { o.Roots = nil }}, "TLS", doctor.Failed, []string{"nobody known", "EFS_CA_FILE"}, "access"},
		{"an old certificate", []func(*driver.Options){behindTLS(t, fsName, -time.Hour, nil)}, "TLS", doctor.Failed, []string{"not valid now", "clock"}, "access"},
		{"no TLS", []func(*driver.Options){at(proxytest.Serve(t, func(conn *net.TCPConn) { _, _ = conn.Write([]byte("SSH-2.0-OpenSSH_9.2p1\r\n")) }).Addr)}, "TLS", doctor.Failed, []string{"speaks no TLS"}, "access"},
		{"a refused identity, in the handshake", []func(*driver.Options){behindTLS(t, fsName, time.Hour, func([][]byte, [][]*x509.Certificate) error { return errors.New("not you") })}, "TLS", doctor.Failed, []string{"refuses this host's certificate", "identity, access and clock below"}, "catalogue"},
		{"a refused identity, in words", []func(*driver.Options){behindTLS(t, fsName, time.Hour, func([][]byte, [][]*x509.Certificate) error { return errors.New("not you") })}, "access", doctor.Failed, []string{"access denied to " + someARN, "to " + someRole}, "catalogue"},
		{"no credentials", []func(*driver.Options){set(func(a *aws, _ *driver.Options) { a.nobody = errors.New("no role") })}, "identity", doctor.Failed, []string{"no credentials", "no role", "IAM role"}, ""},
		{"old credentials", []func(*driver.Options){set(func(a *aws, _ *driver.Options) { a.who.Expires = time.Now().Add(-time.Hour) })}, "identity", doctor.Failed, []string{"have expired"}, ""},
		{"an identity without a name", []func(*driver.Options){set(func(a *aws, _ *driver.Options) { a.who.ARN, a.who.Unnamed = "", errors.New("sts: no answer") })}, "identity", doctor.Warning, []string{"sts: no answer", "do not need AWS STS"}, ""},
		{"no credentials where none are needed", []func(*driver.Options){set(func(a *aws, o *driver.Options) { a.nobody, o.Volume.IAM = errors.New("no role"), false })}, "identity", doctor.OK, []string{"none to the file system", "no role"}, ""},
		{"a policy that does not let this identity in", []func(*driver.Options){refusing(syscall.EACCES)}, "access", doctor.Failed, []string{
			"access denied to " + someARN, "allow elasticfilesystem:ClientMount, elasticfilesystem:ClientWrite and elasticfilesystem:ClientRootAccess",
			"on arn:aws:elasticfilesystem:eu-west-1:123456789012:file-system/" + fsID + " to " + someRole,
		}, "write test"},
		{"a policy that does not let it in by an access point", []func(*driver.Options){refusing(syscall.EACCES), func(o *driver.Options) { o.AccessPoint = someAP }}, "access", doctor.Failed, []string{
			"by access point " + someAP, "where elasticfilesystem:AccessPointArn is arn:aws:elasticfilesystem:eu-west-1:123456789012:access-point/" + someAP,
		}, "write test"},
		{"a policy that lets in no anonymous clients", []func(*driver.Options){refusing(syscall.EPERM), func(o *driver.Options) { o.Volume.IAM = false }}, "access", doctor.Failed, []string{"anonymous client", `"AWS": "*"`, "EFS_IAM=on"}, "write test"},
		{"a mount that fails otherwise", []func(*driver.Options){refusing(syscall.ENOENT)}, "access", doctor.Failed, []string{"cannot be mounted", "no export /"}, "write test"},
		{"a clock that is two minutes off", []func(*driver.Options){set(func(a *aws, _ *driver.Options) { a.ahead = 2 * time.Minute })}, "clock", doctor.Warning, []string{"2m0s ahead of AWS's", "chrony"}, ""},
		{"a clock that is six minutes off", []func(*driver.Options){set(func(a *aws, _ *driver.Options) { a.ahead = -6 * time.Minute })}, "clock", doctor.Failed, []string{"6m0s behind AWS's", "refuses", "chrony"}, ""},
		{"AWS's clock, out of reach", []func(*driver.Options){set(func(a *aws, _ *driver.Options) { a.noClock = errors.New("no route") })}, "clock", doctor.OK, []string{"within a second of the file system's"}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			// The changes to options come before what AWS tells of them, those of AWS after it.
			e := newEFSHost(t, func(o *driver.Options) {
				inAWS(o)
				o.Targets = o.Cloud.(*aws).told.Targets
				for _, change := range row.change {
					change(o)
				}
				a := o.Cloud.(*aws)
				a.told.Targets = o.Targets
				if len(a.dns) > 0 && a.dns[0].Addr.Addr().IsLoopback() {
					a.dns = o.Targets
				}
				o.Targets = nil
				if !o.Volume.TLS {
					o.Volume.IAM = false
				}
			})
			all := examined(e.testHost)
			f := finding(t, all, row.check)
			if f.Outcome != row.outcome || f.Outcome != doctor.OK && (f.Why == "" || f.Do == "") {
				t.Errorf("%+v, want it %s", f, row.outcome)
			}
			for _, says := range row.says {
				if !strings.Contains(f.Found+"\n"+f.Why+"\n"+f.Do, says) {
					t.Errorf("%+v does not say %q", f, says)
				}
			}
			if row.skipped == "" {
				return
			}
			if f := finding(t, all, row.skipped); f.Outcome != doctor.Skipped || !strings.HasPrefix(f.Found, "not asked: ") {
				t.Errorf("%+v was asked", f)
			}
		})
	}
}

// What cannot be written is told with the action that allows it.
func TestDoctorSaysWhoMayNotWrite(t *testing.T) {
	e := newEFSHost(t, inAWS)
	e.create("data")
	if err := errors.Join(syscall.Mount(e.export, e.export, "", syscall.MS_BIND, ""), syscall.Mount("", e.export, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(e.export, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	e.restart() // opens it anew
	all := examined(e.testHost)
	if f := finding(t, all, "catalogue"); f.Outcome != doctor.OK {
		t.Errorf("%+v", f)
	}
	f := finding(t, all, "write test")
	if f.Outcome != doctor.Failed || f.Found != "it is read-only to "+someARN || !strings.Contains(f.Do, "allow elasticfilesystem:ClientWrite on ") || !strings.Contains(f.Do, someRole) {
		t.Errorf("%+v", f)
	}
}

// A mount target that is down, and all that doctor does about it, moves nothing.
func TestDoctorDisturbsNothing(t *testing.T) {
	a, b := nfsServer(t), proxytest.Serve(t, proxytest.Echo)
	h := newHost(t, "", onTargets("relay", a, b.Addr))
	h.create("data")
	h.mount("data", "1")
	before := h.Overview().FileSystems[0]
	b.Stop()
	all := examined(h)
	if before.Current.Addr != b.Addr || !strings.Contains(outcomes(all), "failed port") {
		t.Errorf("the mount target in use, %v, is not told to be dead: %s", before.Current, outcomes(all))
	}
	if f := finding(t, all, "write test"); f.Outcome != doctor.OK {
		t.Errorf("%+v", f)
	}
	after := h.Overview().FileSystems[0]
	if after.Current != before.Current || len(after.Recent) != 0 {
		t.Errorf("it moved: %+v", after.Recent)
	}
}

// While the mount target in use does not answer and nothing is mounted, a mount would have it
// left: that is for those who mount.
func TestDoctorMountsNotFromWhatDoesNotAnswer(t *testing.T) {
	k := &faults{export: t.TempDir()}
	a, b := proxytest.Serve(t, proxytest.Echo), nfsServer(t)
	h := newHost(t, "", func(o *driver.Options) {
		onTargets("direct", b, a.Addr)(o)
		o.Kernel, k.refuses = k, syscall.EIO
	})
	eventually(t, "a mount was tried", func() bool {
		return len(h.Overview().FileSystems[0].Targets) == 2 && h.Overview().FileSystems[0].Trouble != ""
	})
	a.Stop()
	all := examined(h)
	if f := finding(t, all, "access"); f.Outcome != doctor.Skipped || !strings.Contains(f.Found, "port b="+a.Addr.String()) {
		t.Errorf("%+v", f)
	}
	if got := h.Overview().FileSystems[0]; got.Current.Addr != a.Addr {
		t.Errorf("it moved to %v", got.Current)
	}
}

// AWS and DNS hang: each question has its time, and what can be asked is asked.
func TestDoctorWhileAWSHangs(t *testing.T) {
	bubbleOn(t, func(o *driver.Options) {
		o.FileSystem = filesystem.Spec{Kind: filesystem.EFS, ID: fsID, Port: filesystem.NFSPort, Export: "/"}
		o.Cloud, o.Volume.IAM, o.Volume.TLS = &aws{hangs: true, down: errors.New("AWS is down")}, true, true
	}, func(t *testing.T, h *testHost) {
		var all []doctor.Finding
		long := took(func() { all = examined(h) })
		const want = "ok settings, ok kernel NFS, failed region and zone, failed mount targets, skipped DNS, failed identity, skipped access, skipped catalogue, warning clock, skipped write test"
		if got := outcomes(all); got != want {
			t.Errorf("got  %s\nwant %s\n%+v", got, want, all)
		}
		if long > time.Minute {
			t.Errorf("it took %v", long)
		}
	})
}

func TestDoctorOfADeadFileSystem(t *testing.T) {
	bubble(t, func(t *testing.T, _ *faults, h *testHost) {
		h.create("data")
		revive := h.die()
		all := examined(h)
		revive()
		const want = "ok settings, ok kernel NFS, failed access, skipped catalogue, skipped write test"
		if got := outcomes(all); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if f := finding(t, all, "access"); f.Took > 13*time.Second || !strings.Contains(f.Why, "does not answer") {
			t.Errorf("%+v", f)
		}
	})
}

// Whoever asked may go away, and the driver may close: then it ends.
func TestDoctorEnds(t *testing.T) {
	bubbleOn(t, func(o *driver.Options) {
		o.FileSystem = filesystem.Spec{Kind: filesystem.EFS, ID: fsID, Port: filesystem.NFSPort, Export: "/"}
		o.Cloud = &aws{hangs: true, down: errors.New("AWS is down")}
	}, func(t *testing.T, h *testHost) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if long := took(func() { h.Doctor(ctx, func(doctor.Finding) {}) }); long > 2*time.Second {
			t.Errorf("after its asker was gone it took %v", long)
		}
		h.behind(func() { h.Doctor(context.Background(), func(doctor.Finding) {}) })
		synctest.Wait()
		if long := took(h.stop); long > 3*time.Second {
			t.Errorf("the driver took %v to close", long)
		}
		h.start()
	})
}

func TestExamineKernelNeedsNoDriver(t *testing.T) {
	var all []doctor.Finding
	driver.ExamineKernel(t.Context(), &doctor.Runner{Report: func(f doctor.Finding) { all = append(all, f) }, Go: func(f func()) { f() }})
	if len(all) != 1 || all[0].Check != "kernel NFS" || !strings.Contains(all[0].Found, "Linux ") {
		t.Errorf("%+v", all)
	}
}

func TestEvidenceHasStateAndNoSecrets(t *testing.T) {
	e := newEFSHost(t, func(o *driver.Options) { o.Volume.IAM = true })
	e.create("data")
	e.mount("data", "1")
	key, err := os.ReadFile(filepath.Join(e.options.Data, "state/key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := os.ReadFile(filepath.Join(e.options.Data, "state/host-id"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, f := range driver.Evidence(e.options.Data) {
		names[f.Name] = f.Content
		for _, secret := range []string{string(key[40:80]), string(id), someSecret} {
			if strings.Contains(f.Content, secret) {
				t.Errorf("%s has a secret", f.Name)
			}
		}
	}
	for name, has := range map[string]string{"state-volumes.txt": `"data"`, "state-mounts.txt": `"1"`, "state-relays.txt": fsID, "kernel.txt": "Linux ", "mounts.txt": "", "state-targets.txt": ""} {
		if content, ok := names[name]; !ok || !strings.Contains(content, has) {
			t.Errorf("%s: %q", name, content)
		}
	}
	for _, f := range driver.Evidence(t.TempDir()) {
		if f.Name == "state-volumes.txt" && !strings.Contains(f.Content, "no such file") {
			t.Errorf("it does not say that it is not there: %q", f.Content)
		}
	}
}
