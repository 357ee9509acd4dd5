package lab

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// PreparePeers builds a Debian tree with the programs that the plugin is measured beside, and
// those that play AWS, into the cache, if it is not there already, and returns its directory. Like [Prepare], which
// is called before it, it needs root and the machine's package sources.
func PreparePeers(ctx context.Context, suite string, log io.Writer) (dir string, err error) {
	root, err := cacheRoot()
	if err != nil {
		return "", err
	}
	digest, err := digestScripts(func(path string) bool { return path == "peers.sh" || path == "bootstrap.sh" })
	if err != nil {
		return "", err
	}
	dir = filepath.Join(root, "peers-"+suite+"-"+digest)
	lock, err := lockFile(ctx, dir+".lock", unix.LOCK_EX, nil)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if exists(dir) {
		return dir, nil
	}
	fmt.Fprintf(log, "peers: building a tree with HAProxy, stunnel, fio, moto and dnsmasq into %s (once)\n", dir)
	if err := runScript(ctx, log, "peers.sh", suite, dir); err != nil {
		return "", fmt.Errorf("build the peers' tree: %w", err)
	}
	return dir, nil
}
