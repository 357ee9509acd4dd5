package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/docker-volume-efs/docker-volume-efs/plugin"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/gateway"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/keeper"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/systemd"
)

// relayName is what the worker is called in lists of processes.
const relayName = "docker-volume-efs-relay"

// What a socket is for: the names that the parent keeps them by, each with a number, and
// FileDescriptorName= in systemd's unit.
const (
	forClients = "listen"
	forPeers   = "peer"
	forHTTP    = "http"
)

// gateway makes what the plan is about.
func (p relayPlan) gateway(log logrus.FieldLogger) (*gateway.Gateway, error) {
	p.options.Log = log
	p.options.HTTP = func(g *gateway.Gateway) http.Handler { return pagesOf(g, log) }
	if p.files != nil {
		side := gateway.Listens
		if p.options.Peers {
			side = gateway.Connects
		}
		if p.options.Peers && len(p.peerListen) > 0 {
			side |= gateway.Listens
		}
		identity, err := gateway.NewIdentity(*p.files, p.peerName, side, log)
		if err != nil {
			return nil, err
		}
		p.options.Identity = identity
	}
	if p.efs != nil {
		client, err := p.efs()
		if err != nil {
			return nil, err
		}
		p.options.EFS = client
	}
	return gateway.New(p.options)
}

// keepServing is the parent's part: it has the sockets, its own and those of systemd, and
// keeps them open while workers come and go.
func (p relayPlan) keepServing(status *int) (exit int, err error) {
	logger, lines := plugin.NewLog(os.Stdout, os.Stderr)
	go lines.Run()
	defer lines.Close()
	logger.SetLevel(p.level)
	listeners, err := p.sockets()
	if err != nil {
		return 0, err
	}
	// A worker that cannot do what it is told would be started again and again.
	if err := p.fits(listeners, status); err != nil {
		closeListeners(listeners)
		return 0, err
	}
	return keeper.Run(context.Background(), keeper.Options{
		Worker:    append([]string{relayName}, os.Args[1:]...),
		Listeners: listeners,
		Log:       logger,
	})
}

// fits says why a worker would refuse. A region that nobody tells yet and a certificate that
// is being renewed are trouble that may pass; listeners that do not go with the options are not.
func (p relayPlan) fits(listeners map[string]net.Listener, status *int) error {
	silent := logrus.New()
	silent.SetLevel(logrus.PanicLevel)
	g, err := p.gateway(silent)
	if err != nil {
		return err
	}
	sorted, err := sortListeners(listeners)
	if err == nil {
		err = g.CheckListeners(sorted)
	}
	if err != nil {
		*status = exitUsage
	}
	return err
}

// sockets takes systemd's and makes those that are missing. After an error none is open.
func (p relayPlan) sockets() (map[string]net.Listener, error) {
	all := make(map[string]net.Listener)
	given, err := systemd.Listeners()
	for i, socket := range given {
		kind, kindErr := kindOf(socket.Name)
		err = errors.Join(err, kindErr)
		all[kind+"/systemd-"+strconv.Itoa(i)] = socket.Listener
	}
	for kind, addresses := range map[string][]netip.AddrPort{forClients: p.listen, forPeers: p.peerListen, forHTTP: {p.http}} {
		for i, address := range addresses {
			if err != nil || !address.IsValid() || serves(all, kind, address) {
				continue
			}
			var listener net.Listener
			if listener, err = listenTCP(address); err == nil {
				all[kind+"/"+strconv.Itoa(i)] = listener
			}
		}
	}
	if err != nil {
		closeListeners(all)
		return nil, err
	}
	return all, nil
}

// kindOf says what a socket of systemd's is for. One without a name of its own has its
// unit's.
func kindOf(name string) (string, error) {
	switch {
	case name == forClients || name == forPeers || name == forHTTP:
		return name, nil
	case name == "" || name == "unknown" || strings.HasSuffix(name, ".socket"):
		return forClients, nil
	}
	return "", fmt.Errorf("socket %q from systemd: what is it for? Write FileDescriptorName=%s, %s or %s into its unit", name, forClients, forPeers, forHTTP)
}

