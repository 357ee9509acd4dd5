package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
)

// lookEvery is how often the files are looked at.
const lookEvery = 5 * time.Second

// Files are what an [Identity] is read from, all of them PEM.
type Files struct {
	// Cert is this gateway's certificate, with those between it and the authority that
	// the peer believes; Key is its private key.
	Cert, Key string
	// CA are the authorities whose certificates are believed of a peer. Nobody else's
	// are, not those that the system believes either.
	CA string
}

// Identity is who this gateway is and whom it takes for its peer. It follows its files.
type Identity struct {
	files Files
	name  string
	side  Side
	log   logrus.FieldLogger
	every time.Duration
	// handshakes that succeeded, and those of them that resumed a session.
	handshakes, resumed atomic.Uint64

	mu      sync.Mutex // guards the following fields
	current loaded
	stamps  [3]stamp
	problem error
}

// loaded are the files' contents, which belong together, and what follows from them. Its
// keys of session tickets are its own: who comes again after new files came is judged by
// these, whatever ticket it has.
type loaded struct {
	certificate tls.Certificate
	authorities *x509.CertPool
	// server is for peers that connect. clients has one for each peer that this gateway
	// connects to, since each peer reads its own tickets only.
	server  *tls.Config
	clients *clients
}

// Side is what an [Identity] is used for.
type Side uint8

const (
	// Listens: peers connect to this gateway.
	Listens Side = 1 << iota
	// Connects: this gateway connects to peers.
	Connects
)

// Certificate is what [Status] shows of an [Identity].
type Certificate struct {
	File     string    `json:"file"`
	Subject  string    `json:"subject"`
	Names    []string  `json:"names"`
	NotAfter time.Time `json:"not_after"`
	// Handshakes succeeded, Resumed of them without a signature.
	Handshakes uint64 `json:"handshakes"`
	Resumed    uint64 `json:"resumed"`
	// Problem is why newer files are not used.
	Problem string `json:"problem,omitempty"`
}

// stamp tells a file from what was there before.
type stamp struct {
	size     int64
	modified time.Time
	file     os.FileInfo // compared with os.SameFile: a replaced file may have its forerunner's time
}

// NewIdentity reads the files. The name is what a peer's certificate must be valid for; if
// it is empty, a peer that this gateway connects to must have its address there, and one that
// connects to this gateway any name.
func NewIdentity(files Files, name string, side Side, log logrus.FieldLogger) (*Identity, error) {
	i := &Identity{files: files, name: name, side: side, log: log, every: lookEvery}
	i.stamps = i.look()
	current, err := i.load(time.Now())
	if err != nil {
		return nil, err
	}
	i.current = current
	return i, nil
}

func (i *Identity) load(now time.Time) (loaded, error) {
	f := i.files
	certificate, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return loaded{}, fmt.Errorf("certificate %s with key %s: %w", f.Cert, f.Key, err)
	}
	if err := usable(certificate.Leaf, i.side, now); err != nil {
		return loaded{}, fmt.Errorf("certificate %s: %w", f.Cert, err)
	}
	pem, err := os.ReadFile(f.CA)
	if err != nil {
		return loaded{}, fmt.Errorf("the peer's authority: %w", err)
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(pem) {
		return loaded{}, fmt.Errorf("the peer's authority: %s has no certificate in PEM", f.CA)
	}
	l := loaded{certificate: certificate, authorities: authorities}
	l.server = i.serverConfig(l)
	l.clients = &clients{make: func(name string) *tls.Config { return i.clientConfig(l, name) }}
	return l, nil
}

