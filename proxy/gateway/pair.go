package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/batch"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/relay"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/tcp"
)

var _ relay.Opener = (*Identity)(nil).open

// serverConfig has sessions resumed, so that a thousand clients that come back at once
// cost no thousand signatures.
func (i *Identity) serverConfig(l loaded) *tls.Config {
	return &tls.Config{
		MinVersion:       tls.VersionTLS13,
		Certificates:     []tls.Certificate{l.certificate},
		ClientAuth:       tls.RequireAndVerifyClientCert,
		ClientCAs:        l.authorities,
		VerifyConnection: i.verifyName,
		// Its small first records are for browsers that show half a page.
		DynamicRecordSizingDisabled: true,
	}
}

func (i *Identity) clientConfig(l loaded, name string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       []tls.Certificate{l.certificate},
		RootCAs:            l.authorities,
		ServerName:         name,
		ClientSessionCache: tls.NewLRUClientSessionCache(1),

		DynamicRecordSizingDisabled: true,
	}
}

// clients has a configuration for each peer.
type clients struct {
	make func(name string) *tls.Config

	mu    sync.Mutex // guards the following field
	peers map[netip.AddrPort]*tls.Config
}

func (c *clients) of(peer netip.AddrPort, name string) *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	config := c.peers[peer]
	if config == nil {
		if c.peers == nil {
			c.peers = make(map[netip.AddrPort]*tls.Config)
		}
		config = c.make(name)
		c.peers[peer] = config
	}
	return config
}

// open is the handshake with a peer that has connected.
func (i *Identity) open(ctx context.Context, conn *net.TCPConn) (net.Conn, error) {
	under, err := batch.New(conn)
	if err != nil {
		return nil, err
	}
	secured := tls.Server(under, i.now().server)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", orContext(ctx, err))
	}
	i.count(secured)
	return secured, nil
}

// verifyName sees a certificate whose authority is believed.
func (i *Identity) verifyName(state tls.ConnectionState) error {
	if i.name == "" {
		return nil
	}
	return state.PeerCertificates[0].VerifyHostname(i.name)
}

// secure is the handshake with a peer that this gateway has connected to. In TLS 1.3 the
// side that connects does not hear in the handshake whether it was refused. NFS's NULL tells
// that, and that the peer reaches a mount target.
func (i *Identity) secure(ctx context.Context, conn *net.TCPConn, target proxy.Target) (net.Conn, error) {
	secured, _, err := i.ask(ctx, conn, target.Addr)
	if err != nil {
		return nil, err
	}
	return secured, nil
}

// check is how a group asks whether a peer works.
func (i *Identity) check(ctx context.Context, addr netip.AddrPort) (time.Duration, error) {
	conn, err := tcp.Dial(ctx, addr)
	if err != nil {
		return 0, fmt.Errorf("connect to %s: %w", addr, err)
	}
	defer conn.Close()
	_, rtt, err := i.ask(ctx, conn, addr)
	return rtt, err
}

func (i *Identity) ask(ctx context.Context, conn *net.TCPConn, addr netip.AddrPort) (*tls.Conn, time.Duration, error) {
	name := i.name
	if name == "" {
		name = addr.Addr().WithZone("").String()
	}
	under, err := batch.New(conn)
	if err != nil {
		return nil, 0, err
	}
	secured := tls.Client(under, i.now().clients.of(addr, name))
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, 0, fmt.Errorf("TLS handshake with peer %s: %w", addr, orContext(ctx, err))
	}
	i.count(secured)
	rtt, err := proxy.Null(ctx, secured)
	if err != nil {
		return nil, 0, fmt.Errorf("NFS call through peer %s: %w", addr, err)
	}
	return secured, rtt, nil
}

// orContext prefers the context's error: what it cut short shows up as something else.
func orContext(ctx context.Context, err error) error {
	if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
		return ctx.Err()
	}
	return err
}
