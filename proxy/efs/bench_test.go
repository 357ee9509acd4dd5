package efs_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/proxytest"
)

// BenchmarkConnect makes connections up to NFS's first answer: plain, by TLS, and by TLS with
// the proof of an identity, over a network whose round trip takes no time. What is beside it in
// AWS are two round trips for a plain connection and three for one by TLS 1.3.
func BenchmarkConnect(b *testing.B) {
	a := proxytest.NewAuthority(b)
	config := &tls.Config{Certificates: []tls.Certificate{a.Sign(b, serverName, time.Now().Add(time.Hour))}, ClientAuth: tls.RequireAnyClientCert}
	secured := proxytest.ServeTLS(b, config, nil)
	b.Run("plain", func(b *testing.B) {
		plain := proxytest.Serve(b, proxytest.Echo)
		for b.Loop() {
			if _, err := proxy.Ping(b.Context(), plain.Addr); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, row := range []struct {
		name        string
		credentials func(context.Context) (efs.Credentials, error)
	}{
		{"TLS", nil},
		{"TLS and IAM", func(context.Context) (efs.Credentials, error) {
			return efs.Credentials{AccessKeyID: exampleID, SecretAccessKey: exampleSecret, SessionToken: "token"}, nil
		}},
	} {
		b.Run(row.name, func(b *testing.B) {
			client := newClient(a.Roots())
			client.Credentials = row.credentials
			for b.Loop() {
				conn, err := net.Dial("tcp", secured.Addr.String())
				if err != nil {
					b.Fatal(err)
				}
				if _, err := client.Secure(b.Context(), conn.(*net.TCPConn), proxy.Target{Addr: secured.Addr}); err != nil {
					b.Fatal(err)
				}
				_ = conn.Close()
			}
		})
	}
}