// serves reports whether systemd listens there already.
func serves(all map[string]net.Listener, kind string, address netip.AddrPort) bool {
	for name, listener := range all {
		tcp, is := listener.Addr().(*net.TCPAddr)
		if is && strings.HasPrefix(name, kind+"/systemd-") && tcp.Port == int(address.Port()) &&
			(tcp.IP.IsUnspecified() && address.Addr().IsUnspecified() || tcp.AddrPort().Addr().Unmap() == address.Addr()) {
			return true
		}
	}
	return false
}

// listenTCP waits a moment for the worker of a parent that was killed: the kernel ends it
// as well, but not in the same instant.
func listenTCP(address netip.AddrPort) (net.Listener, error) {
	for begun := time.Now(); ; {
		listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(address))
		switch {
		case err == nil:
			return listener, nil
		case errors.Is(err, syscall.EADDRINUSE) && time.Since(begun) < takeOverLimit:
			timer := time.NewTimer(takeOverPause)
			<-timer.C
			continue
		case errors.Is(err, syscall.EADDRINUSE):
			err = fmt.Errorf("another process listens there (ss -ltnp tells which)")
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			err = errors.New("this machine has no such address")
		}
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
}

// sortListeners tells by their names what sockets are for.
func sortListeners(all map[string]net.Listener) (sorted gateway.Listeners, err error) {
	for name, listener := range all {
		tcp, is := listener.(*net.TCPListener)
		kind, _, _ := strings.Cut(name, "/")
		switch {
		case kind == forHTTP:
			sorted.HTTP = listener
		case !is:
			err = errors.Join(err, fmt.Errorf("socket %s: NFS takes TCP: write ListenStream=address:port into its unit", listener.Addr()))
		case kind == forPeers:
			sorted.Peer = append(sorted.Peer, tcp)
		default:
			sorted.Plain = append(sorted.Plain, tcp)
		}
	}
	for _, same := range [][]*net.TCPListener{sorted.Plain, sorted.Peer} {
		slices.SortFunc(same, func(a, b *net.TCPListener) int { return strings.Compare(a.Addr().String(), b.Addr().String()) })
	}
	return sorted, err
}

func closeListeners(all map[string]net.Listener) {
	for _, listener := range all {
		_ = listener.Close()
	}
}

// serve is the worker's part.
func (p relayPlan) serve() error {
	debug.SetGCPercent(gcPercent) // 1,000 idle connections: 27.9 MiB resident, 29.6 with Go's 100
	// Nobody may read the log any more; that is no reason to end.
	signal.Ignore(syscall.SIGPIPE)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer close(signals)
	defer signal.Stop(signals)
	logger, lines := plugin.NewLog(os.Stdout, os.Stderr)
	go lines.Run()
	defer lines.Close()
	logger.SetLevel(p.level)
	kept, err := keeper.Inherited()
	if err != nil {
		return err
	}
	g, err := p.gateway(logger)
	if err != nil {
		return err
	}
	all := make(map[string]net.Listener)
	for _, name := range kept.Names() {
		all[name] = kept.Listener(name)
	}
	defer closeListeners(all)
	listeners, err := sortListeners(all)
	if err != nil {
		return err
	}
	if p.data != "" {
		if listeners.Control, err = plugin.Listen(p.data); err != nil {
			// Clients matter more than the status command.
			logger.Errorf("no status and no drain on this host: %v", err)
		} else {
			defer listeners.Control.Close()
		}
	}
	ctx, end := context.WithCancel(context.Background())
	defer end()
	go hear(ctx, signals, g, end, logger)
	return g.Serve(ctx, listeners)
}

// hear does what signals tell, until the end of all.
func hear(ctx context.Context, signals <-chan os.Signal, g *gateway.Gateway, end context.CancelFunc, log logrus.FieldLogger) {
	for s := range signals {
		switch {
		case s == syscall.SIGHUP:
			if err := g.Reload(); err != nil {
				log.Errorf("the new certificate is not used, the old one is: %v", err)
			}
		case ctx.Err() != nil:
			g.EndNow() // told twice
		default:
			end()
		}
	}
}
