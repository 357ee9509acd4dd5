package relay_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/relay"
)

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"efs"}}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}
}

func TestBytesPassThroughTLSWithPausesAndHalfClose(t *testing.T) {
	config := &tls.Config{Certificates: []tls.Certificate{certificate(t)}}
	a := serve(t, "a", func(conn *net.TCPConn) {
		secured := tls.Server(conn, config)
		if _, err := io.Copy(secured, secured); err == nil {
			_ = secured.CloseWrite()
		}
		_, _ = io.Copy(io.Discard, conn)
	})
	w := start(t, a, func(r *relay.Relay) {
		r.Secure = func(ctx context.Context, conn *net.TCPConn, _ proxy.Target) (net.Conn, error) {
			secured := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
			return secured, secured.HandshakeContext(ctx)
		}
	})
	client := w.dial(t)
	for range 3 {
		send(t, client, "hello")
		expect(t, client, "hello")
		w.Look(time.Now())
		w.Look(time.Now().Add(time.Minute)) // parks
	}
	hash := make(chan string, 1)
	go func() {
		sent, _ := stream(client, 1, 8<<20, 1<<20)
		hash <- sent
	}()
	received, n, err := drain(client, false)
	if sent := <-hash; sent != received || err != nil {
		t.Errorf("of 8 MiB %d bytes came back, hash %s, want %s, %v", n, received, sent, err)
	}
}

func TestAFailedHandshakeIsToldAndTheClientHeld(t *testing.T) {
	a := serve(t, "a", nil)
	w := start(t, a, func(r *relay.Relay) {
		r.Secure = func(context.Context, *net.TCPConn, proxy.Target) (net.Conn, error) {
			return nil, errors.New("the certificate is another's")
		}
	})
	w.dial(t)
	expectReset(t, a.next(t))
	expectReset(t, a.next(t))
	if stats := w.Stats(); stats.Held != 1 {
		t.Errorf("%+v", stats)
	}
	w.group.read(func(g *group) {
		if len(g.failed) == 0 {
			t.Error("the group is not told")
		}
	})
}
