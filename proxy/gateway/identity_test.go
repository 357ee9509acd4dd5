package gateway_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/gateway"
)

func TestCertificateFilesAreRefusedAtTheStart(t *testing.T) {
	a := newAuthority(t)
	good, other := a.issue(t, "good", nil), a.issue(t, "other", nil)
	empty := a.dir + "/empty"
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	issue := func(name string, change func(*x509.Certificate)) gateway.Files { return a.issue(t, name, change) }
	for _, row := range []struct {
		name  string
		files gateway.Files
		says  string // "": they are not refused
	}{
		{"not, if they are good", good, ""},
		{"if the key is another's", gateway.Files{Cert: good.Cert, Key: other.Key, CA: good.CA}, "private key does not match public key"},
		{"if a file is missing", gateway.Files{Cert: good.Cert + "x", Key: good.Key, CA: good.CA}, "good.pemx"},
		{"if the authority's is missing", gateway.Files{Cert: good.Cert, Key: good.Key, CA: "/nowhere/ca"}, "the peer's authority: open /nowhere/ca"},
		{"if the authority's holds none", gateway.Files{Cert: good.Cert, Key: good.Key, CA: empty}, "has no certificate"},
		{"if a file is empty", gateway.Files{Cert: empty, Key: good.Key, CA: good.CA}, "certificate " + empty},
		{"if it has expired", issue("old", func(x *x509.Certificate) { x.NotAfter = time.Now().Add(-time.Minute) }), "it has expired on"},
		{"if it is for later", issue("new", func(x *x509.Certificate) { x.NotBefore = time.Now().Add(time.Hour) }), "look at this machine's clock"},
		{"if it is for servers only", issue("server", func(x *x509.Certificate) { x.ExtKeyUsage = x.ExtKeyUsage[:1] }), "not for clients"},
		{"if it is for clients only", issue("client", func(x *x509.Certificate) { x.ExtKeyUsage = x.ExtKeyUsage[1:] }), "not for servers"},
		{"not, if it says nothing about its use", issue("any", func(x *x509.Certificate) { x.ExtKeyUsage = nil }), ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := gateway.NewIdentity(row.files, "", gateway.Listens|gateway.Connects, logger(&lines{}))
			if (err == nil) != (row.says == "") || err != nil && (!strings.Contains(err.Error(), row.says) || strings.Contains(err.Error(), "\n")) {
				t.Errorf("%v, want %q", err, row.says)
			}
		})
	}
}

func TestANewCertificateIsTakenWithoutAWordToLiveConnections(t *testing.T) {
	c := newCouple(t)
	client := dial(t, c.near.plain)
	talk(t, client, "hello")
	before := c.far.Status().Gateway.Certificate.NotAfter
	later := time.Now().Add(25 * 24 * time.Hour)
	c.authority.issue(t, "far", func(x *x509.Certificate) { x.NotAfter = later })
	c.news.expect(t, "valid until")
	if after := c.far.Status().Gateway.Certificate.NotAfter; !after.After(before) {
		t.Errorf("it was valid until %s and is until %s", before, after)
	}
	talk(t, client, "undisturbed")
	talk(t, dial(t, c.near.plain), "a new one")
}

func TestFilesAreReadAgainAlsoIfTheirTimeAndSizeAreTheSame(t *testing.T) {
	c := newCouple(t)
	before, err := os.Stat(c.farFiles.CA)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(c.farFiles.CA)
	if err != nil {
		t.Fatal(err)
	}
	other := c.farFiles.CA + ".copy" // as cp -p or an archive leaves it
	if err := os.WriteFile(other, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(other, before.ModTime(), before.ModTime()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(other, c.farFiles.CA); err != nil {
		t.Fatal(err)
	}
	c.news.expect(t, "valid until")
}

func TestABadNewCertificateLeavesTheOldInUseUntilAGoodOneComes(t *testing.T) {
	c := newCouple(t)
	if err := os.WriteFile(c.farFiles.Cert, []byte("half of a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.news.expect(t, "the new certificate is not used, the old one is: certificate "+c.farFiles.Cert)
	talk(t, dial(t, c.near.plain), "hello")
	status := c.far.Status()
	if status.Healthy() || !strings.Contains(strings.Join(status.Gateway.Trouble, "\n"), "newer certificate files are not used") {
		t.Errorf("the status says %q", status.Gateway.Trouble)
	}
	if err := c.far.Reload(); err == nil {
		t.Error("Reload tells of no trouble")
	}
	c.authority.issue(t, "far", nil)
	c.news.expect(t, "valid until")
	eventually(t, "the trouble ends", func() bool { return c.far.Status().Healthy() })
}

func TestWhoComesAfterAnAuthorityWasReplacedIsJudgedByTheNewOne(t *testing.T) {
	c := newCouple(t)
	client := dial(t, c.near.plain)
	talk(t, client, "hello")
	certificate, err := tls.LoadX509KeyPair(c.nearFiles.Cert, c.nearFiles.Key)
	if err != nil {
		t.Fatal(err)
	}
	// It has a ticket from before.
	config := &tls.Config{
		InsecureSkipVerify: true, Certificates: []tls.Certificate{certificate},
		ServerName: "far", ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}
	for range 2 {
		if err := stranger(t, c.far.peer, config); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(newAuthority(t).ca())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.farFiles.CA, content, 0o600); err != nil {
		t.Fatal(err)
	}
	c.news.expect(t, "valid until")
	if err := stranger(t, c.far.peer, config); err == nil {
		t.Error("the old authority's certificate is still believed")
	}
	talk(t, client, "undisturbed")
}

func TestTheStatusWarnsOfACertificateThatExpiresSoon(t *testing.T) {
	target, a := serve(t, "a"), newAuthority(t)
	files := a.issue(t, "soon", func(x *x509.Certificate) { x.NotAfter = time.Now().Add(6 * 24 * time.Hour) })
	w := start(t, gateway.Options{Targets: []proxy.Target{target.Target}, Identity: identity(t, files, "", &lines{})})
	if trouble := w.Status().Gateway.Trouble; len(trouble) != 1 || !strings.Contains(trouble[0], "expires on") {
		t.Errorf("%q", trouble)
	}
}

// benchmarkPair sends there and back, by four TCP connections and twice TLS.
func benchmarkPair(b *testing.B, size int) {
	target, a := serve(b, "a"), newAuthority(b)
	far := start(b, gateway.Options{Targets: []proxy.Target{target.Target}, Identity: identity(b, a.issue(b, "far", nil), "", &lines{})})
	near := start(b, gateway.Options{
		Targets: []proxy.Target{{Addr: far.peer}}, Peers: true,
		Identity: identity(b, a.issue(b, "near", nil), "far", &lines{}),
	})
	client := dial(b, near.plain)
	talk(b, client, "hello")
	data, back := bytes.Repeat([]byte("NFS "), size/4), make([]byte, size)
	b.SetBytes(2 * int64(size))
	for b.Loop() {
		go func() { _, _ = client.Write(data) }()
		if _, err := io.ReadFull(client, back); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPairLarge(b *testing.B) { benchmarkPair(b, 1<<20) }
func BenchmarkPairSmall(b *testing.B) { benchmarkPair(b, 200) }
