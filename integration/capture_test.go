//go:build integration

package integration

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// capture reads all packets on one end of a virtual cable until the result is called, which
// returns their bytes.
func capture(t *testing.T, link string) (end func() string) {
	t.Helper()
	const everything = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, everything)
	if err != nil {
		t.Fatal(err)
	}
	request, err := unix.NewIfreq(link)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: everything, Ifindex: int(request.Uint32())})
	}
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
	}
	if err != nil {
		t.Fatalf("capture on %s: %v", link, err)
	}
	var all bytes.Buffer
	stop := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		defer unix.Close(fd)
		packet := make([]byte, 1<<16)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if n, err := unix.Read(fd, packet); err == nil {
				all.Write(packet[:n])
			}
		}
	})
	return func() string {
		time.Sleep(300 * time.Millisecond)
		close(stop)
		reading.Wait()
		return all.String()
	}
}
