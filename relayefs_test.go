package main

import (
	"crypto/tls"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
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
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Raw()}), 0o600); err != nil {
		t.Fatal(err)
	}
	p := launch(t, `exec "$@"`, nil, []string{"AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY=not-to-be-shown"},
		"relay", "--listen=127.0.0.1:0", "--allow=127.0.0.0/8", "--target=a="+target.Addr.String(), "--data="+dir,
		"--filesystem="+id, "--iam", "--access-point="+point, "--region=eu-west-1", "--ca-file="+ca)
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
}
