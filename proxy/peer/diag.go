package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoSocket says that this host and network namespace has no such socket: the
// connection came from elsewhere, or its other end is closed and forgotten.
var ErrNoSocket = errors.New("no socket of this host")

// Sizes and places in messages of sock_diag(7): a header (nlmsghdr), then a question
// (inet_diag_req_v2) or an answer (inet_diag_msg) and its attributes. Both hold the
// connection's addresses in one form (inet_diag_sockid).
const (
	headerSize    = unix.SizeofNlMsghdr
	questionSize  = 56
	questionID    = 8
	answerSize    = 72
	answerRetrans = 3
	answerID      = 4
	answerQueued  = 60
	answerUID     = 64
	answerInode   = 68
	idSize        = 48
	idCookie      = 40

	// attributeCgroup is INET_DIAG_CGROUP_ID.
	attributeCgroup = 21
	// sequence marks our question; each has a netlink socket of its own.
	sequence = 1
	// patience is for the kernel, which answers before the question's sendto
	// returns.
	patience = time.Second
)

// look asks for the socket with these addresses: local is its own.
func look(local, remote netip.AddrPort) (Socket, error) {
	s, err := ask(local, remote)
	if err != nil {
		return Socket{}, fmt.Errorf("who has %s, connected to %s: %w", local, remote, err)
	}
	return s, nil
}

func ask(local, remote netip.AddrPort) (Socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return Socket{}, fmt.Errorf("socket diagnostics: %w", err)
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return Socket{}, fmt.Errorf("socket diagnostics: %w", err)
	}
	if err := unix.Sendto(fd, question(local, remote), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return Socket{}, fmt.Errorf("socket diagnostics: %w", err)
	}
	answer := make([]byte, 4096)
	n, from, err := receive(fd, answer)
	if err != nil {
		return Socket{}, fmt.Errorf("socket diagnostics: %w", err)
	}
	// Any process may send to a netlink socket; the kernel is port 0.
	if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
		return Socket{}, errors.New("socket diagnostics: an answer that is not the kernel's")
	}
	return parse(answer[:n], local, remote)
}

func receive(fd int, answer []byte) (int, unix.Sockaddr, error) {
	for {
		n, from, err := unix.Recvfrom(fd, answer, 0)
		if !errors.Is(err, unix.EINTR) {
			return n, from, err
		}
	}
}

// question asks for one socket by its addresses.
func question(local, remote netip.AddrPort) []byte {
	message := make([]byte, headerSize+questionSize)
	order := binary.NativeEndian
	order.PutUint32(message[0:], uint32(len(message)))
	order.PutUint16(message[4:], unix.SOCK_DIAG_BY_FAMILY)
	order.PutUint16(message[6:], unix.NLM_F_REQUEST)
	order.PutUint32(message[8:], sequence)
	body := message[headerSize:]
	body[0] = unix.AF_INET
	if local.Addr().Is6() {
		body[0] = unix.AF_INET6
	}
	body[1] = unix.IPPROTO_TCP
	order.PutUint32(body[4:], ^uint32(0)) // in any state
	id := body[questionID:]
	binary.BigEndian.PutUint16(id[0:], local.Port())
	binary.BigEndian.PutUint16(id[2:], remote.Port())
	copy(id[4:20], local.Addr().AsSlice())
	copy(id[20:36], remote.Addr().AsSlice())
	order.PutUint64(id[idCookie:], ^uint64(0)) // no cookie
	return message
}

// parse reads an answer. For addresses that nobody is connected by, the kernel gives
// the socket that listens there, if any; that is none.
func parse(message []byte, local, remote netip.AddrPort) (Socket, error) {
	order := binary.NativeEndian
	if len(message) < headerSize {
		return Socket{}, fmt.Errorf("an answer of %d bytes", len(message))
	}
	length, kind := order.Uint32(message), order.Uint16(message[4:])
	if uint64(length) > uint64(len(message)) || length < headerSize || order.Uint32(message[8:]) != sequence {
		return Socket{}, fmt.Errorf("an answer of %d bytes that claims %d, to question %d", len(message), length, order.Uint32(message[8:]))
	}
	body := message[headerSize:length]
	if kind == unix.NLMSG_ERROR && len(body) >= 4 {
		errno := syscall.Errno(-int32(order.Uint32(body)))
		if errno == unix.ENOENT {
			return Socket{}, ErrNoSocket
		}
		return Socket{}, fmt.Errorf("socket diagnostics: %w", errno)
	}
	if kind != unix.SOCK_DIAG_BY_FAMILY || len(body) < answerSize {
		return Socket{}, fmt.Errorf("an answer of type %d and %d bytes", kind, len(body))
	}
	if from, to := addresses(body[0], body[answerID:answerID+idSize]); from != local || to != remote {
		return Socket{}, ErrNoSocket
	}
	s := Socket{
		UID: order.Uint32(body[answerUID:]), Inode: order.Uint32(body[answerInode:]),
		Queued: order.Uint32(body[answerQueued:]), Retransmits: body[answerRetrans],
	}
	s.Cgroup, s.HasCgroup = group(body[answerSize:])
	return s, nil
}

// addresses are a socket's own and the other end's; invalid ones if the family is
// neither.
func addresses(family byte, id []byte) (local, remote netip.AddrPort) {
	var from, to netip.Addr
	switch family {
	case unix.AF_INET:
		from, to = netip.AddrFrom4([4]byte(id[4:])), netip.AddrFrom4([4]byte(id[20:]))
	case unix.AF_INET6:
		from, to = netip.AddrFrom16([16]byte(id[4:])).Unmap(), netip.AddrFrom16([16]byte(id[20:])).Unmap()
	}
	return netip.AddrPortFrom(from, binary.BigEndian.Uint16(id[0:])), netip.AddrPortFrom(to, binary.BigEndian.Uint16(id[2:]))
}

// group finds the control group among the attributes: each is a length that includes
// its own four bytes, a type, and a value padded to four.
func group(attributes []byte) (uint64, bool) {
	const head = 4
	for len(attributes) >= head {
		length := int(binary.NativeEndian.Uint16(attributes))
		if length < head || length > len(attributes) {
			return 0, false
		}
		kind := binary.NativeEndian.Uint16(attributes[2:])
		if kind == attributeCgroup && length == head+8 {
			return binary.NativeEndian.Uint64(attributes[head:]), true
		}
		attributes = attributes[min((length+3)&^3, len(attributes)):]
	}
	return 0, false
}
