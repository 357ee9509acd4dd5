package driver

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// host is what this host is to the others.
type host struct {
	name string // for people: in records and errors
	id   string // unique and stable: part of NFS client identities
	boot string // changes with every start of the kernel
}

const (
	// bootIDFile and machineFile are the kernel's: the first is fresh at each
	// boot (random(4)), the second the machine's own UUID, on EC2 the
	// instance's.
	bootIDFile  = "/proc/sys/kernel/random/boot_id"
	machineFile = "/sys/class/dmi/id/product_uuid"
	hostIDFile  = "host-id"
)

// newHost reads or makes the host's id. It is a random part, kept in the state
// directory, together with the machine's UUID: hosts that were started from one
// disk image with the plugin installed still differ.
func newHost(stateDir, name string) (host, error) {
	if name == "" {
		var err error
		if name, err = os.Hostname(); err != nil {
			return host{}, fmt.Errorf("host name: %w", err)
		}
	}
	boot, err := os.ReadFile(bootIDFile)
	if err != nil {
		return host{}, fmt.Errorf("boot id: %w", err)
	}
	random, err := hostID(filepath.Join(stateDir, hostIDFile))
	if err != nil {
		return host{}, err
	}
	// Absent on machines without DMI, and then the random part has to do.
	machine, _ := os.ReadFile(machineFile)
	return host{
		name: safeName(name), id: digest(random + " " + strings.TrimSpace(string(machine))),
		boot: strings.TrimSpace(string(boot)),
	}, nil
}

func hostID(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err == nil && len(data) > 0 {
		return string(data), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("host id: %w", err)
	}
	id := rand.Text()
	if err := os.WriteFile(path+".new", []byte(id), 0o600); err != nil {
		return "", fmt.Errorf("host id: %w", err)
	}
	return id, os.Rename(path+".new", path)
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:6])
}

// maxHostPart leaves room for the two digests in a UTS node name of 64 bytes.
const maxHostPart = 32

// safeName keeps of a host's name what fits into file names and client
// identities.
func safeName(name string) string {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' {
			return r
		}
		return '-'
	}, name)
	if len(clean) > maxHostPart {
		clean = clean[:maxHostPart]
	}
	if clean = strings.Trim(clean, "-."); clean == "" {
		return "host"
	}
	return clean
}

// identity is the NFS client's identity of one transport of this host: stable over
// restarts, unique among hosts and transports.
func (h host) identity(transport string) string {
	return h.name + "-" + h.id + "-" + digest(transport)
}
