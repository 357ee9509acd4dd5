package gateway_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/gateway"
)

// couple is a pair of gateways in front of a mount target: far listens for near.
type couple struct {
	target    *server
	authority *authority
	far, near *world
	farFiles  gateway.Files
	nearFiles gateway.Files
	news      *lines // of far's certificates
}

func newCouple(t *testing.T) *couple {
	t.Helper()
	c := &couple{target: serve(t, "a"), authority: newAuthority(t), news: &lines{}}
	c.farFiles, c.nearFiles = c.authority.issue(t, "far", nil), c.authority.issue(t, "near", nil)
	c.far = start(t, gateway.Options{Targets: []proxy.Target{c.target.Target}, Identity: identity(t, c.farFiles, "near", c.news)})
	c.near = c.connect(t, c.far.peer, "far")
	return c
}

// connect starts a gateway whose peer is at that address and has that name.
func (c *couple) connect(t *testing.T, peer netip.AddrPort, name string) *world {
	t.Helper()
	return start(t, gateway.Options{Targets: []proxy.Target{{Addr: peer}}, Peers: true, Identity: identity(t, c.nearFiles, name, &lines{})})
}

func TestAPairCarriesBytesBothWaysWithPausesAndHalfClose(t *testing.T) {
	c := newCouple(t)
	client := dial(t, c.near.plain)
	talk(t, client, "hello")
	data := make([]byte, 8<<20)
	_, _ = rand.Read(data)
	var sending sync.WaitGroup
	sending.Go(func() {
		_, _ = client.Write(data)
		_ = client.CloseWrite()
	})
	if received, err := io.ReadAll(client); err != nil || !bytes.Equal(received, data) {
		t.Errorf("of %d bytes %d came back, or others, %v", len(data), len(received), err)
	}
	sending.Wait()
}

func TestBetweenAPairNothingCanBeReadOrChanged(t *testing.T) {
	c := newCouple(t)
	var mu sync.Mutex
	var seen bytes.Buffer
	change := false
	// Somebody in the middle.
	middle := serveAs(t, "", func(_ *server, conn net.Conn) {
		onward, err := net.Dial("tcp", c.far.peer.String())
		if err != nil {
			return
		}
		defer onward.Close()
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, onward)
		}()
		buffer := make([]byte, 64<<10)
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			mu.Lock()
			seen.Write(buffer[:n])
			if change {
				buffer[n-1] ^= 1
				change = false
			}
			mu.Unlock()
			if _, err := onward.Write(buffer[:n]); err != nil {
				return
			}
		}
	})
	// One check more or less does not matter, but it must not be the one that is changed.
	near := start(t, gateway.Options{
		Targets: []proxy.Target{middle.Target}, Peers: true, Knobs: proxy.Knobs{Inter: time.Hour},
		Identity: identity(t, c.nearFiles, "far", &lines{}),
	})
	client := dial(t, near.plain)
	talk(t, client, "a secret text")
	mu.Lock()
	if bytes.Contains(seen.Bytes(), []byte("secret")) || seen.Len() == 0 {
		t.Errorf("in the middle one can read %q", seen.Bytes())
	}
	change = true
	mu.Unlock()
	if _, err := io.WriteString(client, "a text that is changed"); err != nil {
		t.Fatal(err)
	}
	expectReset(t, client)
	if strings.Contains(c.far.log.String(), "changed") || c.target.conns.Load() != 1 {
		t.Error("it came through")
	}
}

func TestSessionsAreResumedUntilCertificatesChange(t *testing.T) {
	c := newCouple(t)
	for range 5 {
		conn := dial(t, c.near.plain)
		talk(t, conn, "hello")
		_ = conn.Close()
	}
	for _, w := range []*world{c.far, c.near} {
		got := w.Status().Gateway.Certificate
		if got.Resumed < 3 || got.Resumed >= got.Handshakes {
			t.Errorf("%d of %d handshakes resumed a session", got.Resumed, got.Handshakes)
		}
	}
	if err := c.far.Reload(); err != nil {
		t.Fatal(err)
	}
	before := c.far.Status().Gateway.Certificate
	full := before.Handshakes - before.Resumed
	talk(t, dial(t, c.near.plain), "hello")
	after := c.far.Status().Gateway.Certificate
	if after.Handshakes-after.Resumed <= full {
		t.Errorf("a session of before the new certificate was resumed: %+v, then %+v", before, after)
	}
}

// stranger connects to a peer's listener and returns what came of it.
func stranger(t *testing.T, addr netip.AddrPort, config *tls.Config) error {
	t.Helper()
	conn := tls.Client(dial(t, addr), config)
	if _, err := io.WriteString(conn, "let me in"); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, len("let me in")))
	return err
}

