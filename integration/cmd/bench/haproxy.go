package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

const (
	haproxyPort  = 2050
	haproxyLimit = 20 * time.Second // to listen
	haproxyMount = "/run/haproxy-nfs"
)

// haproxy is HAProxy in front of the file system. It runs beside the host, on this machine itself and
// without emulation: Debian's is built for processors with CMPXCHG16B, which the hosts do not have.
type haproxy struct {
	site    *lab.Site
	addr    string
	config  string // directory with haproxy.cfg
	peers   string
	program *lab.Program
}

// newHAProxy starts one that is configured as in AWS's forum and blogs: the own zone's target first,
// the others as backup.
func (b *bench) newHAProxy(zones []string) (*haproxy, error) {
	at := lab.Addresses(57)[0]
	site, err := b.lab.AddSite(b.ctx, "haproxy", at)
	if err != nil {
		return nil, err
	}
	h := &haproxy{site: site, addr: fmt.Sprintf("%s:%d", at, haproxyPort), config: b.files, peers: b.peers}
	var config strings.Builder
	fmt.Fprintf(&config, "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\nlisten nfs\n  bind %s\n", h.addr)
	backup := ""
	for _, zone := range zones {
		fmt.Fprintf(&config, "  server %s %s:2049 check inter 60s fastinter 15s downinter 5s%s\n", zone, b.lab.Server.Addr(zone), backup)
		backup = " backup"
	}
	if err := os.WriteFile(filepath.Join(h.config, "haproxy.cfg"), []byte(config.String()), 0o644); err != nil {
		return nil, err
	}
	if err := h.start(); err != nil {
		return nil, err
	}
	_, err = b.host.Run(b.ctx, fmt.Sprintf("mkdir -p %[1]s && unshare --uts sh -c 'hostname bench-haproxy && mount -t nfs4 -o "+
		"vers=4.1,port=%[2]d,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport %[3]s:/export %[1]s'", haproxyMount, haproxyPort, at))
	return h, err
}

func (h *haproxy) start() error {
	const enter = `mount --bind "$2" "$1/mnt" && exec chroot "$1" haproxy -db -f /mnt/haproxy.cfg`
	var err error
	if h.program, err = h.site.Run("haproxy", "unshare", "--mount", "sh", "-c", enter, "sh", h.peers, h.config); err != nil {
		return err
	}
	for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		conn, err := net.DialTimeout("tcp", h.addr, time.Second)
		if err == nil {
			return conn.Close()
		}
		if time.Since(begun) > haproxyLimit {
			return fmt.Errorf("HAProxy does not begin: %w\n%s", err, h.program.Log())
		}
	}
}

// restart has it begin anew, with the first zone.
func (h *haproxy) restart() error {
	h.program.Stop()
	return h.start()
}
