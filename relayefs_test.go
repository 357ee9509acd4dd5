package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/proxytest"
)

// A gateway with an identity: clients speak plain NFS to it, it speaks TLS to the mount target
// and shows the access point.
func TestRelayShowsEFSWhoItIs(t *testing.T) {
	const id, point = "fs-0123456789abcdef0", "fsap-0123456789abcdef0"
	authority := proxytest.NewAuthority(t)
	var mu sync.Mutex
	var shown []string
	target := proxytest.ServeTLS(t, &tls.Config{
		Certificates: []tls.Certificate{authority.Sign(t, id+".efs.eu-west-1.amazonaws.com", time.Now().Add(time.Hour))},
		ClientAuth:   tls.RequireAnyClientCert,
	}, func(state tls.ConnectionState) {
		mu.Lock()
		defer mu.Unlock()
		shown = append(shown, string(state.PeerCertificates[0].Raw))
	})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Raw()}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name  string
		where []string
	}{
		{"in a region that was given", []string{"--filesystem=" + id, "--region=eu-west-1"}},
		{"in the region of its name", []string{"--filesystem=" + id + ".efs.eu-west-1.amazonaws.com"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			mu.Lock()
			shown = nil
			mu.Unlock()
			dir := t.TempDir()
			env := []string{"AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY=not-to-be-shown", "AWS_EC2_METADATA_DISABLED=true"}
			p := launch(t, `exec "$@"`, nil, env,
				append([]string{
					"relay", "--listen=127.0.0.1:0", "--allow=127.0.0.0/8", "--target=a=" + target.Addr.String(), "--data=" + dir,
					"--iam", "--access-point=" + point, "--ca-file=" + ca,
				}, row.where...)...)
			conn := connect(t, p.addr())
			if _, err := conn.Write([]byte("rows")); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 4)
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != "rows" {
				t.Errorf("%q, %v", got, err)
			}
			mu.Lock()
			defer mu.Unlock()
			all := strings.Join(shown, "")
			if !strings.Contains(all, point) || !strings.Contains(all, "AKIDEXAMPLE") || strings.Contains(all, "not-to-be-shown") {
				t.Errorf("the certificates show %q", all)
			}
			if info, err := os.Stat(filepath.Join(dir, "key.pem")); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the key: %v, %v", info, err)
			}
		})
	}
}

// systemd starts it again after exit status 1 and not after 2. What may be well a moment later
// is 1.
func TestRelayIsStartedAgainForWhatMayPass(t *testing.T) {
	program(t, "openssl")
	dir := t.TempDir()
	recipe(t, dir)
	authority := proxytest.NewAuthority(t)
	file := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := authority.Sign(t, "aws", time.Now().Add(-time.Hour))
	key, err := x509.MarshalPKCS8PrivateKey(past.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	half, err := os.ReadFile(filepath.Join(dir, "aws.pem"))
	if err != nil {
		t.Fatal(err)
	}
	file("half.pem", half[:len(half)/2])
	file("past.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: past.Certificate[0]}))
	file("past.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	file("empty.pem", nil)
	pair := func(cert, key, ca string) string {
		return "--peer-listen=127.0.0.1:0 --cert=" + filepath.Join(dir, cert) + " --key=" + filepath.Join(dir, key) + " --peer-ca=" + filepath.Join(dir, ca)
	}
	for _, row := range []struct{ name, args, says string }{
		{"a certificate that is half written", pair("half.pem", "aws.key", "ca.pem"), "half.pem"},
		{"a certificate that has expired", pair("past.pem", "past.key", "ca.pem"), "it has expired on"},
		{"a key that is not replaced yet", pair("aws.pem", "dc.key", "ca.pem"), "private key does not match"},
		{"an authority that is not written yet", pair("aws.pem", "aws.key", "empty.pem"), "no certificate in PEM"},
		{"Amazon's authorities that are not written yet", "--tls --filesystem=fs-01234567 --region=eu-west-1 --ca-file=" + filepath.Join(dir, "empty.pem"), "no certificate in PEM"},
		{"metadata that do not answer yet", "--tls --filesystem=fs-01234567", "--region: the region is not known"},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, also := range [][]string{nil, {"--check"}} {
				p := launch(t, `exec "$@"`, nil, []string{"AWS_EC2_METADATA_DISABLED=true"},
					slices.Concat([]string{"relay", "--listen=127.0.0.1:0", "--target=a=127.0.0.1:1"}, strings.Fields(row.args), also)...)
				if exit := p.ended(); exit != exitTrouble || !strings.Contains(p.log(), row.says) || strings.Count(p.log(), "\n") != 1 {
					t.Errorf("exit status %d, want %d and one line with %q:\n%s", exit, exitTrouble, row.says, p.log())
				}
			}
		})
	}
}
