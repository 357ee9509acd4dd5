// Command mounttarget plays what EFS adds to NFS: on one port it speaks TLS and plain NFS,
// reads the client's certificate, leads access points to their directories, and refuses whom
// its rules refuse. What is behind it is a real NFS server. Nobody outside the tests uses it.
//
//	mounttarget -listen 10.77.0.61:2049 -backend 10.77.0.61:3049 -cert cert.pem -key key.pem -rules rules.json -record certificates/
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

// rules are read for each connection.
type rules struct {
	// RefusePlain refuses NFS without TLS, RequireIAM clients without a proof of
	// their identity, as a file system's policy does.
	RefusePlain bool `json:"refuse_plain"`
	RequireIAM  bool `json:"require_iam"`
	// Denied are access key ids that are refused.
	Denied []string `json:"denied"`
	// AccessPoints are servers whose root is the access point's directory; others
	// are refused.
	AccessPoints map[string]string `json:"access_points"`
}

// What EFS reads in a certificate.
//
//nolint:gochecknoglobals // constants, which Go has not for slices
var (
	oidAccessPoint = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 4843, 7, 1}
	oidClientAuth  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 4843, 7, 2}
)

type target struct {
	backend, rules, record string
	config                 *tls.Config
	connections            atomic.Int64
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "mounttarget:", err)
		os.Exit(1)
	}
}

func run() error {
	var t target
	listen := flag.String("listen", "", "addresses, with commas")
	cert, key := flag.String("cert", "", "certificate"), flag.String("key", "", "its key")
	flag.StringVar(&t.backend, "backend", "", "the NFS server")
	flag.StringVar(&t.rules, "rules", "", "file of rules")
	flag.StringVar(&t.record, "record", "", "directory for clients' certificates")
	flag.Parse()
	t.config = &tls.Config{
		MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(*cert, *key) // a test may have changed it
			return &pair, err
		},
		VerifyConnection: t.verify,
	}
	failed := make(chan error)
	for address := range strings.SplitSeq(*listen, ",") {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		go func() { failed <- t.serve(listener) }()
	}
	fmt.Println("listening")
	return <-failed
}

func (t *target) serve(listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if err := t.handle(conn.(*net.TCPConn)); err != nil {
				log.Print(err)
			}
		}()
	}
}

func (t *target) now() (r rules) {
	data, err := os.ReadFile(t.rules)
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		log.Print(err)
		return rules{RefusePlain: true, RequireIAM: true}
	}
	return r
}

// peeked is a connection whose first byte was read already. It has no other way to read,
// such as a *net.TCPConn's WriteTo.
type peeked struct {
	net.Conn
	first io.Reader
}

func (p *peeked) Read(data []byte) (int, error) { return p.first.Read(data) }

// tlsHandshake is the first byte of a client that speaks TLS (RFC 8446 section 5.1).
const tlsHandshake = 0x16

func (t *target) handle(conn *net.TCPConn) error {
	first := make([]byte, 1)
	if _, err := io.ReadFull(conn, first); err != nil {
		return nil //nolint:nilerr // it only looked
	}
	client := &peeked{conn, io.MultiReader(strings.NewReader(string(first)), conn)}
	if first[0] != tlsHandshake {
		log.Printf("plain NFS from %s", conn.RemoteAddr())
		if t.now().RefusePlain {
			return nil
		}
		return t.pass(client, t.backend)
	}
	secured := tls.Server(client, t.config)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := secured.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS from %s: %w", conn.RemoteAddr(), err)
	}
	backend := t.backend
	if id := accessPoint(secured.ConnectionState()); id != "" {
		backend = t.now().AccessPoints[id]
	}
	log.Printf("TLS from %s", conn.RemoteAddr())
	return t.pass(secured, backend)
}

// verify keeps the client's certificate and judges it.
func (t *target) verify(state tls.ConnectionState) error {
	r := t.now()
	if len(state.PeerCertificates) == 0 {
		if r.RequireIAM {
			return errors.New("no certificate")
		}
		return nil
	}
	leaf := state.PeerCertificates[0]
	name := filepath.Join(t.record, fmt.Sprintf("%020d-%06d.pem", time.Now().UnixNano(), t.connections.Add(1)))
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}), 0o644); err != nil {
		return err
	}
	if now := time.Now(); now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
		return errors.New("a certificate that is not valid now")
	}
	if id := accessPoint(state); id != "" && r.AccessPoints[id] == "" {
		return fmt.Errorf("unknown access point %s", id)
	}
	proof := extension(leaf, oidClientAuth)
	if proof == nil && r.RequireIAM {
		return errors.New("no proof of an IAM identity")
	}
	for _, id := range r.Denied {
		if strings.Contains(string(proof), id) {
			return fmt.Errorf("%s is denied", id)
		}
	}
	return nil
}

func extension(leaf *x509.Certificate, oid asn1.ObjectIdentifier) []byte {
	for _, e := range leaf.Extensions {
		if e.Id.Equal(oid) {
			return e.Value
		}
	}
	return nil
}

func accessPoint(state tls.ConnectionState) (id string) {
	if len(state.PeerCertificates) > 0 {
		_, _ = asn1.UnmarshalWithParams(extension(state.PeerCertificates[0], oidAccessPoint), &id, "utf8")
	}
	return id
}

func (t *target) pass(client net.Conn, backend string) error {
	server, err := net.Dial("tcp", backend)
	if err != nil {
		return err
	}
	defer server.Close()
	done := make(chan struct{}, 2)
	go func() { _, _ = io.Copy(server, client); done <- struct{}{} }()
	go func() { _, _ = io.Copy(client, server); done <- struct{}{} }()
	<-done
	return nil
}
