package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/web"
)

// httpAgain is how often an address is tried that cannot be had, such as one that
// the host gets later, or that a process has which is ending.
const httpAgain = 2 * time.Second

// httpName is what the parent keeps the listener of EFS_HTTP as.
func httpName(addr netip.AddrPort) string { return "http/" + addr.String() }

// serveHTTP shows metrics and the status page until the context ends. What fails is
// told and tried again: volumes do not depend on it.
func serveHTTP(ctx context.Context, addr netip.AddrPort, kept driver.Listeners, pages http.Handler, log logrus.FieldLogger) {
	if !addr.Addr().IsLoopback() {
		log.Warnf("EFS_HTTP=%s: whoever can connect there sees file systems, volumes and errors; there is no password: use a loopback address, or a firewall", addr)
	}
	for told := false; ctx.Err() == nil; {
		listener, err := listenHTTP(addr, kept)
		if err == nil {
			log.Infof("metrics and status page at http://%s/", listener.Addr())
			told = false
			if err = web.Serve(ctx, listener, pages); err != nil {
				err = errors.Join(err, kept.Drop(httpName(addr))) // or the next one finds its port taken
			}
		}
		if err != nil && !told {
			log.Errorf("no metrics and no status page: EFS_HTTP=%s: %v; trying again every %v", addr, explainListen(err), httpAgain)
			told = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(httpAgain):
		}
	}
}

// listenHTTP takes the listener of an earlier worker, or makes one and has it kept, so
// that nobody who asks while a worker crashes is refused.
func listenHTTP(addr netip.AddrPort, kept driver.Listeners) (net.Listener, error) {
	if listener := kept.Listener(httpName(addr)); listener != nil {
		return listener, nil
	}
	listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr))
	if err != nil {
		return nil, err
	}
	if err := kept.Keep(httpName(addr), listener); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

func explainListen(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: another process has this port: end it, or set another one", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w: this host has no such address", err)
	}
	return err
}
