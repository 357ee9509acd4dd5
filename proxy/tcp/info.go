package tcp

import (
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// State is a connection's state by the kernel's numbers (include/net/tcp_states.h).
type State uint8

// The states that somebody here asks for.
const (
	Established State = 1
	// Closed is where a reset leads at once, whatever is still to be read.
	Closed State = 7
	// CloseWait: the other side sent its FIN, this one did not.
	CloseWait State = 8
	lastACK   State = 9
	closing   State = 11
)

// Info is what the kernel knows of a connection. Reading it costs nothing on the
// way of the data.
type Info struct {
	State State
	// Sent are the bytes sent, Acked those of them that the other side has, and
	// Received those that came in order. They survive a reset, not Close.
	Sent, Acked, Received uint64
	// Unacked are segments on their way, NotSent bytes that wait to be sent.
	Unacked, NotSent uint32
	// Retransmits counts segments sent again.
	Retransmits uint32
	// SinceACK is the time since anything was acknowledged, however long before
	// that nothing was sent.
	SinceACK time.Duration
	RTT      time.Duration
}

// ReadInfo asks the kernel about a connection. A closed one has net.ErrClosed.
func ReadInfo(conn *net.TCPConn) (Info, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Info{}, fmt.Errorf("TCP_INFO: %w", err)
	}
	var kernel *unix.TCPInfo
	var failed error
	if err := raw.Control(func(fd uintptr) {
		kernel, failed = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); err != nil {
		return Info{}, fmt.Errorf("TCP_INFO: %w", err)
	}
	if failed != nil {
		return Info{}, fmt.Errorf("TCP_INFO: %w", failed)
	}
	return fromKernel(kernel), nil
}

// fromKernel counts bytes only: the kernel's counters of sequence numbers have
// one for SYN and one for FIN.
func fromKernel(kernel *unix.TCPInfo) Info {
	info := Info{
		State:       State(kernel.State),
		Sent:        kernel.Bytes_sent - kernel.Bytes_retrans,
		Received:    kernel.Bytes_received,
		Unacked:     kernel.Unacked,
		NotSent:     kernel.Notsent_bytes,
		Retransmits: kernel.Total_retrans,
		SinceACK:    time.Duration(kernel.Last_ack_recv) * time.Millisecond,
		RTT:         time.Duration(kernel.Rtt) * time.Microsecond,
	}
	if kernel.Bytes_acked > 0 {
		info.Acked = min(kernel.Bytes_acked-1, info.Sent)
	}
	switch info.State {
	case CloseWait, lastACK, closing:
		info.Received = max(info.Received, 1) - 1
	}
	return info
}
