package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const (
	// startLimit is how long a peer may take to carry the first message.
	startLimit = 20 * time.Second
	// manyConns is more than any measurement opens.
	manyConns = "6000"
)

// peer is a way from a client to the server.
type peer struct {
	name  string
	start func(*bench) (group, string, error) // returns the address for clients
}

// plainPeers are what is measured in the clear, the plugin's own first.
func plainPeers() []peer {
	return []peer{
		{"relay", (*bench).relay},
		{"HAProxy, usual configuration", func(b *bench) (group, string, error) { return b.haproxy("") }},
		{"HAProxy, splice", func(b *bench) (group, string, error) {
			return b.haproxy("  option splice-request\n  option splice-response\n")
		}},
		{"direct", func(b *bench) (group, string, error) { return nil, b.server, nil }},
	}
}

func securePeers() []peer {
	return []peer{
		{"relay pair", (*bench).relayPair},
		{"stunnel pair", (*bench).stunnelPair},
		{"relay to EFS", (*bench).relayEFS},
	}
}

func freeAddr() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

func freeAddrs() (near, far string, err error) {
	if near, err = freeAddr(); err == nil {
		far, err = freeAddr()
	}
	return near, far, err
}

// begin starts a peer and waits until it carries messages.
func (b *bench) begin(p peer) (group, string, error) {
	g, addr, err := p.start(b)
	if err != nil {
		g.stop()
		return nil, "", fmt.Errorf("%s: %w", p.name, err)
	}
	for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		conn, err := dial(addr)
		if err == nil {
			return g, addr, conn.Close()
		}
		if time.Since(begun) > startLimit {
			g.stop()
			return nil, "", fmt.Errorf("%s does not begin: %w\n%s", p.name, err, b.log.String())
		}
	}
}

func (b *bench) relay() (group, string, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, "", err
	}
	command, err := start(&b.log, b.program, "relay", "--listen", addr, "--target", "a="+b.server,
		"--max-connections", manyConns, "--max-per-client", "0", "--log-level", "error")
	return group{command}, addr, err
}

// haproxy is configured as people do for EFS, whatever more is said.
func (b *bench) haproxy(more string) (group, string, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, "", err
	}
	text := fmt.Sprintf(`global
  maxconn %s
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen nfs
  bind %s
%s  server a %s check inter 60s fastinter 15s downinter 5s
`, manyConns, addr, more, b.server)
	if err := os.WriteFile(b.file("haproxy.cfg"), []byte(text), 0o644); err != nil {
		return nil, "", err
	}
	command, err := b.startPeer(&b.log, "haproxy", "-db", "-f", inside("haproxy.cfg"))
	return group{command}, addr, err
}

// The pair's near end takes plain connections, the far end is beside the server.
func (b *bench) relayPair() (group, string, error) {
	near, far, err := b.certificates()
	if err != nil {
		return nil, "", err
	}
	identity := []string{"--cert", b.file("cert.pem"), "--key", b.file("key.pem"), "--peer-ca", b.file("cert.pem"), "--log-level", "error", "--max-connections", manyConns}
	server, err := start(&b.log, b.program, append([]string{"relay", "--peer-listen", far, "--target", "a=" + b.server}, identity...)...)
	if err != nil {
		return nil, "", err
	}
	client, err := start(&b.log, b.program, append([]string{"relay", "--listen", near, "--max-per-client", "0", "--peer-connect", "a=" + far, "--peer-name", "bench"}, identity...)...)
	if err != nil {
		return group{server}, "", err
	}
	return group{server, client}, near, nil
}

const stunnelConfig = "foreground = yes\ndebug = err\npid =\nsslVersionMin = TLSv1.3\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n"

func (b *bench) stunnelPair() (group, string, error) {
	near, far, err := b.certificates()
	if err != nil {
		return nil, "", err
	}
	identity := fmt.Sprintf("cert = %s\nkey = %s\nCAfile = %s\nverifyChain = yes\n", inside("cert.pem"), inside("key.pem"), inside("cert.pem"))
	var g group
	for name, service := range map[string]string{
		"server.conf": fmt.Sprintf("[nfs]\naccept = %s\nconnect = %s\n", far, b.server),
		"client.conf": fmt.Sprintf("[nfs]\nclient = yes\naccept = %s\nconnect = %s\n", near, far),
	} {
		if err := os.WriteFile(b.file(name), []byte(stunnelConfig+service+identity), 0o600); err != nil {
			return g, "", err
		}
		command, err := b.startPeer(&b.log, "stunnel", inside(name))
		if err != nil {
			return g, "", err
		}
		g = append(g, command)
	}
	return g, near, nil
}

// The file system that stunnel plays, which has its name in the certificate.
const (
	efsID     = "fs-01234567"
	efsRegion = "eu-west-1"
	efsName   = efsID + ".efs." + efsRegion + ".amazonaws.com"
)

// relayEFS has the relay show EFS who it is, as the plugin does for a volume with tls=on; beside
// the server is stunnel, as in its own pair.
func (b *bench) relayEFS() (group, string, error) {
	near, far, err := b.certificates()
	if err != nil {
		return nil, "", err
	}
	config := fmt.Sprintf("%scert = %s\nkey = %s\n[nfs]\naccept = %s\nconnect = %s\n", stunnelConfig, inside("cert.pem"), inside("key.pem"), far, b.server)
	if err := os.WriteFile(b.file("efs.conf"), []byte(config), 0o600); err != nil {
		return nil, "", err
	}
	server, err := b.startPeer(&b.log, "stunnel", inside("efs.conf"))
	if err != nil {
		return nil, "", err
	}
	client, err := start(&b.log, b.program, "relay", "--listen", near, "--target", "a="+far, "--max-connections", manyConns, "--max-per-client", "0", "--log-level", "error",
		"--tls", "--filesystem", efsID, "--region", efsRegion, "--ca-file", b.file("cert.pem"))
	if err != nil {
		return group{server}, "", err
	}
	return group{server, client}, near, nil
}

// certificates makes one certificate that both ends show and trust.
func (b *bench) certificates() (near, far string, err error) {
	if near, far, err = freeAddrs(); err != nil {
		return "", "", err
	}
	if _, err := os.Stat(b.file("cert.pem")); err == nil {
		return near, far, nil
	}
	var said bytes.Buffer
	command, err := b.startPeer(&said, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
		"-keyout", inside("key.pem"), "-out", inside("cert.pem"), "-subj", "/CN=bench", "-addext", "subjectAltName=DNS:bench,DNS:"+efsName, "-days", "2")
	if err != nil {
		return "", "", err
	}
	if err := command.Wait(); err != nil {
		return "", "", fmt.Errorf("openssl: %w: %s", err, said.String())
	}
	return near, far, nil
}

// startPeer starts a program of the peers' tree, which sees the files as inside.
func (b *bench) startPeer(log *bytes.Buffer, program string, args ...string) (*exec.Cmd, error) {
	const enter = `tree=$1 files=$2; shift 2; mount --bind "$files" "$tree/mnt" && mount --rbind /dev "$tree/dev" && exec chroot "$tree" "$@"`
	return start(log, "unshare", append([]string{"--mount", "sh", "-c", enter, "sh", b.peers, b.dir, program}, args...)...)
}

func (b *bench) file(name string) string { return filepath.Join(b.dir, name) }

func inside(name string) string { return "/mnt/" + name }
