package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

const (
	// firstDescriptor is where systemd puts the first socket.
	firstDescriptor = 3
	// maxDescriptors is beyond what any unit has.
	maxDescriptors = 256
)

// Listener is a socket that systemd listens on. Whoever asked for it closes it.
type Listener struct {
	// Name is FileDescriptorName= of the unit; without that, the unit's name.
	Name string
	net.Listener
}

// Listeners returns the sockets that systemd gave to this process, none if it gave none. It
// is called once: the variables that tell of them are gone then.
func Listeners() ([]Listener, error) {
	names, err := given(os.Getenv, os.Getpid())
	for _, variable := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		err = errors.Join(err, os.Unsetenv(variable))
	}
	if err != nil {
		return nil, err
	}
	return adopt(firstDescriptor, names)
}

// given reads the variables: a name for each descriptor.
func given(getenv func(string) string, self int) ([]string, error) {
	count, of := getenv("LISTEN_FDS"), getenv("LISTEN_PID")
	if count == "" || of != "" && of != strconv.Itoa(self) {
		return nil, nil // for nobody, or for a process that started this one
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > maxDescriptors || of == "" {
		return nil, fmt.Errorf("sockets from systemd: LISTEN_FDS=%q, LISTEN_PID=%q are none of systemd's: unset them", count, of)
	}
	names := make([]string, n)
	if text := getenv("LISTEN_FDNAMES"); text != "" {
		said := strings.Split(text, ":")
		if len(said) != n {
			return nil, fmt.Errorf("sockets from systemd: LISTEN_FDNAMES=%q has %d names for %d sockets", text, len(said), n)
		}
		copy(names, said)
	}
	return names, nil
}

// adopt makes listeners of descriptors that follow each other, all or none.
func adopt(first int, names []string) ([]Listener, error) {
	var all []Listener
	var failed error
	for i, name := range names {
		listener, err := take(first + i)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("socket %d from systemd (%s): %w; its unit needs ListenStream= and Accept=no", i, name, err))
			continue
		}
		all = append(all, Listener{name, listener})
	}
	if failed == nil {
		return all, nil
	}
	for _, listener := range all {
		_ = listener.Close()
	}
	return nil, failed
}

// take makes a listener of a descriptor, which it closes.
func take(descriptor int) (net.Listener, error) {
	// Children must not have it, whatever becomes of it here.
	syscall.CloseOnExec(descriptor)
	file := os.NewFile(uintptr(descriptor), "systemd")
	defer file.Close()
	listens, err := syscall.GetsockoptInt(descriptor, syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN)
	if err != nil || listens == 0 {
		return nil, errors.New("it does not listen")
	}
	return net.FileListener(file)
}
