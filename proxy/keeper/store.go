package keeper

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// store holds the parent's listeners. One goroutine uses it at a time: a worker's
// questions are answered by one, which ends before the next worker starts.
//
// They are plain descriptors: what is an [os.File] or a [net.Listener] stands in
// the poller, and every connection that arrives would wake the parent.
type store map[string]int

// serve answers a worker's questions until it or the caller hangs up. Nothing that a
// worker sends makes it fail: it gets a bad answer. Only a message of nothing cannot
// be told from the end, and so it is one, at both ends.
func (s store) serve(conn *net.UnixConn) {
	defer conn.Close()
	// One byte more than is allowed, so that too long is seen. Room for one
	// descriptor: the kernel closes those that do not fit.
	message := make([]byte, maxQuestion+1)
	control := make([]byte, unix.CmsgSpace(4))
	for {
		n, controls, _, _, err := conn.ReadMsgUnix(message, control)
		descriptors := received(control[:controls])
		if err != nil {
			closeAll(descriptors)
			return
		}
		name, fd, err := s.answer(message[:n], descriptors)
		var rights []byte
		if fd >= 0 {
			rights = unix.UnixRights(fd)
		}
		if _, _, err := conn.WriteMsgUnix(answer(name, err), rights, nil); err != nil {
			return
		}
	}
}

// answer does what a message asks for. It takes the descriptors that came with it, and
// gives one that goes with the answer or -1; that one stays the store's.
func (s store) answer(message []byte, descriptors []int) (string, int, error) {
	q, err := parseQuestion(message)
	if err == nil && q.op == opKeep {
		err = s.keep(q.name, descriptors)
	} else {
		closeAll(descriptors)
	}
	if err != nil {
		return "", -1, err
	}
	switch q.op {
	case opDrop:
		s.drop(q.name)
	case opNext:
		if name := s.next(q.name); name != "" {
			return name, s[name], nil
		}
	}
	return "", -1, nil
}

// takeOver keeps the parent's own listeners. What fails is closed with the rest.
func (s store) takeOver(listeners map[string]net.Listener) error {
	for name, listener := range listeners {
		if err := s.takeOne(name, listener); err != nil {
			return fmt.Errorf("keep listener %s: %w", name, err)
		}
	}
	return nil
}

func (s store) takeOne(name string, listener net.Listener) error {
	defer listener.Close()
	if unixListener, ok := listener.(*net.UnixListener); ok {
		unixListener.SetUnlinkOnClose(false) // the file is the workers'
	}
	conn, ok := listener.(syscall.Conn)
	if !ok {
		return errors.New("not a socket")
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	fd := -1
	dupErr := raw.Control(func(from uintptr) {
		fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err := errors.Join(dupErr, err); err != nil {
		return err
	}
	return s.keep(name, []int{fd})
}

// keep takes the descriptors; a listener is kept, everything else closed.
func (s store) keep(name string, descriptors []int) error {
	err := s.admits(name, descriptors)
	if err != nil {
		closeAll(descriptors)
		return err
	}
	s.drop(name)
	s[name] = descriptors[0]
	return nil
}

func (s store) admits(name string, descriptors []int) error {
	if len(descriptors) != 1 {
		return fmt.Errorf("%d descriptors, want one listener", len(descriptors))
	}
	if listens, err := unix.GetsockoptInt(descriptors[0], unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listens == 0 {
		return errors.New("not a socket that listens")
	}
	if _, replaced := s[name]; !replaced && len(s) >= maxKept {
		return fmt.Errorf("%d listeners are kept, no more are", maxKept)
	}
	return nil
}

// drop closes a listener. To drop what is not there is no error: a worker may have
// died between its question and the answer.
func (s store) drop(name string) {
	if fd, there := s[name]; there {
		_ = unix.Close(fd)
		delete(s, name)
	}
}

// next is the name that follows the given one, in order; empty after the last.
func (s store) next(after string) string {
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if name > after {
			return name
		}
	}
	return ""
}

func (s store) close() {
	for name := range s {
		s.drop(name)
	}
}
