package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// hostLetters are the last letters of the hosts' names, host-a to host-f.
const hostLetters = "abcdef"

// Options say what to start. The zero value starts host-a and host-b of the main
// suite and says nothing.
type Options struct {
	Suite string    // Debian release of the hosts; empty: the first of Suites
	Hosts []string  // of host-a to host-f; nil: host-a and host-b
	Log   io.Writer // gets a line per long step; nil: nobody
}

// Lab is a running network of hosts and an NFS server.
type Lab struct {
	Server *Server

	cache    *cache
	snapshot snapshot
	lock     *os.File // keeps the image
	dir      string   // tmpfs of this lab, nobody else sees it
	hosts    map[string]*Host

	mu      sync.Mutex
	further map[string]*Server // guarded by mu; by name
	sites   map[string]*Site
}

// Start starts the server and the hosts, which are up when it returns: they
// answer commands and their Engines run. The suite's image must have been built
// by [Prepare]; the first Start of an image also makes its snapshot. It refuses to
// work outside the namespaces of [Isolate]. The caller owes Close.
func Start(ctx context.Context, options Options) (*Lab, error) {
	if os.Getpid() != 1 {
		return nil, errors.New("the lab would change this machine's network: call lab.Isolate or lab.Main first")
	}
	if options.Suite == "" {
		options.Suite = Suites()[0]
	}
	if options.Hosts == nil {
		options.Hosts = []string{"host-a", "host-b"}
	}
	if options.Log == nil {
		options.Log = io.Discard
	}
	cache, err := openCache(options.Suite)
	if err != nil {
		return nil, err
	}
	l := &Lab{cache: cache, dir: filepath.Join(cache.root, "run"), hosts: make(map[string]*Host), further: make(map[string]*Server), sites: make(map[string]*Site)}
	for _, name := range options.Hosts {
		address, err := hostAddress(name)
		if err != nil {
			return nil, err
		}
		l.hosts[name] = &Host{name: name, address: address, lab: l}
	}
	if l.snapshot, l.lock, err = cache.snapshot(ctx, options.Log); err != nil {
		return nil, err
	}
	step := stopwatch(options.Log, options.Suite+" lab")
	if err := l.start(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	step(fmt.Sprintf("server and %d hosts up", len(l.hosts)))
	return l, nil
}

func (l *Lab) start(ctx context.Context) error {
	// The directory stays in the cache, empty: what lies in it is in memory and
	// in this mount namespace only.
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("lab", l.dir, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount %s: %w", l.dir, err)
	}
	if err := addBridge(ctx); err != nil {
		return err
	}
	steps := []func() error{func() (err error) {
		l.Server, err = newServer(ctx, ServerOptions{Name: "nfs", Addresses: Addresses(11, 12, 13)}, l.tree(), l.dir)
		return err
	}}
	for _, h := range l.hosts {
		steps = append(steps, func() error { return h.wake(ctx) })
	}
	return parallel(steps)
}

// Host returns the host of that name, one of Options.Hosts; it panics for
// another, which is a mistake in the program.
func (l *Lab) Host(name string) *Host {
	h := l.hosts[name]
	if h == nil {
		panic("lab: no host " + name + " was started")
	}
	return h
}

// Hosts returns the hosts in the order of their names.
func (l *Lab) Hosts() []*Host {
	var hosts []*Host
	for _, letter := range hostLetters {
		if h := l.hosts["host-"+string(letter)]; h != nil {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// SecondServer returns a server that shares nothing with the first: address
// 10.77.0.21, its own file system. The first call starts it.
func (l *Lab) SecondServer(ctx context.Context) (*Server, error) {
	return l.AddServer(ctx, ServerOptions{Name: "nfs-second", Addresses: Addresses(21)})
}

// AddServer returns a further server by its name. The first call starts it.
func (l *Lab) AddServer(ctx context.Context, options ServerOptions) (*Server, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.further[options.Name]; s != nil {
		return s, nil
	}
	s, err := newServer(ctx, options, l.tree(), l.dir)
	if err != nil {
		return nil, err
	}
	l.further[options.Name] = s
	return s, nil
}

// AddSite returns a place in the hosts' network for programs that are no NFS server, by its
// name of at most 12 bytes. The first call makes it.
func (l *Lab) AddSite(ctx context.Context, name string, addresses ...netip.Addr) (*Site, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.sites[name]; s != nil {
		return s, nil
	}
	s, err := newSite(ctx, name, l.dir, addresses)
	if err != nil {
		return nil, err
	}
	l.sites[name] = s
	return s, nil
}

// Close ends hosts and servers and removes what they left. It is for programs
// that go on: when a program ends, the kernel does as much.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	for _, h := range l.hosts {
		err = errors.Join(err, h.close())
	}
	for _, s := range append(slices.Collect(maps.Values(l.further)), l.Server) {
		if s != nil {
			err = errors.Join(err, s.close())
		}
	}
	for _, s := range l.sites {
		err = errors.Join(err, s.close())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err = errors.Join(err, removeLink(ctx, bridge), unix.Unmount(l.dir, unix.MNT_DETACH))
	return errors.Join(err, l.lock.Close())
}

func (l *Lab) tree() string { return filepath.Join(l.cache.image, "tree") }

// hostAddress maps host-a to 10.77.0.101 and so on; /etc/hosts in the image says
// the same.
func hostAddress(name string) (netip.Addr, error) {
	letter, found := strings.CutPrefix(name, "host-")
	number := strings.Index(hostLetters, letter)
	if !found || len(letter) != 1 || number < 0 {
		return netip.Addr{}, fmt.Errorf("no host %q: hosts are named host-a to host-f", name)
	}
	return netip.AddrFrom4([4]byte{10, 77, 0, byte(101 + number)}), nil
}

func serverAddress(last byte) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 77, 0, last})
}

// parallel runs all steps at once and joins their errors.
func parallel(steps []func() error) error {
	errs := make([]error, len(steps))
	var group sync.WaitGroup
	for i, step := range steps {
		group.Go(func() { errs[i] = step() })
	}
	group.Wait()
	return errors.Join(errs...)
}
