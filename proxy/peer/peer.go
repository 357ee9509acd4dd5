package peer

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// rootGroup is the id of the root of version 2 control groups, on every host: its
// inode in any mount of them.
const rootGroup = 1

// Socket is what the kernel tells of a socket.
type Socket struct {
	// UID is the user who made it, as this process's user namespace has it.
	UID uint32
	// Inode is what /proc/PID/fd shows for it; 0 if nobody has it open any more, and
	// then UID means nothing.
	Inode uint32
	// Cgroup is the id of the control group in which it was made, if HasCgroup:
	// Linux 5.9 and later, established connections.
	Cgroup    uint64
	HasCgroup bool
	// Queued is how many bytes it holds that the other end has not acknowledged, sent
	// or not.
	Queued uint32
	// Retransmits is how often the oldest of them was sent again.
	Retransmits uint8
}

func (s Socket) String() string {
	group := "unknown"
	switch {
	case s.HasCgroup && s.Cgroup == rootGroup:
		group = "root"
	case s.HasCgroup:
		group = fmt.Sprint(s.Cgroup)
	}
	return fmt.Sprintf("uid %d, inode %d, control group %s", s.UID, s.Inode, group)
}

// ErrBlind says that control groups tell nothing on this host: this process's own
// sockets are in the root group as the kernel's are, so that any process of root
// passes for the kernel. [CheckKernel] gives it only if nothing else is wrong.
var ErrBlind = errors.New("this process is in the root control group itself, so the kernel cannot be told from other processes of root; run it in a control group (version 2) of its own")

// Find gives this host's socket that has these addresses, local being its own. If
// there is none, the error is [ErrNoSocket].
func Find(local, remote netip.AddrPort) (Socket, error) { return look(local, remote) }

// Of gives the socket at the other end of a connection within this host and network
// namespace. If there is none, the error is [ErrNoSocket].
func Of(conn *net.TCPConn) (Socket, error) {
	local, remote, err := ends(conn)
	if err != nil {
		return Socket{}, err
	}
	return look(remote, local)
}

// CheckKernel gives nil if the other end of a connection is the kernel's, as far as
// can be told (see the package's document). The error names what was seen.
func CheckKernel(conn *net.TCPConn) error {
	local, remote, err := ends(conn)
	if err != nil {
		return err
	}
	other, err := look(remote, local)
	if err != nil {
		return err
	}
	own, err := look(local, remote)
	if err != nil {
		return err
	}
	return judge(remote, other, own)
}

// judge decides by what was seen at the other end and at our own.
func judge(remote netip.AddrPort, other, own Socket) error {
	var why string
	switch {
	case other.Inode == 0:
		why = "it is closed already"
	case other.UID != 0:
		why = "it is not root's"
	case !other.HasCgroup:
		why = "its control group cannot be told, which needs Linux 5.9"
	case other.Cgroup != rootGroup:
		why = "it was made in a container or a service"
	case !own.HasCgroup || own.Cgroup == rootGroup:
		return fmt.Errorf("%s is a socket of %s: %w", remote, other, ErrBlind)
	default:
		return nil
	}
	return fmt.Errorf("%s is a socket of %s, not the kernel's NFS client: %s", remote, other, why)
}

// ends are a connection's addresses, IPv4 in its own clothes: as the other end's
// socket has them.
func ends(conn *net.TCPConn) (local, remote netip.AddrPort, err error) {
	ours, isTCP := conn.LocalAddr().(*net.TCPAddr)
	theirs, areTCP := conn.RemoteAddr().(*net.TCPAddr)
	if !isTCP || !areTCP {
		return local, remote, fmt.Errorf("no TCP connection: %v, %v", conn.LocalAddr(), conn.RemoteAddr())
	}
	return plain(ours.AddrPort()), plain(theirs.AddrPort()), nil
}

func plain(addr netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(addr.Addr().Unmap().WithZone(""), addr.Port())
}
