package efs_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is far beyond what anything on loopback takes.
const patience = 20 * time.Second

const serverName = "fs-0123456789abcdef0.efs.eu-west-1.amazonaws.com"

// hostKey is one for all tests: it takes a while to make.
var hostKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 3072) })

// target is a TLS mount target that keeps what clients showed it.
type target struct {
	*proxytest.Server

	mu    sync.Mutex // guards the following field
	shown []tls.ConnectionState
}

func serveTLS(t *testing.T, config *tls.Config) *target {
	t.Helper()
	served := &target{}
	served.Server = proxytest.ServeTLS(t, config, func(state tls.ConnectionState) {
		served.mu.Lock()
		defer served.mu.Unlock()
		served.shown = append(served.shown, state)
	})
	return served
}

func newClient(roots *x509.CertPool) *efs.Client {
	return &efs.Client{
		Identity: efs.Identity{FileSystem: "fs-0123456789abcdef0", Region: "eu-west-1", AccessPoint: "fsap-0123456789abcdef0"},
		Key:      hostKey, Host: "web-1", Roots: roots,
	}
}

// connect makes a connection as a relay does, and closes it at the end.
func connect(t *testing.T, c *efs.Client, s *proxytest.Server) (net.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.Addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return c.Secure(ctx, conn.(*net.TCPConn), proxy.Target{Zone: "a", Addr: s.Addr})
}

func TestSecure(t *testing.T) {
	a := proxytest.NewAuthority(t)
	served := serveTLS(t, &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{a.Sign(t, serverName, time.Now().Add(time.Hour))},
		ClientAuth: tls.RequireAnyClientCert,
	})
	client := newClient(a.Roots())
	for range 2 {
		secured, err := connect(t, client, served.Server)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := secured.Write([]byte("more")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 4)
		if _, err := secured.Read(got); err != nil || !bytes.Equal(got, []byte("more")) {
			t.Errorf("%q, %v", got, err)
		}
	}
	served.mu.Lock()
	defer served.mu.Unlock()
	for n, state := range served.shown {
		if state.ServerName != serverName || state.DidResume || state.PeerCertificates[0].SerialNumber.Int64() != int64(n) {
			t.Errorf("connection %d: asked for %s, resumed %v, serial %v", n, state.ServerName, state.DidResume, state.PeerCertificates[0].SerialNumber)
		}
	}
}

func TestSecureFails(t *testing.T) {
	a, stranger := proxytest.NewAuthority(t), proxytest.NewAuthority(t)
	soon := time.Now().Add(time.Hour)
	good := []tls.Certificate{a.Sign(t, serverName, soon)}
	broken := errors.New("the metadata service does not answer")
	for _, row := range []struct {
		name   string
		config *tls.Config // nil: it speaks no TLS
		change func(*efs.Client)
		says   string
	}{
		{"when the name is another's", &tls.Config{Certificates: []tls.Certificate{a.Sign(t, "fs-00000000.efs.eu-west-1.amazonaws.com", soon)}}, nil, "not the file system's mount target"},
		{"when the name has another region", &tls.Config{Certificates: []tls.Certificate{a.Sign(t, strings.Replace(serverName, "eu-", "us-", 1), soon)}}, nil, "not the file system's mount target"},
		{"when nobody knows the authority", &tls.Config{Certificates: []tls.Certificate{stranger.Sign(t, serverName, soon)}}, nil, "set EFS_CA_FILE"},
		{"when only Amazon is believed", &tls.Config{Certificates: good}, func(c *efs.Client) { c.Roots = nil }, "set EFS_CA_FILE"},
		{"when the certificate has expired", &tls.Config{Certificates: []tls.Certificate{a.Sign(t, serverName, time.Now().Add(-time.Hour))}}, nil, "check this host's clock"},
		{"when the client is refused", &tls.Config{Certificates: good, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: stranger.Roots()}, nil, "this client's certificate is refused"},
		{
			"when the client is refused in TLS 1.2",
			&tls.Config{Certificates: good, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: stranger.Roots(), MaxVersion: tls.VersionTLS12},
			nil, "this client's certificate is refused",
		},
		{"when the server knows old TLS only", &tls.Config{Certificates: good, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, nil, "protocol version"},
		{"when the server speaks no TLS", nil, nil, "does not speak TLS"},
		{
			"when there are no credentials", &tls.Config{Certificates: good},
			func(c *efs.Client) {
				c.Credentials = func(context.Context) (efs.Credentials, error) { return efs.Credentials{}, broken }
			},
			broken.Error(),
		},
		{
			"when there is no key", &tls.Config{Certificates: good},
			func(c *efs.Client) { c.Key = func() (*rsa.PrivateKey, error) { return nil, broken } },
			broken.Error(),
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			var served *proxytest.Server
			if row.config != nil {
				served = serveTLS(t, row.config).Server
			} else {
				served = proxytest.Serve(t, func(conn *net.TCPConn) { _, _ = conn.Write([]byte("no TLS here, and no NFS")) })
			}
			client := newClient(a.Roots())
			if row.change != nil {
				row.change(client)
			}
			_, err := connect(t, client, served)
			if err == nil || !strings.Contains(err.Error(), row.says) {
				t.Errorf("got %v, want %q in it", err, row.says)
			}
			if errors.Is(err, proxy.ErrIdentity) != (row.says == broken.Error()) {
				t.Errorf("it is said to be whose fault? %v", err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if _, err := client.Check(ctx, served.Addr); err == nil || !strings.Contains(err.Error(), row.says) {
				t.Errorf("a check says %v", err)
			}
		})
	}
}

func TestSecureEndsWithItsContext(t *testing.T) {
	silent := proxytest.Serve(t, func(conn *net.TCPConn) { _, _ = conn.Read(make([]byte, 4096)); _, _ = conn.Read(make([]byte, 1)) })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := newClient(nil).Check(ctx, silent.Addr); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestCheckUsesOneCertificateForAWhile(t *testing.T) {
	a := proxytest.NewAuthority(t)
	served := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{a.Sign(t, serverName, time.Now().Add(time.Hour))}, ClientAuth: tls.RequireAnyClientCert})
	client, asked := newClient(a.Roots()), 0
	client.Credentials = func(context.Context) (efs.Credentials, error) {
		asked++
		return efs.Credentials{AccessKeyID: exampleID, SecretAccessKey: exampleSecret}, nil
	}
	for range 3 {
		if rtt, err := client.Check(t.Context(), served.Addr); err != nil || rtt <= 0 {
			t.Fatal(rtt, err)
		}
	}
	if asked != 1 {
		t.Errorf("%d certificates were made", asked)
	}
}

func TestAmazonsRootsAreThere(t *testing.T) {
	// The first bytes of their SHA-256, as Amazon Trust Services publishes them.
	want := map[string]string{"Amazon Root CA 1": "8ecde688", "Amazon Root CA 2": "1ba5b2aa", "Amazon Root CA 3": "18ce6cfe", "Amazon Root CA 4": "e35d2841"}
	for rest := efs.RootsPEM(); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if name := certificate.Subject.CommonName; want[name] != fingerprint(block.Bytes) {
			t.Errorf("%s is %s", name, fingerprint(block.Bytes))
		} else {
			delete(want, name)
		}
		if certificate.NotAfter.Before(time.Now()) {
			t.Errorf("%s has expired", certificate.Subject.CommonName)
		}
	}
	if len(want) > 0 {
		t.Errorf("these are missing: %v", want)
	}
}
