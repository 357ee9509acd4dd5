package efs

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	_ "embed" // the roots
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/batch"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/tcp"
)

// amazonRoots are Amazon Root CA 1 to 4 (www.amazontrust.com/repository), which sign the
// certificates of all mount targets outside the isolated partitions.
//
//go:embed roots.pem
var amazonRoots []byte

// AmazonRoots returns the authorities that mount targets' certificates are checked against
// by default. They are read once.
//
//nolint:gochecknoglobals // a constant that takes a while
var AmazonRoots = sync.OnceValue(func() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(amazonRoots)
	return pool
})

// LoadRoots reads authorities from a file in PEM, which take the place of Amazon's.
func LoadRoots(path string) (*x509.CertPool, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s has no certificate in PEM", path)
	}
	return pool, nil
}

// Client makes the TLS connections of one identity. Its fields are set before use.
type Client struct {
	Identity
	// Credentials returns the IAM identity's keys; nil: the client proves none. It is
	// asked for every connection and must not be slow when nothing has changed.
	Credentials func(context.Context) (Credentials, error)
	// Key returns the host's key. It is asked for every connection.
	Key func() (*rsa.PrivateKey, error)
	// Host is the name in the certificate.
	Host string
	// Roots are the authorities believed; nil: [AmazonRoots].
	Roots *x509.CertPool

	serial atomic.Int64

	mu      sync.Mutex // guards the following fields
	checked tls.Certificate
	until   time.Time // when checked is made anew
}

// checkEvery is how long one certificate serves for checks. EFS would take it for three
// hours.
const checkEvery = 10 * time.Minute

// Secure makes a connection to a mount target a secure one, and asks NFS's NULL through it:
// in TLS 1.3 the side that connects does not hear in the handshake whether it was refused.
// It takes the connection into what it returns; after an error the caller closes it. What
// cannot be made on this side is a [proxy.ErrIdentity].
func (c *Client) Secure(ctx context.Context, conn *net.TCPConn, target proxy.Target) (net.Conn, error) {
	certificate, err := c.certificate(ctx)
	if err != nil {
		return nil, err
	}
	secured, _, err := c.ask(ctx, conn, certificate)
	switch {
	case err == nil:
		return secured, nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, proxy.ErrNotNFS):
		err = fmt.Errorf("%w: %w", proxy.ErrUnproven, err)
	}
	return nil, fmt.Errorf("mount target %s: %w", target, err)
}

// Ready makes what a connection shows, and keeps nothing but what [Client.Credentials] keeps: what AWS takes
// to say who this host is costs no mount target's time then. An error is a [proxy.ErrIdentity].
func (c *Client) Ready(ctx context.Context) error {
	_, err := c.certificate(ctx)
	return err
}

// Try connects to a mount target as [Client.Secure] does and returns how long NFS's NULL
// took.
func (c *Client) Try(ctx context.Context, addr netip.AddrPort) (time.Duration, error) {
	certificate, err := c.certificate(ctx)
	if err != nil {
		return 0, err
	}
	return c.try(ctx, addr, certificate)
}

// Check is Try with a certificate that serves for a while. It is a
// proxy.GroupOptions.Check, for a client without credentials, which could end meanwhile.
func (c *Client) Check(ctx context.Context, addr netip.AddrPort) (time.Duration, error) {
	certificate, err := c.checkCertificate(ctx)
	if err != nil {
		return 0, err
	}
	return c.try(ctx, addr, certificate)
}

func (c *Client) try(ctx context.Context, addr netip.AddrPort, certificate tls.Certificate) (time.Duration, error) {
	conn, err := tcp.Dial(ctx, addr)
	if err != nil {
		return 0, fmt.Errorf("connect to %s: %w", addr, err)
	}
	defer conn.Close()
	_, rtt, err := c.ask(ctx, conn, certificate)
	return rtt, err
}

func (c *Client) checkCertificate(ctx context.Context) (tls.Certificate, error) {
	c.mu.Lock()
	certificate, until := c.checked, c.until
	c.mu.Unlock()
	now := time.Now()
	if now.Before(until) {
		return certificate, nil
	}
	certificate, err := c.certificate(ctx)
	if err != nil {
		return tls.Certificate{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checked, c.until = certificate, now.Add(checkEvery)
	return certificate, nil
}

// certificate makes the certificate of one connection.
func (c *Client) certificate(ctx context.Context) (tls.Certificate, error) {
	key, err := c.Key()
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%w: %w", proxy.ErrIdentity, err)
	}
	var credentials *Credentials
	if c.Credentials != nil {
		current, err := c.Credentials(ctx)
		if err != nil {
			return tls.Certificate{}, fmt.Errorf("%w: no IAM credentials: %w", proxy.ErrIdentity, err)
		}
		credentials = &current
	}
	certificate, err := newCertificate(key, c.Identity, credentials, c.Host, c.serial.Add(1)-1, time.Now())
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%w: %w", proxy.ErrIdentity, err)
	}
	return certificate, nil
}

func (c *Client) ask(ctx context.Context, conn *net.TCPConn, certificate tls.Certificate) (*tls.Conn, time.Duration, error) {
	under, err := batch.New(conn)
	if err != nil {
		return nil, 0, err
	}
	secured := tls.Client(under, c.config(certificate))
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, 0, explain(ctx, err)
	}
	rtt, err := proxy.Null(ctx, secured)
	if err != nil {
		return nil, 0, explain(ctx, err)
	}
	return secured, rtt, nil
}

// config has no cache of sessions: a resumed one keeps the identity of its first handshake.
func (c *Client) config(certificate tls.Certificate) *tls.Config {
	roots := c.Roots
	if roots == nil {
		roots = AmazonRoots()
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    roots,
		// Without the zone, also when the zone's own name or its address was dialled.
		ServerName: ServerName(c.FileSystem, c.Region),
		// Whatever authorities the server names: none has signed it.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil },

		DynamicRecordSizingDisabled: true,
	}
}

// remoteError is how crypto/tls marks an alert that the server sent.
const remoteError = "remote error"

// explain turns what TLS says into what an operator can do about it.
func explain(ctx context.Context, err error) error {
	var name x509.HostnameError
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var alert *net.OpError
	var record tls.RecordHeaderError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("TLS: %w", ctx.Err())
	case errors.As(err, &name):
		return fmt.Errorf("TLS: %w: this is not the file system's mount target: check its address", err)
	case errors.As(err, &authority):
		return fmt.Errorf("TLS: %w: something on the way reads the traffic, or set EFS_CA_FILE", err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("TLS: %w: check this host's clock", err)
	case errors.As(err, &alert) && alert.Op == remoteError:
		return fmt.Errorf("TLS: this client's certificate is %w (%w): check this host's clock, the access point, and the file system's policy", proxy.ErrRefused, err)
	case errors.As(err, &record):
		return fmt.Errorf("TLS: the server does not speak TLS (%w)", err)
	}
	return fmt.Errorf("TLS: %w", err)
}
