//go:build integration

package integration

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/efs"
	"github.com/aws/aws-sdk-go-v2/service/efs/types"

	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

func command(t *testing.T, words ...string) *exec.Cmd {
	t.Helper()
	return exec.CommandContext(t.Context(), words[0], words[1:]...)
}

// TestEFS is a host in AWS. Its parts follow each other on one host.
func TestEFS(t *testing.T) {
	apart(t, "host-e", processors)
	s := newEFSSite(t)
	s.install(nil)
	s.prepare()
	for _, part := range []struct {
		name string
		test func(*testing.T)
	}{
		{"with an id and nothing else, TLS, IAM and an access point", s.testProtected},
		{"the certificate, decoded by others", s.testCertificate},
		{"nothing can be read on the way", s.testWire},
		{"a thousand mounts ask AWS nothing", s.testQuiet},
		{"a role, and an access point of the volume's own", s.testOwn},
		{"an exclusive volume is taken", s.testExclusive},
		{"credentials that end under a mounted volume", s.testCredentials},
		{"mount targets that are not to be believed", s.testUnbelievable},
		{"doctor says what is wrong", s.testDoctor},
		{"AWS is down, and DNS tells", s.testDown},
		{"a policy that asks for TLS and IAM", s.testPolicy},
		{"no metadata", s.testNoMetadata},
		{"secrets are nowhere", s.testSecrets},
	} {
		if !s.part(part.name, part.test) && part.name == "with an id and nothing else, TLS, IAM and an access point" {
			return
		}
	}
}

// part runs a part of the test in progress.
func (s *efsSite) part(name string, test func(*testing.T)) (ok bool) {
	return s.t.Run(name, func(t *testing.T) {
		outer := s.t
		s.t = t
		defer func() { s.t = outer }()
		test(t)
	})
}

