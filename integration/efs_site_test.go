//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/efs"

	"github.com/docker-volume-efs/docker-volume-efs/integration/bundle"
	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

// Where AWS is in the hosts' network. The subnets hold the mount targets.
const (
	awsPort      = 5000
	awsRegion    = "eu-west-1"
	backendPort  = 3049
	metadataHost = "169.254.169.254"
	efsPlugin    = "efs"
	efsMarker    = "what-nobody-on-the-way-may-read"
)

// efsSite is a host in AWS: an EFS file system with a mount target in each of three zones, AWS's
// services, DNS and instance metadata.
type efsSite struct {
	t       *testing.T
	h       *lab.Host
	server  *lab.Server
	aws     *lab.Site
	moto    *lab.Program
	dns     *lab.Program
	front   *lab.Program
	api     *efs.Client
	id      string // of the file system
	peers   string // the tree with AWS's programs
	dir     string // certificates, rules, what is recorded
	targets map[string]netip.Addr
	points  map[string]string // servers of access points
}

func newEFSSite(t *testing.T) *efsSite {
	t.Helper()
	l := hosts(t)
	peers, err := lab.PreparePeers(t.Context(), lab.Suites()[0], os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	s := &efsSite{t: t, h: l.Host("host-e"), peers: peers, dir: t.TempDir(), targets: map[string]netip.Addr{}, points: map[string]string{}}
	s.server, err = l.AddServer(t.Context(), lab.ServerOptions{Name: "efs", Addresses: lab.Addresses(69, 85, 37), Port: backendPort})
	if err != nil {
		t.Fatal(err)
	}
	s.aws, err = l.AddSite(t.Context(), "aws", lab.Addresses(60)[0], netip.MustParseAddr(metadataHost))
	if err != nil {
		t.Fatal(err)
	}
	for i, zone := range []string{"a", "b", "c"} {
		s.targets[awsRegion+zone] = lab.Addresses(69, 85, 37)[i]
	}
	s.startMoto()
	s.makeFileSystem()
	s.startMetadata()
	s.startDNS()
	s.startFront()
	t.Cleanup(s.remove)
	return s
}

func (s *efsSite) endpoint() string {
	return fmt.Sprintf("http://%s:%d", lab.Addresses(60)[0], awsPort)
}

func (s *efsSite) run(site *lab.Site, name string, words ...string) *lab.Program {
	s.t.Helper()
	p, err := site.Run(name, words...)
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

func (s *efsSite) startMoto() {
	s.t.Helper()
	s.moto = s.run(s.aws, "moto", "env", "PYTHONDONTWRITEBYTECODE=1", "chroot", s.peers, "moto_server", "-H", "0.0.0.0", "-p", fmt.Sprint(awsPort))
	s.eventually(time.Minute, "moto answers", func() bool {
		response, err := http.Get(s.endpoint() + "/moto-api/")
		if err == nil {
			_ = response.Body.Close()
		}
		return err == nil
	})
	s.api = efs.New(efs.Options{
		Region: awsRegion, BaseEndpoint: aws.String(s.endpoint()), Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
	})
}

func (s *efsSite) eventually(limit time.Duration, what string, is func() bool) {
	s.t.Helper()
	for begun := time.Now(); !is(); time.Sleep(200 * time.Millisecond) {
		if time.Since(begun) > limit {
			s.t.Fatalf("after %v not true: %s", limit, what)
		}
	}
}

// ec2 asks the EC2 API and returns the first id of a kind in its answer.
func (s *efsSite) ec2(kind string, pairs ...string) string {
	s.t.Helper()
	form := url.Values{"Version": {"2016-11-15"}}
	for i := 0; i < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.endpoint(), strings.NewReader(form.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=test/20261121/"+awsRegion+"/ec2/aws4_request, SignedHeaders=host, Signature=0")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	found := regexp.MustCompile(kind + `-[0-9a-f]+`).Find(body)
	if err != nil || found == nil {
		s.t.Fatalf("%s: %s, %v", pairs[1], body, err)
	}
	return string(found)
}

func (s *efsSite) makeFileSystem() {
	s.t.Helper()
	made, err := s.api.CreateFileSystem(s.t.Context(), &efs.CreateFileSystemInput{CreationToken: aws.String("test")})
	if err != nil {
		s.t.Fatal(err)
	}
	s.id = aws.ToString(made.FileSystemId)
	network := s.ec2("vpc", "Action", "CreateVpc", "CidrBlock", "10.77.0.0/24")
	for zone, addr := range s.targets {
		block := netip.PrefixFrom(addr, 28).Masked().String()
		subnet := s.ec2("subnet", "Action", "CreateSubnet", "VpcId", network, "CidrBlock", block, "AvailabilityZone", zone)
		_, err := s.api.CreateMountTarget(s.t.Context(), &efs.CreateMountTargetInput{FileSystemId: &s.id, SubnetId: &subnet, IpAddress: aws.String(addr.String())})
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *efsSite) write(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// startMetadata puts the host into zone b, with a role.
func (s *efsSite) startMetadata() {
	s.t.Helper()
	s.write("metadata/placement/region", awsRegion)
	s.write("metadata/placement/availability-zone", awsRegion+"b")
	s.write("metadata/placement/availability-zone-id", "euw1-az1")
	s.role("ASIAFIRST", time.Hour)
	p := s.run(s.aws, "metadata", "../build/lab/metadata", "-listen", metadataHost+":80", "-dir", filepath.Join(s.dir, "metadata"))
	s.eventually(moment, "metadata listens", func() bool { return strings.Contains(p.Log(), "listening") })
	run(s.t, s.h, "ip route replace "+metadataHost+" dev eth0; echo nameserver "+lab.Addresses(60)[0].String()+" >/etc/resolv.conf")
}

// role sets the credentials of the instance's role.
func (s *efsSite) role(keyID string, lasts time.Duration) {
	s.t.Helper()
	s.write("metadata/iam/security-credentials/host", fmt.Sprintf(
		`{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":%q,"SecretAccessKey":"secret-of-%s","Token":"token-of-%s","LastUpdated":%q,"Expiration":%q}`,
		keyID, keyID, keyID, time.Now().UTC().Format(time.RFC3339), time.Now().Add(lasts).UTC().Format(time.RFC3339)))
}

func (s *efsSite) name() string { return s.id + ".efs." + awsRegion + ".amazonaws.com" }

// startDNS knows what the VPC's resolver would.
func (s *efsSite) startDNS() {
	s.t.Helper()
	words := []string{"chroot", s.peers, "dnsmasq", "--no-daemon", "--no-resolv", "--no-hosts", "--user=root", "--listen-address=" + lab.Addresses(60)[0].String(), "--bind-interfaces"}
	for zone, addr := range s.targets {
		words = append(words, "--host-record="+zone+"."+s.name()+","+addr.String())
	}
	words = append(words, "--host-record="+s.name()+","+s.targets[awsRegion+"b"].String())
	s.dns = s.run(s.aws, "dnsmasq", words...)
}

// efsRules are what the mount targets ask of clients.
type efsRules struct {
	RefusePlain  bool              `json:"refuse_plain"`
	RequireIAM   bool              `json:"require_iam"`
	Denied       []string          `json:"denied"`
	AccessPoints map[string]string `json:"access_points"`
}

func (s *efsSite) rules(r efsRules) {
	s.t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write("rules.json", string(text))
}

func (s *efsSite) startFront() {
	s.t.Helper()
	s.certificate(s.name(), time.Now().Add(24*time.Hour))
	s.rules(efsRules{})
	s.startFrontAgain()
}

func (s *efsSite) startFrontAgain() {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Join(s.dir, "shown"), 0o755); err != nil {
		s.t.Fatal(err)
	}
	var listen []string
	for _, addr := range s.targets {
		listen = append(listen, addr.String()+":2049")
	}
	slices.Sort(listen)
	s.front = s.run(s.server.Site, "mounttarget", "../build/lab/mounttarget", "-listen", strings.Join(listen, ","), "-backend", fmt.Sprintf("127.0.0.1:%d", backendPort),
		"-cert", filepath.Join(s.dir, "cert.pem"), "-key", filepath.Join(s.dir, "key.pem"), "-rules", filepath.Join(s.dir, "rules.json"), "-record", filepath.Join(s.dir, "shown"))
	s.eventually(moment, "the mount targets listen", func() bool { return strings.Contains(s.front.Log(), "listening") })
}

// certificate gives the mount targets another one, signed by itself: the plugin believes ca.pem.
func (s *efsSite) certificate(name string, until time.Time) {
	s.t.Helper()
	certificate, key, err := lab.SelfSigned(name, until)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write("cert.pem", string(certificate))
	s.write("key.pem", string(key))
}

// shown are the certificates that the mount targets saw, the latest last.
func (s *efsSite) shown() []string {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.dir, "shown", "*.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	return files
}

// wasShown tells whether, from one on, a certificate was shown whose text is so.
func (s *efsSite) wasShown(from int, is func(text string) bool) bool {
	s.t.Helper()
	for _, file := range s.shown()[from:] {
		pem, err := os.ReadFile(file)
		if err == nil && is(s.openssl(pem, "x509", "-text")) {
			return true
		}
	}
	return false
}

// install installs the plugin; the file of authorities lies in its data directory.
func (s *efsSite) install(settings map[string]string) {
	s.t.Helper()
	if err := bundle.Upload(s.t.Context(), s.h, siteBundle); err != nil {
		s.t.Fatal(err)
	}
	all := map[string]string{
		"EFS_FILESYSTEM": s.id, "EFS_CA_FILE": "/mnt/efs/ca.pem", "AWS_ENDPOINT_URL": s.endpoint(), "EFS_LOG_LEVEL": "debug",
	}
	maps.Copy(all, settings)
	var words []string
	for _, key := range slices.Sorted(maps.Keys(all)) {
		words = append(words, key+"="+all[key])
	}
	run(s.t, s.h, "docker plugin create "+efsPlugin+" /root/plugin && docker plugin set "+efsPlugin+" "+strings.Join(words, " "))
	s.trust()
	run(s.t, s.h, "docker plugin enable "+efsPlugin)
}

// prepare has the plugin make the host's key, mount with TLS once and ask the EFS API for the mount targets.
// For each of them an emulated processor may take longer than anybody waits; the plugin goes on meanwhile.
func (s *efsSite) prepare() {
	s.t.Helper()
	s.mustCreate("prepared", "filesystem="+s.id, "tls=on", "iam=on", "remove=delete")
	s.eventually(5*time.Minute, "a container uses TLS, and the mount targets are those of the EFS API", func() bool {
		said := run(s.t, s.h, "docker run --rm --network none -v prepared:/data busybox echo mounted 2>&1 || true")
		if strings.TrimSpace(said) != "mounted" {
			s.t.Log(said)
			return false
		}
		from := s.status("prepared", "mount_targets_from")
		if from == "EFS API" {
			return true
		}
		s.t.Logf("the mount targets are from %q", from)
		run(s.t, s.h, "docker plugin disable -f "+efsPlugin+" && docker plugin enable "+efsPlugin) // it asks the API again
		return false
	})
	s.mustRemove("prepared")
}

// data is the plugin's data directory on the host.
func (s *efsSite) data() string {
	s.t.Helper()
	return "/var/lib/docker/plugins/" + strings.TrimSpace(run(s.t, s.h, "docker plugin inspect -f '{{.Id}}' "+efsPlugin)) + "/propagated-mount"
}

// trust has the plugin believe the mount targets' certificate of now.
func (s *efsSite) trust() {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "cert.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	data := s.data()
	run(s.t, s.h, "mkdir -p "+data)
	if err := s.h.UploadBytes(s.t.Context(), text, data+"/ca.pem", 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// set changes settings of the installed plugin.
func (s *efsSite) set(settings ...string) {
	s.t.Helper()
	run(s.t, s.h, "docker plugin disable -f "+efsPlugin+" && docker plugin set "+efsPlugin+" "+strings.Join(settings, " ")+" && docker plugin enable "+efsPlugin)
}

// create makes a volume; the result is what Docker says if it fails.
func (s *efsSite) create(name string, options ...string) string {
	s.t.Helper()
	var line strings.Builder
	line.WriteString("docker volume create -d " + efsPlugin)
	for _, o := range options {
		line.WriteString(" -o " + o)
	}
	return run(s.t, s.h, line.String()+" "+name+" 2>&1 || true")
}

// mustCreate makes a volume. On a busy machine a first mount may take longer than a call waits; the plugin
// says so and goes on with it.
func (s *efsSite) mustCreate(name string, options ...string) {
	s.t.Helper()
	var said string
	s.eventually(2*time.Minute, "the file system of "+name+" is mounted", func() bool {
		said = s.create(name, options...)
		return !strings.Contains(said, "the mount is not finished; it is still being tried")
	})
	if strings.TrimSpace(said) != name {
		s.t.Fatalf("create %s %v: %s", name, options, said)
	}
}

// mustRemove removes a volume that may be in use for a moment yet, by another host or by what mounted it first.
func (s *efsSite) mustRemove(name string) {
	s.t.Helper()
	s.eventually(time.Minute, "volume "+name+" is removed", func() bool {
		return strings.TrimSpace(run(s.t, s.h, "docker volume rm "+name+" 2>&1 || true")) == name
	})
}

// in runs a line of shell in a container on the volume.
func (s *efsSite) in(volume, line string) string {
	s.t.Helper()
	return strings.TrimSpace(run(s.t, s.h, fmt.Sprintf("docker run --rm --network none -v %s:/data busybox sh -c %q 2>&1", volume, line)))
}

func (s *efsSite) status(volume, field string) string {
	s.t.Helper()
	engine := socketClient(s.h, "/run/docker.sock")
	defer engine.CloseIdleConnections()
	return volumeStatus(s.t, engine, volume, field)
}

func (s *efsSite) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if s.t.Failed() {
		out, err := s.h.Run(ctx, "grep 'plugin=' /run/dockerd.log | tail -n 60")
		record(s.t, "efs", fmt.Sprint(out, err, "\n", s.front.Log(), "\n", s.moto.Log(), "\n", s.dns.Log()))
	}
	_, err := s.h.Run(ctx, "docker ps -aq | xargs -r docker rm -f >/dev/null; docker volume ls -q | xargs -r docker volume rm -f >/dev/null; docker plugin disable -f "+
		efsPlugin+"; docker plugin rm -f "+efsPlugin+"; : >/etc/resolv.conf; ip route del "+metadataHost)
	if err != nil {
		s.t.Errorf("clean up: %v", err)
	}
	for _, p := range []*lab.Program{s.front, s.dns, s.moto} {
		p.Stop()
	}
}

// calls is how many times AWS was asked.
func (s *efsSite) calls() int { return strings.Count(s.moto.Log(), "HTTP/1.1\"") }

// openssl runs OpenSSL of the tree with AWS's programs.
func (s *efsSite) openssl(input []byte, args ...string) string {
	s.t.Helper()
	command := command(s.t, append([]string{"chroot", s.peers, "openssl"}, args...)...)
	command.Stdin = bytes.NewReader(input)
	out, err := command.Output()
	if err != nil {
		s.t.Fatalf("openssl %v: %v", args, err)
	}
	return string(out)
}
