package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

const bridge = "lab"

// addBridge makes the network that joins hosts and servers.
func addBridge(ctx context.Context) error {
	return command(ctx, `link add `+bridge+` type bridge
address add 10.77.0.1/24 dev `+bridge+`
link set `+bridge+` up
`, "ip", "-batch", "-")
}

// addTap makes a host's end of the network, not yet plugged in.
func addTap(ctx context.Context, name string) error {
	return command(ctx, "", "ip", "tuntap", "add", "dev", name, "mode", "tap")
}

func plugIn(ctx context.Context, name string) error {
	return command(ctx, "", "ip", "link", "set", "dev", name, "master", bridge, "up")
}

func removeLink(ctx context.Context, name string) error {
	return command(context.WithoutCancel(ctx), "", "ip", "link", "delete", name)
}

// namespace is a network namespace that lives as long as it is open or a process
// runs in it.
type namespace struct{ f *os.File }

// newNamespace makes one on a thread that returns to its own namespace after.
func newNamespace() (namespace, error) {
	runtime.LockOSThread()
	const self = "/proc/thread-self/ns/net"
	own, err := os.Open(self)
	if err != nil {
		runtime.UnlockOSThread()
		return namespace{}, err
	}
	defer own.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return namespace{}, fmt.Errorf("make a network namespace: %w", err)
	}
	f, openErr := os.Open(self)
	if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err != nil {
		// The thread is lost: it stays locked and ends with its goroutine.
		return namespace{}, fmt.Errorf("return from the new network namespace: %w", err)
	}
	runtime.UnlockOSThread()
	return namespace{f}, openErr
}

// path names the namespace to programs that this process starts.
func (n namespace) path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.f.Fd())
}

// enter returns the words that run a program inside.
func (n namespace) enter(words ...string) []string {
	return append([]string{"nsenter", "--net=" + n.path(), "--"}, words...)
}

func (n namespace) command(ctx context.Context, input string, words ...string) error {
	words = n.enter(words...)
	return command(ctx, input, words[0], words[1:]...)
}

// connect joins the namespace to the bridge and gives it the addresses.
func (n namespace) connect(ctx context.Context, name string, addresses []netip.Addr) error {
	err := command(ctx, fmt.Sprintf(`link add %[1]s type veth peer name %[1]s-in
link set %[1]s-in netns %[2]s
link set dev %[1]s master %[3]s up
`, name, n.path(), bridge), "ip", "-batch", "-")
	if err != nil {
		return err
	}
	var batch strings.Builder
	fmt.Fprintln(&batch, "link set lo up")
	for _, a := range addresses {
		fmt.Fprintf(&batch, "address add %s/24 dev %s-in\n", a, name)
	}
	fmt.Fprintf(&batch, "link set %s-in up\n", name)
	return n.command(ctx, batch.String(), "ip", "-batch", "-")
}