// point makes an access point of a directory, and a server with that root.
func (s *efsSite) point(id, dir string, last byte) {
	s.t.Helper()
	server, err := hosts(s.t).AddServer(s.t.Context(), lab.ServerOptions{
		Name: fmt.Sprintf("point-%d", last), Of: s.server, Root: dir, Port: backendPort, Addresses: lab.Addresses(last),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.points[id] = fmt.Sprintf("%s:%d", server.Addr("a"), backendPort)
	s.rules(efsRules{AccessPoints: s.points})
}

func (s *efsSite) testProtected(t *testing.T) {
	if err := os.MkdirAll(s.server.Dir("/apps/web"), 0o755); err != nil {
		t.Fatal(err)
	}
	made, err := s.api.CreateAccessPoint(t.Context(), &efs.CreateAccessPointInput{
		ClientToken: aws.String("test"), FileSystemId: &s.id, RootDirectory: &types.RootDirectory{Path: aws.String("/apps/web")},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.point(*made.AccessPointId, "/apps/web", 71)
	s.mustCreate("web", "filesystem="+s.id, "tls=on", "iam=on", "accesspoint="+*made.AccessPointId)
	s.in("web", "echo rows >/data/file && sync")
	if got, err := os.ReadFile(s.server.Dir("/apps/web/file")); err != nil || string(got) != "rows\n" {
		t.Errorf("the access point's directory has %q, %v", got, err)
	}
	for field, want := range map[string]string{
		"transport": "NFSv4.1, relay, TLS, IAM", "access_point": *made.AccessPointId, "zone": awsRegion + "b",
		"mount_target": s.targets[awsRegion+"b"].String() + ":2049", "mount_targets_from": "EFS API",
	} {
		if got := s.status("web", field); got != want {
			t.Errorf("%s is %q, want %q", field, got, want)
		}
	}
	run(t, s.h, "docker volume rm web")
	if _, err := os.Stat(s.server.Dir("/apps/web/file")); err != nil {
		t.Errorf("what the plugin did not make was removed: %v", err)
	}
}

// verifySignature makes the signature anew, in another language and by nobody's code of ours.
const verifySignature = `
import hashlib, hmac, sys, urllib.parse
key, secret, token, when, region, fs, sha1 = sys.argv[1:]
day = when[:8]
scope = "/".join((day, region, "elasticfilesystem", "aws4_request"))
query = {"Action": "Connect", "PublicKeyHash": sha1, "X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Credential": key + "/" + scope,
         "X-Amz-Date": when, "X-Amz-Expires": "86400", "X-Amz-SignedHeaders": "host", "X-Amz-Security-Token": token}
request = "\n".join(("GET", "/", urllib.parse.urlencode(sorted(query.items())), "host:" + fs, "host", hashlib.sha256(b"").hexdigest()))
text = "\n".join(("AWS4-HMAC-SHA256", when, scope, hashlib.sha256(request.encode()).hexdigest()))
k = ("AWS4" + secret).encode()
for part in scope.split("/"):
    k = hmac.new(k, part.encode(), hashlib.sha256).digest()
print(hmac.new(k, text.encode(), hashlib.sha256).hexdigest())
`

func (s *efsSite) testCertificate(t *testing.T) {
	var pem []byte
	s.wasShown(0, func(text string) bool {
		if strings.Contains(text, "4843.7.1") && strings.Contains(text, "4843.7.2") {
			pem = []byte(text[strings.Index(text, "-----BEGIN"):])
		}
		return pem != nil
	})
	if pem == nil {
		t.Fatal("no certificate with an access point and an identity was shown")
	}
	text := s.openssl(pem, "x509", "-noout", "-text", "-nameopt", "utf8,sep_comma_plus")
	for _, want := range []string{"Version: 3", "Signature Algorithm: sha256WithRSAEncryption", "Public-Key: (3072 bit)", "1.3.6.1.4.1.4843.7.1", "1.3.6.1.4.1.4843.7.2", "1.3.6.1.4.1.4843.7.3", "1.3.6.1.4.1.4843.7.4", s.id, "ASIAFIRST"} {
		if !strings.Contains(text, want) {
			t.Errorf("the certificate has no %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "critical") || strings.Contains(text, "Basic Constraints") || strings.Contains(text, "secret-of") {
		t.Errorf("the certificate has what the mount helper's has not:\n%s", text)
	}
	der := s.openssl(pem, "x509", "-outform", "DER")
	parsed := s.openssl([]byte(der), "asn1parse", "-inform", "DER")
	inner := regexp.MustCompile(`1\.3\.6\.1\.4\.1\.4843\.7\.2\n.*\[HEX DUMP\]:([0-9A-F]+)`).FindStringSubmatch(parsed)
	if inner == nil {
		t.Fatalf("no proof:\n%s", parsed)
	}
	proof, err := hex.DecodeString(inner[1])
	if err != nil {
		t.Fatal(err)
	}
	fields := s.openssl(proof, "asn1parse", "-inform", "DER")
	when := regexp.MustCompile(`UTCTIME\s+:(\d+)Z`).FindStringSubmatch(fields)
	strings64 := regexp.MustCompile(`OCTET STRING\s+:([0-9a-f]{64})`).FindStringSubmatch(fields)
	if when == nil || strings64 == nil {
		t.Fatalf("the proof is\n%s", fields)
	}
	public := s.openssl([]byte(s.openssl(pem, "x509", "-noout", "-pubkey")), "rsa", "-pubin", "-RSAPublicKey_out", "-outform", "DER")
	hash := strings.Fields(s.openssl([]byte(public), "dgst", "-sha1", "-r"))[0]
	out, err := command(t, "chroot", s.peers, "python3", "-c", verifySignature, "ASIAFIRST", "secret-of-ASIAFIRST", "token-of-ASIAFIRST",
		"20"+when[1][:6]+"T"+when[1][6:]+"Z", awsRegion, s.id, hash).Output()
	if err != nil || strings.TrimSpace(string(out)) != strings64[1] {
		t.Errorf("the signature is %s, by others %s, %v", strings64[1], out, err)
	}
}

// testWire reads along on the way to the mount targets.
func (s *efsSite) testWire(t *testing.T) {
	s.mustCreate("wire", "tls=on")
	s.mustCreate("open", "tls=off")
	for _, row := range []struct {
		volume string
		seen   bool
	}{{"open", true}, {"wire", false}} {
		end := capture(t, "efs")
		s.in(row.volume, "echo "+efsMarker+" >/data/file && sync")
		packets := end()
		if len(packets) == 0 {
			t.Fatalf("%s: nothing was captured", row.volume)
		}
		if got := strings.Contains(packets, efsMarker); got != row.seen {
			t.Errorf("%s: it can be read on the way: %v", row.volume, got)
		}
		if row.volume == "wire" && !strings.Contains(packets, "\x17\x03\x03") {
			t.Error("no TLS record was captured")
		}
	}
}

// testQuiet mounts as Docker does, at the plugin's socket.
func (s *efsSite) testQuiet(t *testing.T) {
	s.set("EFS_IAM=on")
	s.mustCreate("quiet", "iam=on")
	socket := "/run/docker/plugins/" + strings.TrimSpace(run(t, s.h, "docker plugin inspect -f '{{.Id}}' "+efsPlugin)) + "/efs.sock"
	docker := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return s.h.Dial(ctx, "unix", socket)
	}}}
	defer docker.CloseIdleConnections()
	call := func(name, id string) {
		t.Helper()
		response, err := docker.Post("http://plugin/VolumeDriver."+name, "application/json", strings.NewReader(fmt.Sprintf(`{"Name":"quiet","ID":%q}`, id)))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if body, err := io.ReadAll(response.Body); err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v", name, body, err)
		}
	}
	call("Mount", "first")
	before := s.calls()
	for i := range 1000 {
		id := fmt.Sprint(i)
		call("Mount", id)
		call("Unmount", id)
	}
	// The mount targets are looked up every five minutes, whoever mounts.
	if n := s.calls() - before; n > 1 {
		t.Errorf("AWS was asked %d times", n)
	}
	call("Unmount", "first")
	s.set("EFS_IAM=off")
	run(t, s.h, "docker volume rm quiet")
}

func (s *efsSite) testOwn(t *testing.T) {
	const role = "arn:aws:iam::123456789012:role/volumes"
	before := len(s.shown())
	for range 2 {
		s.mustCreate("own", "accesspoint=create", "uid=70", "gid=70", "mode=0700", "role="+role)
	}
	made, count := s.accessPoint("/own")
	if count != 2 {
		t.Errorf("%d access points", count)
	}
	if aws.ToInt64(made.PosixUser.Uid) != 70 || aws.ToInt64(made.PosixUser.Gid) != 70 {
		t.Errorf("access point %+v", made)
	}
	s.point(*made.AccessPointId, "/own", 72)
	s.in("own", "echo rows >/data/file && sync")
	if _, err := os.Stat(s.server.Dir("/own/file")); err != nil {
		t.Error(err)
	}
	if !s.wasShown(before, func(text string) bool {
		return strings.Contains(text, *made.AccessPointId) && strings.Contains(text, "ASIA") && !strings.Contains(text, "ASIAFIRST")
	}) {
		t.Error("no certificate of the role was shown")
	}
	s.mustRemove("own")
	all, err := s.api.DescribeAccessPoints(t.Context(), &efs.DescribeAccessPointsInput{FileSystemId: &s.id})
	if err != nil || len(all.AccessPoints) != 1 {
		t.Errorf("access points after the removal: %+v, %v", all.AccessPoints, err)
	}
	entries, err := filepath.Glob(s.server.Dir("/.docker-volume-efs/trash/*-own/data/file"))
	if err != nil || len(entries) != 1 {
		t.Errorf("in the trash: %v, %v", entries, err)
	}
}

// testCredentials gives the host other credentials while a container writes, and has it
// connect anew.
func (s *efsSite) testCredentials(t *testing.T) {
	// Shorter than AWS's ever are: where less than 15 minutes are left, the SDK keeps to
	// the very end.
	const lasts = time.Minute
	end := time.Now().Add(lasts)
	s.role("ASIASHORT", lasts)
	s.set("EFS_IAM=on")
	s.mustCreate("long", "iam=on")
	run(t, s.h, "docker run -d --name long --network none -v long:/data busybox sh -c 'while sleep 0.2; do date +%s >>/data/log; done'")
	if !s.wasShown(0, func(text string) bool { return strings.Contains(text, "ASIASHORT") }) {
		t.Error("the first credentials were not shown")
	}
	s.role("ASIALATER", time.Hour)
	time.Sleep(time.Until(end) + time.Second)
	before := len(s.shown())
	s.front.Stop()
	time.Sleep(time.Second)
	s.startFrontAgain()
	s.eventually(30*time.Second, "the volume's connection is made with the new credentials", func() bool {
		return s.wasShown(before, func(text string) bool { return strings.Contains(text, "ASIALATER") })
	})
	lines := func() string { return run(t, s.h, "docker exec long sh -c 'wc -l </data/log'") }
	was := lines()
	s.eventually(20*time.Second, "the container writes", func() bool { return lines() != was })
	run(t, s.h, "docker rm -f long")
}

func (s *efsSite) testUnbelievable(t *testing.T) {
	good, err := os.ReadFile(filepath.Join(s.dir, "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	goodKey, err := os.ReadFile(filepath.Join(s.dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name, says string
		change     func()
	}{
		{"another host's name", "not the file system's mount target", func() { s.certificate("fs-00000000.efs.eu-west-1.amazonaws.com", time.Now().Add(time.Hour)); s.trust() }},
		{"an authority that nobody knows", "EFS_CA_FILE", func() { s.certificate(s.name(), time.Now().Add(time.Hour)) }},
		{"a certificate that has expired", "clock", func() { s.certificate(s.name(), time.Now().Add(-time.Hour)); s.trust() }},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.change()
			s.set("EFS_IAM=off", "EFS_TLS=on")
			if said := s.create("never", "tls=on"); !strings.Contains(said, row.says) {
				t.Errorf("Docker says %q, want %q in it", said, row.says)
			}
		})
	}
	s.write("cert.pem", string(good))
	s.write("key.pem", string(goodKey))
	s.trust()
	s.set("EFS_TLS=on")
	s.mustCreate("again")
	run(t, s.h, "docker volume rm -f never again")
}

// testDown has AWS's services gone: what is known is on disk, and DNS knows the rest.
func (s *efsSite) testDown(t *testing.T) {
	s.moto.Stop()
	s.set("EFS_TLS=on")
	s.mustCreate("down")
	s.in("down", "echo rows >/data/file")
	run(t, s.h, "docker volume rm down; d="+s.data()+"; docker plugin disable -f "+efsPlugin+"; rm -f $d/state/targets* && docker plugin enable "+efsPlugin)
	s.mustCreate("dns")
	s.in("dns", "echo rows >/data/file")
	if got := s.status("dns", "mount_targets_from"); !strings.HasPrefix(got, "DNS: ") {
		t.Errorf("mount targets from %q", got)
	}
	if got := s.status("dns", "zone"); got != awsRegion+"b" {
		t.Errorf("zone %q", got)
	}
	if status := run(t, s.h, "d="+s.data()+"; $d/../rootfs/docker-volume-efs status --data $d || true"); !strings.Contains(status, awsRegion+"c") {
		t.Errorf("DNS's zones are not all known: %s", status)
	}
	run(t, s.h, "docker volume rm dns")
}

func (s *efsSite) testPolicy(t *testing.T) {
	s.rules(efsRules{RefusePlain: true, RequireIAM: true, AccessPoints: s.points})
	s.set("EFS_TLS=off", "EFS_IAM=off")
	for _, options := range [][]string{{"tls=off"}, {"tls=on"}} {
		if said := s.create("refused", options...); !strings.Contains(said, "refuse") && !strings.Contains(said, "closed the connection") {
			t.Errorf("%v: Docker says %q", options, said)
		}
	}
	s.set("EFS_IAM=on")
	s.mustCreate("let-in")
	s.in("let-in", "echo rows >/data/file")
	if said := s.create("plain", "iam=off", "tls=off"); !strings.Contains(said, "plain") {
		t.Errorf("a plain volume: %q", said)
	}
	s.rules(efsRules{RefusePlain: true, RequireIAM: true, Denied: []string{"ASIA"}, AccessPoints: s.points})
	s.set("EFS_IAM=on")
	if said := s.create("denied"); !strings.Contains(said, "certificate is refused") || !strings.Contains(said, "policy") {
		t.Errorf("a denied identity: Docker says %q", said)
	}
	s.rules(efsRules{AccessPoints: s.points})
	run(t, s.h, "docker volume rm -f let-in plain denied refused")
}

func (s *efsSite) testNoMetadata(t *testing.T) {
	s.write("metadata/hang", "")
	defer os.Remove(filepath.Join(s.dir, "metadata/hang"))
	s.set("EFS_IAM=off", "EFS_TLS=on", "AWS_REGION="+awsRegion)
	s.mustCreate("alone")
	s.in("alone", "echo rows >/data/file")
	if got := s.status("alone", "transport"); got != "NFSv4.1, relay, TLS" {
		t.Errorf("transport %q", got)
	}
	run(t, s.h, "docker volume rm alone")
}

// testSecrets looks for what only the host and AWS may know wherever the plugin writes.
func (s *efsSite) testSecrets(t *testing.T) {
	const words = "secret-of-\\|token-of-"
	data := s.data()
	if out := run(t, s.h, "for p in $(pidof docker-volume-efs); do tr '\\0' '\\n' </proc/$p/environ; done"); !strings.Contains(out, "EFS_FILESYSTEM="+s.id) || strings.Contains(out, "secret-of-") {
		t.Errorf("the environment of the plugin's processes: %s", out)
	}
	out := run(t, s.h, "grep -rl '"+words+"' "+data+" 2>/dev/null | grep -v volumes/; grep -c '"+words+"' /run/dockerd.log; docker volume ls -q | xargs -r docker volume inspect | grep '"+words+"'; true")
	if strings.TrimSpace(out) != "0" {
		t.Errorf("secrets are in: %s", out)
	}
	catalogue := command(t, "grep", "-rl", "secret-of-", s.server.Dir("/.docker-volume-efs"))
	if out, err := catalogue.Output(); err == nil {
		t.Errorf("secrets are in the catalogue: %s", out)
	}
}
