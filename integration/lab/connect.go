package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	connectLimit = time.Minute      // for a host to answer ssh
	dialLimit    = 15 * time.Second // for one attempt
	dialPause    = 100 * time.Millisecond
	abandonLimit = time.Second // for a killed command to end
)

// errOff is why a host that has no power cannot be reached.
var errOff = errors.New("the host is off: power it on first")

// session opens a session on the host, over a new connection if the old one has
// broken unnoticed, as after a reboot.
func (h *Host) session(ctx context.Context) (*ssh.Session, error) {
	for attempt := 0; ; attempt++ {
		client, err := h.connect(ctx)
		if err != nil {
			return nil, err
		}
		session, err := h.openSession(ctx, client)
		if err == nil {
			return session, nil
		}
		if ctx.Err() != nil || attempt > 0 {
			return nil, fmt.Errorf("%s: open a session: %w", h.name, err)
		}
		h.drop(client)
	}
}

// openSession gives up when ctx ends; a host that is paused answers late or never.
func (h *Host) openSession(ctx context.Context, client *ssh.Client) (*ssh.Session, error) {
	type result struct {
		session *ssh.Session
		err     error
	}
	opened := make(chan result, 1)
	go func() {
		session, err := client.NewSession()
		opened <- result{session, err}
	}()
	select {
	case r := <-opened:
		return r.session, r.err
	case <-ctx.Done():
		go func() {
			if r := <-opened; r.err == nil {
				r.session.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// abandon kills the session's command and waits a moment for it, so that a caller
// may look at its effects; a host that hangs is not waited for.
func (h *Host) abandon(session *ssh.Session, told *pidLine, done <-chan error) {
	client := h.connected()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		// Errors mean that the connection is gone or the command has ended.
		if pid := told.pid(); pid != "" && client != nil {
			if killer, err := client.NewSession(); err == nil {
				_ = killer.Run("kill -s KILL -- -" + pid)
				_ = killer.Close()
			}
		}
		_ = session.Close()
		<-done //nolint:errcheck // how it ended does not matter any more
	}()
	select {
	case <-ended:
	case <-time.After(abandonLimit):
	}
}

// connect returns the open connection or opens one, which it tries until ctx ends
// or a minute has passed.
func (h *Host) connect(ctx context.Context) (*ssh.Client, error) {
	h.dialing.Lock()
	defer h.dialing.Unlock()
	if client := h.connected(); client != nil {
		return client, nil
	}
	config, err := h.lab.cache.clientConfig()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	for {
		if err := h.ended(); err != nil {
			return nil, err
		}
		client, err := dialSSH(ctx, net.JoinHostPort(h.address.String(), "22"), config)
		if err == nil {
			h.setClient(client)
			go func() {
				_ = client.Wait() // the connection broke, or was closed
				h.drop(client)
			}()
			return client, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to %s: %w", h.name, err)
		case <-time.After(dialPause):
		}
	}
}

// ended is nil while the host runs and otherwise says why it cannot be reached.
func (h *Host) ended() error {
	m := h.running()
	if m == nil {
		return fmt.Errorf("%s: %w", h.name, errOff)
	}
	select {
	case <-m.gone:
		return fmt.Errorf("%s ended by itself: power it off and on; its console ends: %s", h.name, tail(m.console.String()))
	default:
		return nil
	}
}

func dialSSH(ctx context.Context, address string, config *ssh.ClientConfig) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c, channels, requests, err := ssh.NewClientConn(conn, address, config)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return ssh.NewClient(c, channels, requests), nil
}

// clientConfig logs in with the image's key and knows the hosts by theirs.
func (c *cache) clientConfig() (*ssh.ClientConfig, error) {
	pem, err := os.ReadFile(filepath.Join(c.image, "id"))
	if err != nil {
		return nil, fmt.Errorf("read the hosts' key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return nil, fmt.Errorf("read the hosts' key: %w", err)
	}
	line, err := os.ReadFile(filepath.Join(c.image, "host-key.pub"))
	if err != nil {
		return nil, err
	}
	hostKey, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return nil, fmt.Errorf("read the key that hosts show: %w", err)
	}
	return &ssh.ClientConfig{
		User:            "root",
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: ssh.FixedHostKey(hostKey),
	}, nil
}

func (h *Host) connected() *ssh.Client {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.client
}

func (h *Host) setClient(client *ssh.Client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.client = client
}

// drop forgets and closes client, unless another took its place.
func (h *Host) drop(client *ssh.Client) {
	h.mu.Lock()
	if h.client == client {
		h.client = nil
	}
	h.mu.Unlock()
	client.Close()
}

func (h *Host) disconnect() {
	if client := h.connected(); client != nil {
		h.drop(client)
	}
}
