package filesystem

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
)

// Kind tells what sort of thing a file system is.
type Kind int

// The kinds of file system.
const (
	// Directory is a local directory: no server, no network.
	Directory Kind = iota
	// NFS is any NFSv4.1 export.
	NFS
	// EFS is an Amazon EFS file system, always exported as "/".
	EFS
)

// NFSPort is the port of NFSv4 (RFC 8881 section 2.9.3).
const NFSPort = 2049

// Allowed says in one line what [Parse] takes; it ends every error of it.
const Allowed = "fs-… (an EFS file system), its DNS name, nfs://host[:port]/path, or dir:/path"

// Spec is one file system. Its zero value is the embedded default, "dir:".
type Spec struct {
	Kind Kind
	// Dir is the directory of Kind Directory; empty means the default one
	// under the plugin's data directory.
	Dir string
	// Host is a name or an address: of an NFS server, or the DNS name of an
	// EFS file system (empty when only its id was given).
	Host string
	// Port is never 0 for NFS and EFS.
	Port uint16
	// Export is the path that the server exports, clean and absolute.
	Export string
	// ID is the EFS file system id, "fs-…".
	ID string
}

var (
	// An id has 8 hexadecimal digits (before 2020) or 17; the API's own
	// pattern allows up to 40
	// (docs.aws.amazon.com/efs/latest/ug/API_DescribeFileSystems.html).
	efsID = regexp.MustCompile(`^fs-[0-9a-f]{8,40}$`)
	// [zone.]fs-….efs.REGION.SUFFIX
	// (docs.aws.amazon.com/efs/latest/ug/mounting-fs-mount-cmd-dns-name.html).
	efsName = regexp.MustCompile(`^(?:[a-z0-9-]+\.)?(fs-[0-9a-f]{8,40})\.efs\.[a-z0-9-]+\.[a-z0-9.-]+$`)

	hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$`)
)

// Parse reads the operator's words for a file system.
func Parse(text string) (Spec, error) {
	spec, err := parse(strings.TrimSpace(text))
	if err != nil {
		return Spec{}, fmt.Errorf("file system %q: %w; allowed: %s", text, err, Allowed)
	}
	return spec, nil
}

func parse(text string) (Spec, error) {
	switch {
	case strings.HasPrefix(text, "dir:"):
		return parseDir(strings.TrimPrefix(text, "dir:"))
	case strings.HasPrefix(text, "nfs://"):
		return parseNFS(text)
	case efsID.MatchString(text):
		return Spec{Kind: EFS, ID: text, Port: NFSPort, Export: "/"}, nil
	}
	if m := efsName.FindStringSubmatch(text); m != nil {
		return Spec{Kind: EFS, ID: m[1], Host: text, Port: NFSPort, Export: "/"}, nil
	}
	if text == "" {
		return Spec{}, errors.New("nothing given")
	}
	return Spec{}, errors.New("not understood")
}

func parseDir(dir string) (Spec, error) {
	if dir == "" {
		return Spec{Kind: Directory}, nil
	}
	clean, err := CleanPath(dir)
	if err != nil {
		return Spec{}, err
	}
	if clean == "/" {
		return Spec{}, errors.New("the host's whole root cannot hold volumes; name a directory")
	}
	if strings.TrimSpace(clean) != clean {
		// Parse would not read back what String returns.
		return Spec{}, fmt.Errorf("path %q ends in a space", clean)
	}
	return Spec{Kind: Directory, Dir: clean}, nil
}

func parseNFS(text string) (Spec, error) {
	u, err := url.Parse(text)
	if err != nil {
		return Spec{}, errors.New("not a URL")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery {
		return Spec{}, errors.New("only host, port and path may be given")
	}
	spec := Spec{Kind: NFS, Host: strings.ToLower(u.Hostname()), Port: NFSPort, Export: "/"}
	addr, err := netip.ParseAddr(u.Hostname())
	switch {
	// An address's zone is an interface's name, but could be any text.
	case err == nil && (addr.Zone() == "" || hostName.MatchString(addr.Zone())):
		spec.Host = addr.Unmap().String()
	case !hostName.MatchString(spec.Host):
		return Spec{}, fmt.Errorf("host %q is neither a name nor an address", u.Hostname())
	}
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return Spec{}, fmt.Errorf("port %q is not between 1 and 65535", p)
		}
		spec.Port = uint16(n)
	}
	if u.Path != "" {
		if spec.Export, err = CleanPath(u.Path); err != nil {
			return Spec{}, err
		}
	}
	return spec, nil
}

// maxPath and maxComponent are Linux's PATH_MAX and NAME_MAX; EFS has the same
// limit for a name (docs.aws.amazon.com/efs/latest/ug/limits.html).
const (
	maxPath      = 4095
	maxComponent = 255
)

// CleanPath checks an absolute path on a file system and returns it without
// doubled or trailing slashes. A path that climbs (".."), has a control
// character or is too long is refused rather than repaired.
func CleanPath(p string) (string, error) {
	if !strings.HasPrefix(p, "/") {
		return "", fmt.Errorf("path %q must begin with /", p)
	}
	if len(p) > maxPath {
		return "", fmt.Errorf("path of %d bytes is longer than %d", len(p), maxPath)
	}
	for component := range strings.SplitSeq(p, "/") {
		switch {
		case component == "..":
			return "", fmt.Errorf("path %q climbs with \"..\"", p)
		case len(component) > maxComponent:
			return "", fmt.Errorf("path %q has a component longer than %d bytes", p, maxComponent)
		case strings.ContainsFunc(component, func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError }):
			return "", fmt.Errorf("path %q has a control character or is not UTF-8", p)
		}
	}
	return path.Clean(p), nil
}

// String returns the canonical text, which [Parse] reads back to an equal Spec.
func (s Spec) String() string {
	switch s.Kind {
	case Directory:
		return "dir:" + s.Dir
	case EFS:
		if s.Host != "" {
			return s.Host
		}
		return s.ID
	case NFS:
	}
	host := s.Host
	if s.Port != NFSPort {
		host = net.JoinHostPort(s.Host, strconv.Itoa(int(s.Port)))
	} else if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return (&url.URL{Scheme: "nfs", Host: host, Path: s.Export}).String()
}

// ServerName returns the DNS name or address to look up. An EFS file system
// known by its id alone needs the region: its name is
// fs-ID.efs.REGION.SUFFIX.
func (s Spec) ServerName(region string) (string, error) {
	if s.Host != "" {
		return s.Host, nil
	}
	if s.Kind != EFS {
		return "", fmt.Errorf("file system %s has no server", s)
	}
	if region == "" {
		return "", fmt.Errorf("the region of %s is not known: set AWS_REGION, or give the file system's DNS name", s.ID)
	}
	return efs.ServerName(s.ID, region), nil
}