// usable refuses a certificate that every peer would refuse, with words that the far end
// of a handshake does not get.
func usable(leaf *x509.Certificate, side Side, now time.Time) error {
	if now.After(leaf.NotAfter) {
		return fmt.Errorf("it has expired on %s", leaf.NotAfter.UTC().Format(time.DateTime))
	}
	if now.Before(leaf.NotBefore) {
		return fmt.Errorf("it is not valid before %s: look at this machine's clock (%s)",
			leaf.NotBefore.UTC().Format(time.DateTime), now.UTC().Format(time.DateTime))
	}
	may := func(usage x509.ExtKeyUsage) bool {
		return len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) == 0 ||
			slices.Contains(leaf.ExtKeyUsage, usage) || slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny)
	}
	switch {
	case side&Listens != 0 && !may(x509.ExtKeyUsageServerAuth):
		return errors.New("it is not for servers: make one with extendedKeyUsage=serverAuth,clientAuth")
	case side&Connects != 0 && !may(x509.ExtKeyUsageClientAuth):
		return errors.New("it is not for clients: make one with extendedKeyUsage=serverAuth,clientAuth")
	}
	return nil
}

// Reload reads the files again. After an error the old contents stay in use. Connections
// that there are stay as they are in any case.
func (i *Identity) Reload() error {
	stamps := i.look() // before reading: what changes meanwhile is seen the next time
	current, err := i.load(time.Now())
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stamps, i.problem = stamps, err
	if err != nil {
		return err
	}
	i.current = current
	return nil
}

// watch reads the files again when they have changed, until the context ends.
func (i *Identity) watch(ctx context.Context) {
	ticker := time.NewTicker(i.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if !i.changed() {
			continue
		}
		if err := i.Reload(); err != nil {
			i.log.Errorf("the new certificate is not used, the old one is: %v", err)
			continue
		}
		c := i.Certificate()
		i.log.Infof("new certificate %s (%s), valid until %s", c.File, c.Subject, c.NotAfter.UTC().Format(time.DateTime))
	}
}

func (i *Identity) look() (stamps [3]stamp) {
	for n, name := range []string{i.files.Cert, i.files.Key, i.files.CA} {
		if info, err := os.Stat(name); err == nil {
			stamps[n] = stamp{size: info.Size(), modified: info.ModTime(), file: info}
		}
	}
	return stamps
}

func (i *Identity) changed() bool {
	now := i.look()
	i.mu.Lock()
	defer i.mu.Unlock()
	for n, before := range i.stamps {
		after := now[n]
		if before.size != after.size || !before.modified.Equal(after.modified) || (before.file == nil) != (after.file == nil) ||
			before.file != nil && !os.SameFile(before.file, after.file) {
			return true
		}
	}
	return false
}

// count counts a handshake that succeeded.
func (i *Identity) count(conn *tls.Conn) {
	i.handshakes.Add(1)
	if conn.ConnectionState().DidResume {
		i.resumed.Add(1)
	}
}

func (i *Identity) now() loaded {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.current
}

// Certificate is what is in use.
func (i *Identity) Certificate() Certificate {
	i.mu.Lock()
	defer i.mu.Unlock()
	leaf := i.current.certificate.Leaf
	c := Certificate{
		File: i.files.Cert, Subject: leaf.Subject.String(), Names: leaf.DNSNames, NotAfter: leaf.NotAfter,
		Handshakes: i.handshakes.Load(), Resumed: i.resumed.Load(),
	}
	for _, ip := range leaf.IPAddresses {
		c.Names = append(c.Names, ip.String())
	}
	if i.problem != nil {
		c.Problem = i.problem.Error()
	}
	return c
}

// Trouble is what an operator should do something about.
func (c Certificate) Trouble(now time.Time) (all []string) {
	if c.Problem != "" {
		all = append(all, "newer certificate files are not used: "+c.Problem)
	}
	switch left := c.NotAfter.Sub(now); {
	case left < 0:
		all = append(all, fmt.Sprintf("certificate %s has expired: no new connection is possible", c.File))
	case left < expiresSoon:
		all = append(all, fmt.Sprintf("certificate %s expires on %s", c.File, c.NotAfter.UTC().Format(time.DateTime)))
	}
	return all
}
