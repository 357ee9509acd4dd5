package driver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/sunrpc"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/peer"
)

const (
	// admitLimit is how long the kernel may take to show a connection that it has
	// just made.
	admitLimit = 2 * time.Second
	admitFirst = 2 * time.Millisecond
)

// admit lets the kernel's NFS client through and nobody else, root or not. The
// kernel itself lists its connections with their ports; where it is too old for that, the
// socket's owner and control group have to do.
func (d *Driver) admit(conn *net.TCPConn) error {
	local, client := addrPort(conn.LocalAddr()), addrPort(conn.RemoteAddr())
	pause := admitFirst
	for begun := time.Now(); ; pause *= 2 {
		known, err := d.kernelHas(local, client)
		if known {
			return nil
		}
		if errors.Is(err, sunrpc.ErrUnsupported) {
			return peer.CheckKernel(conn)
		}
		if time.Since(begun) > admitLimit {
			return fmt.Errorf("%s is not the kernel's NFS client, for which this relay is alone", client)
		}
		select {
		case <-time.After(pause):
		case <-d.life.Done():
			return d.life.Err()
		}
	}
}

// kernelHas tells whether the kernel has a connection from client to a relay.
func (d *Driver) kernelHas(relay, client netip.AddrPort) (bool, error) {
	if d.rpc == nil {
		return false, sunrpc.ErrUnsupported
	}
	all, err := d.rpc.Transports()
	if err != nil {
		return false, err
	}
	for _, t := range all {
		if t.Connected && t.Server == relay.Addr() && t.ServerPort == relay.Port() && t.Local == client {
			return true, nil
		}
	}
	return false, nil
}

func addrPort(addr net.Addr) netip.AddrPort {
	tcp := addr.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(tcp.Addr().Unmap(), tcp.Port())
}