func TestAPeerGetsNothingThatHas(t *testing.T) {
	c := newCouple(t)
	own := dial(t, c.near.plain)
	talk(t, own, "hello")
	load := func(files gateway.Files) []tls.Certificate {
		certificate, err := tls.LoadX509KeyPair(files.Cert, files.Key)
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{certificate}
	}
	good := load(c.nearFiles)
	before := c.target.conns.Load()
	for _, row := range []struct {
		name   string
		change func(*tls.Config)
		says   string // in the gateway's log
	}{
		{"no certificate", func(config *tls.Config) { config.Certificates = nil }, "didn't provide a certificate"},
		{"a certificate of another authority", func(config *tls.Config) {
			config.Certificates = load(newAuthority(t).issue(t, "near", nil))
		}, "certificate signed by unknown authority"},
		{"a certificate that has expired", func(config *tls.Config) {
			config.Certificates = load(c.authority.issue(t, "expired", func(x *x509.Certificate) {
				x.NotAfter, x.DNSNames = time.Now().Add(-time.Minute), []string{"near"}
			}))
		}, "has expired"},
		{"a certificate with another name", func(config *tls.Config) {
			config.Certificates = load(c.authority.issue(t, "somebody", nil))
		}, "valid for somebody, not near"},
		{"a certificate for servers only", func(config *tls.Config) {
			config.Certificates = load(c.authority.issue(t, "server", func(x *x509.Certificate) {
				x.DNSNames, x.ExtKeyUsage = []string{"near"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			}))
		}, "incompatible key usage"},
		{"TLS 1.2 only", func(config *tls.Config) { config.MaxVersion = tls.VersionTLS12 }, "unsupported versions"},
	} {
		t.Run(row.name, func(t *testing.T) {
			far := start(t, gateway.Options{Targets: []proxy.Target{c.target.Target}, Identity: identity(t, c.farFiles, "near", &lines{})})
			config := &tls.Config{InsecureSkipVerify: true, Certificates: good}
			if err := stranger(t, far.peer, config); err != nil {
				t.Fatalf("with what is right: %v", err)
			}
			row.change(config)
			if err := stranger(t, far.peer, config); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%v", err)
			}
			far.log.expect(t, row.says)
			if n := far.Status().Gateway.Relay.NotAdmitted; n != 1 {
				t.Errorf("%d were refused", n)
			}
			before++
		})
	}
	// Plain bytes, as of an NFS client that was given the wrong port.
	conn := dial(t, c.far.peer)
	if _, err := io.WriteString(conn, "\x80\x00\x00\x28 a plain call"); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); bytes.Contains(answer, []byte("call")) || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("plain bytes are answered by %q, %v", answer, err)
	}
	if n := c.target.conns.Load(); n != before {
		t.Errorf("%d connections came to the mount target, want %d", n, before)
	}
	talk(t, own, "I am undisturbed")
}

func TestAPeerIsNotUsedThat(t *testing.T) {
	c := newCouple(t)
	other := newAuthority(t)
	dead := serve(t, "dead")
	dead.stop()
	farWith := func(files gateway.Files, target proxy.Target) netip.AddrPort {
		return start(t, gateway.Options{Targets: []proxy.Target{target}, Identity: identity(t, files, "", &lines{})}).peer
	}
	for _, row := range []struct {
		name string
		peer netip.AddrPort
		want string // the name that its certificate has to have
		says string
	}{
		{"", c.far.peer, "far", ""}, // the others are wrong in one thing each
		{"has a certificate of another authority", farWith(other.issue(t, "far", nil), c.target.Target), "far", "unknown authority"},
		{"has another name", c.far.peer, "other", "not other"},
		{"has not its address in its certificate", farWith(c.authority.issue(t, "no-address", func(x *x509.Certificate) { x.IPAddresses = nil }), c.target.Target), "", "127.0.0.1"},
		{"is a mount target and no peer", c.target.Addr, "far", "TLS handshake with peer"},
		{"does not believe this gateway's authority", farWith(other.issue(t, "far", nil), c.target.Target), "far", "certificate"},
		{"reaches no mount target itself", farWith(c.farFiles, dead.Target), "far", "deadline exceeded"},
		{"is not there", dead.Addr, "far", "connection refused"},
	} {
		t.Run(row.name, func(t *testing.T) {
			timeout := patience
			if row.says == "deadline exceeded" {
				timeout = time.Second
			}
			g, err := gateway.New(gateway.Options{
				Targets: []proxy.Target{{Addr: row.peer}}, Peers: true, Knobs: proxy.Knobs{Timeout: timeout},
				Identity: identity(t, c.nearFiles, row.want, &lines{}),
			})
			if err != nil {
				t.Fatal(err)
			}
			answer := g.Check(t.Context())[0]
			if (answer.Err == nil) != (row.says == "") || answer.Err != nil && !strings.Contains(answer.Err.Error(), row.says) {
				t.Errorf("%v, want %q", answer.Err, row.says)
			}
		})
	}
}

func TestAClientWaitsUntilItsPeerCanBeBelieved(t *testing.T) {
	c := newCouple(t)
	near := c.connect(t, c.far.peer, "other")
	client := dial(t, near.plain)
	if _, err := io.WriteString(client, "hello"); err != nil {
		t.Fatal(err)
	}
	near.log.expect(t, "not other")
	_ = client.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if n, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if near.Status().Healthy() {
		t.Error("the status tells of no trouble")
	}
}
