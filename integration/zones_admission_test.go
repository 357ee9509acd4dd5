//go:build integration

package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A relay is for the kernel alone: whoever else connects is root, or may become it.
func (z *zones) testAdmission() {
	t := z.t
	z.write(time.Second, func() {})
	host, port, _ := strings.Cut(z.status("relay"), ":")
	// NFS's NULL call, as package proxy sends it to see whether a server answers. The connection
	// stays open behind it: nfs-ganesha owes a client that has closed its side no answer.
	const null = `(printf '\200\000\000\050\001\002\003\004\000\000\000\000\000\000\000\002\000\001\206\243\000\000\000\004` +
		`\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000'; sleep 3) | nc -w 5 %s %s | wc -c`
	if got := strings.TrimSpace(run(t, z.h, "busybox sh -c \""+strings.ReplaceAll(fmt.Sprintf(null, z.server.Addr("a"), "2049"), `"`, `\"`)+"\"")); got == "0" {
		t.Fatal("the server itself does not answer NULL: this test could not fail")
	}
	for _, row := range []struct{ name, command string }{
		{"a process of root on the host", "busybox sh -c \"" + null + "\""},
		{"root in a container with the host's network", "docker run --rm --network host busybox sh -c \"" + null + "\""},
		{"a privileged container", "docker run --rm --privileged --network host busybox sh -c \"" + null + "\""},
		{"a user in a container", "docker run --rm --user 1000 --network host busybox sh -c \"" + null + "\""},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := strings.TrimSpace(run(t, z.h, fmt.Sprintf(row.command, host, port))); got != "0" {
				t.Errorf("it got %s bytes", got)
			}
		})
	}
	z.survives(z.write(time.Second, func() {}))
}
