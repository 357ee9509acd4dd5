package keeper

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// IsWorker says whether this process was started as a worker by [Run]. It is true
// until [Inherited] is called.
func IsWorker() bool { return os.Getenv(environment) != "" }

// Kept is a worker's view of what its parent keeps. The zero value has no parent and
// keeps nothing, and all its methods succeed.
type Kept struct {
	beside bool // see Beside

	mu sync.Mutex // guards the following, and one question and its answer
	// parent is nil if there is none.
	parent *net.UnixConn
	names  map[string]bool
	// unclaimed are those that nobody has asked for yet.
	unclaimed map[string]net.Listener
}

// Inherited takes all listeners that the parent keeps. Without a parent it gives a
// Kept that keeps nothing. It is to be called once, early: until then a child of this
// process would take itself for the worker.
//
// After an error some listeners may be missing here; the parent still has them, and
// a worker that exits with an error gets another chance.
func Inherited() (*Kept, error) {
	kept := &Kept{names: map[string]bool{}, unclaimed: map[string]net.Listener{}}
	value, given := os.LookupEnv(environment)
	if !given {
		return kept, nil
	}
	if err := os.Unsetenv(environment); err != nil {
		return nil, fmt.Errorf("inherit listeners: %w", err)
	}
	value, kept.beside = strings.CutSuffix(value, besideMark)
	parent, err := parentAt(value)
	if err != nil {
		return nil, fmt.Errorf("inherit listeners: %s=%s, which only a parent may set: %w", environment, value, err)
	}
	kept.parent = parent
	if err := kept.takeAll(); err != nil {
		kept.close()
		return nil, fmt.Errorf("inherit listeners: %w", err)
	}
	return kept, nil
}

// Beside tells whether, when this worker was started, an earlier one had been killed and not ended. It
// runs no more, but sockets that it had accepted may still be open.
func (k *Kept) Beside() bool { return k.beside }

// parentAt gives the connection that the parent made. Somebody may have set the
// variable who is none.
func parentAt(value string) (*net.UnixConn, error) {
	fd, err := strconv.Atoi(value)
	if err != nil {
		return nil, err
	}
	if fd <= 2 {
		return nil, fmt.Errorf("%d is a standard file", fd)
	}
	maker, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, err
	}
	if int(maker.Pid) != os.Getppid() {
		return nil, fmt.Errorf("a socket of process %d, and the parent is %d", maker.Pid, os.Getppid())
	}
	return connection(fd)
}

func (k *Kept) takeAll() error {
	for last := ""; ; {
		name, file, err := k.ask(question{opNext, last}, nil)
		if err != nil {
			return err
		}
		if name == "" {
			return nil
		}
		if file == nil {
			return fmt.Errorf("%s came without its listener", name)
		}
		listener, err := net.FileListener(file)
		_ = file.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		k.names[name], k.unclaimed[name], last = true, listener, name
	}
}

// Listener gives a listener that an earlier worker kept, or nil if there is none of
// that name. The caller owns and closes it; a second call gives nil.
func (k *Kept) Listener(name string) net.Listener {
	k.mu.Lock()
	defer k.mu.Unlock()
	listener, there := k.unclaimed[name]
	if !there {
		return nil
	}
	delete(k.unclaimed, name)
	return listener
}

// Names are the names of what the parent keeps, in order.
func (k *Kept) Names() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Sorted(maps.Keys(k.names))
}

// Keep gives the parent a TCP or Unix listener to keep, in place of an earlier one of
// that name, and returns when the parent has it. The caller still owns its listener,
// but from now on to close it does not close the socket: connections go on to be
// taken into its queue. [Kept.Drop] it as well.
//
// A Unix listener's file stays when it is closed, for the next worker.
func (k *Kept) Keep(name string, listener net.Listener) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.parent == nil {
		return nil
	}
	raw, ok := listener.(syscall.Conn)
	if !ok {
		return fmt.Errorf("keep %s: %T has no descriptor", name, listener)
	}
	control, err := raw.SyscallConn()
	if err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	var refused error
	if err := control.Control(func(fd uintptr) {
		_, _, refused = k.ask(question{opKeep, name}, unix.UnixRights(int(fd)))
	}); err != nil || refused != nil {
		return fmt.Errorf("keep %s: %w", name, errors.Join(err, refused))
	}
	if unixListener, ok := listener.(*net.UnixListener); ok {
		unixListener.SetUnlinkOnClose(false)
	}
	k.names[name] = true
	return nil
}

// Drop makes the parent close its copy of a listener. The worker's own copy, if
// [Kept.Listener] gave it out, stays open until its owner closes it. To drop what is
// not kept is no error.
func (k *Kept) Drop(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.parent == nil {
		return nil
	}
	if _, _, err := k.ask(question{opDrop, name}, nil); err != nil {
		return fmt.Errorf("drop %s: %w", name, err)
	}
	delete(k.names, name)
	if listener, there := k.unclaimed[name]; there {
		delete(k.unclaimed, name)
		_ = listener.Close()
	}
	return nil
}

// ask puts a question to the parent. The caller owns the file that comes back, which
// is nil if none does.
func (k *Kept) ask(q question, rights []byte) (string, *os.File, error) {
	if len(q.name) > maxName {
		return "", nil, checkName(q.name)
	}
	if _, _, err := k.parent.WriteMsgUnix(q.message(), rights, nil); err != nil {
		return "", nil, err
	}
	message, control := make([]byte, maxAnswer), make([]byte, unix.CmsgSpace(4))
	n, controls, _, _, err := k.parent.ReadMsgUnix(message, control)
	descriptors := received(control[:controls])
	if err != nil {
		closeAll(descriptors)
		return "", nil, err
	}
	text, err := parseAnswer(message[:n])
	if err != nil || len(descriptors) != 1 {
		closeAll(descriptors)
		return text, nil, err
	}
	return text, os.NewFile(uintptr(descriptors[0]), text), nil
}

func (k *Kept) close() {
	for _, listener := range k.unclaimed {
		_ = listener.Close()
	}
	_ = k.parent.Close()
}
