package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/systemd"
)

// headerLimit is how long an asker of the control socket or of HTTP may take to ask.
const headerLimit = 5 * time.Second

// Listeners are what a gateway serves. The caller closes them, after Serve.
type Listeners struct {
	// Plain is for NFS clients, Peer for gateways that reach this one over mutual TLS.
	Plain, Peer []*net.TCPListener
	// Control answers commands; see [Gateway.Control]. Nil: none.
	Control net.Listener
	// HTTP is for what [Options.HTTP] makes. Nil: none.
	HTTP net.Listener
}

// listening is where a gateway listens, for the status.
type listening struct {
	plain, peer []netip.AddrPort
}

// Serve serves until the context ends. Then it takes no more clients, waits for those
// that there are, and resets those that stay; the error is nil.
func (g *Gateway) Serve(ctx context.Context, listeners Listeners) error {
	if err := g.CheckListeners(listeners); err != nil {
		return err
	}
	g.mu.Lock()
	g.where = listening{plain: addresses(listeners.Plain), peer: addresses(listeners.Peer)}
	g.mu.Unlock()
	g.announce(listeners)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Checks and commands go on while clients take their leave.
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	var background, serving sync.WaitGroup
	background.Go(func() { g.group.Run(inner) })
	if g.options.Identity != nil {
		background.Go(func() { g.options.Identity.watch(inner) })
	}
	if listeners.Control != nil {
		background.Go(func() { g.answer(inner, listeners.Control, g.Control()) })
	}
	if listeners.HTTP != nil && g.options.HTTP != nil {
		background.Go(func() { g.answer(inner, listeners.HTTP, g.options.HTTP(g)) })
	}
	for _, listener := range listeners.Plain {
		serving.Go(func() { cancel(g.relay.Serve(ctx, listener)) })
	}
	for _, listener := range listeners.Peer {
		serving.Go(func() { cancel(g.relay.ServeSecured(ctx, listener, g.options.Identity.open)) })
	}
	g.tell("READY=1\nSTATUS=serving")
	<-ctx.Done()
	g.tell("STOPPING=1")
	g.shutdown()
	serving.Wait()
	stop()
	background.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// CheckListeners says why Serve would refuse them.
func (g *Gateway) CheckListeners(listeners Listeners) error {
	if len(listeners.Plain)+len(listeners.Peer) == 0 {
		return errors.New("nothing to listen on: give --listen, or let a systemd socket start it")
	}
	if len(listeners.Peer) > 0 && g.options.Identity == nil {
		return errors.New("peers are accepted with a certificate only: none is given")
	}
	for _, listener := range slices.Concat(listeners.Plain, listeners.Peer) {
		own := listener.Addr().(*net.TCPAddr).AddrPort()
		for _, target := range g.options.Targets {
			if isOwn(netip.AddrPortFrom(own.Addr().Unmap(), own.Port()), target.Addr) {
				return fmt.Errorf("target %s is this gateway itself, which listens on %s", target, own)
			}
		}
	}
	return nil
}

// isOwn reports whether who listens there can be reached at that address, as far as
// the two tell.
func isOwn(listens, target netip.AddrPort) bool {
	return listens == target || listens.Port() == target.Port() && listens.Addr().IsUnspecified() && target.Addr().IsLoopback()
}

// answer serves HTTP until the context ends. That nobody can look is no reason to end.
func (g *Gateway) answer(ctx context.Context, listener net.Listener, handler http.Handler) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: headerLimit}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		g.log.Errorf("no more answers on %s: %v", listener.Addr(), err)
	}
}

// announce says what an operator wants to read at the start.
func (g *Gateway) announce(listeners Listeners) {
	allowed := g.options.Allow
	if len(allowed) == 0 {
		allowed = loopback()
	}
	for _, listener := range listeners.Plain {
		g.log.Infof("listening for NFS clients on %s, from %v", listener.Addr(), allowed)
	}
	for _, listener := range listeners.Peer {
		g.log.Infof("listening for peer gateways on %s", listener.Addr())
	}
	g.log.Infof("targets: %v; in use: %s", g.options.Targets, g.group.Current())
	if len(g.options.Allow) == 0 && len(listeners.Plain) > 0 {
		g.log.Warn("only clients of this machine are let in: name others' networks with --allow")
	}
}

// tell tells systemd, if it wants to know.
func (g *Gateway) tell(state string) {
	if err := systemd.Notify(state); err != nil {
		g.log.Warn(err)
	}
}

func addresses(listeners []*net.TCPListener) []netip.AddrPort {
	all := []netip.AddrPort{}
	for _, listener := range listeners {
		own := listener.Addr().(*net.TCPAddr).AddrPort()
		all = append(all, netip.AddrPortFrom(own.Addr().Unmap().WithZone(""), own.Port()))
	}
	return all
}

// State is what is known of the targets.
func (g *Gateway) State() proxy.GroupState { return g.group.State() }
