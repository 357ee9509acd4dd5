package nfs

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// AWS's recommended client options
// (docs.aws.amazon.com/efs/latest/ug/mounting-fs-nfs-mount-settings.html).
const (
	// transferSize is in bytes: 1 MiB is the largest read or write EFS takes.
	transferSize = 1 << 20
	// retryTenths is in tenths of a second: 60 s.
	retryTenths = 600
	retries     = 2
)

// ReadAheadKiB is 15 reads of 1 MiB, the kernel's default before Linux 5.4
// brought it down to 128 KiB; AWS's mount helper sets the same.
const ReadAheadKiB = 15 * transferSize >> 10

// Options are extra NFS mount options, checked, sorted and without duplicates.
// The zero value asks for nothing beyond the defaults.
type Options []string

type limit struct {
	min, max int
	unit     string
}

// numbers are the options that take a number. Attribute caching cannot be
// switched off: AWS advises against it, and it costs a round trip on every
// access.
//
//nolint:gochecknoglobals // a table
var numbers = map[string]limit{
	"rsize":    {4096, transferSize, "bytes, a multiple of 4096"},
	"wsize":    {4096, transferSize, "bytes, a multiple of 4096"},
	"timeo":    {50, 6000, "tenths of a second"},
	"retrans":  {1, 10, "retries"},
	"acregmin": {1, 3600, "seconds"},
	"acregmax": {1, 3600, "seconds"},
	"acdirmin": {1, 3600, "seconds"},
	"acdirmax": {1, 3600, "seconds"},
	"actimeo":  {1, 3600, "seconds"},
}

// reasons explain what is refused most often.
//
//nolint:gochecknoglobals // a table
var reasons = map[string]string{
	"soft":        "a soft mount loses writes when the server is slow",
	"softerr":     "a soft mount loses writes when the server is slow",
	"nconnect":    "EFS does not support it",
	"nolock":      "locks would not be seen by other hosts",
	"noac":        "AWS advises against it: every access would ask the server",
	"fsc":         "it needs a cache daemon on the host and AWS advises against it",
	"vers":        "volumes are always mounted with NFSv4.1",
	"nfsvers":     "volumes are always mounted with NFSv4.1",
	"ro":          "use the volume option readonly=true",
	"port":        "give the port in the file system: nfs://host:port/path",
	"addr":        "give the address in the file system",
	"sec":         "EFS knows only sys",
	"tls":         "use the volume option tls",
	"accesspoint": "use the volume option accesspoint",
}

// Allowed says in one line which options a volume may ask for.
func Allowed() string {
	names := []string{"resvport", "noresvport", "hard"}
	for name := range numbers {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// ParseOptions reads a comma-separated list of NFS mount options and refuses
// what is not on the allow-list.
func ParseOptions(text string) (Options, error) {
	var options Options
	given := map[string]bool{}
	for item := range strings.SplitSeq(text, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		key, _, _ := strings.Cut(item, "=")
		if strings.HasSuffix(key, "resvport") {
			key = "resvport"
		}
		if given[key] {
			return nil, fmt.Errorf("%q is given twice", key)
		}
		given[key] = true
		normal, err := check(item)
		if err != nil {
			return nil, err
		}
		options = append(options, normal)
	}
	// The kernel takes the last one, and the list is sorted: what was asked for
	// would be lost.
	for _, one := range []string{"acregmin", "acregmax", "acdirmin", "acdirmax"} {
		if given["actimeo"] && given[one] {
			return nil, fmt.Errorf("\"actimeo\" sets acregmin, acregmax, acdirmin and acdirmax: leave it or %q out", one)
		}
	}
	slices.Sort(options)
	return options, nil
}

func check(item string) (string, error) {
	key, value, hasValue := strings.Cut(item, "=")
	if item == "resvport" || item == "noresvport" || item == "hard" {
		return item, nil
	}
	limits, ok := numbers[key]
	if !ok {
		if why := reasons[key]; why != "" {
			return "", fmt.Errorf("%q is not allowed: %s; allowed: %s", item, why, Allowed())
		}
		return "", fmt.Errorf("%q is not allowed; allowed: %s", item, Allowed())
	}
	n, err := strconv.Atoi(value)
	if !hasValue || err != nil || n < limits.min || n > limits.max {
		return "", fmt.Errorf("%q: %s takes a number from %d to %d (%s)", item, key, limits.min, limits.max, limits.unit)
	}
	if limits.max == transferSize && n%limits.min != 0 {
		return "", fmt.Errorf("%q: %s is in %s", item, key, limits.unit)
	}
	return key + "=" + strconv.Itoa(n), nil
}

// String is the canonical list; [ParseOptions] reads it back.
func (o Options) String() string { return strings.Join(o, ",") }

// Kernel returns all options of a mount of server, as the kernel's NFS client
// takes them from mount(2) or fsconfig(2) (fs/nfs/fs_context.c): unlike
// mount.nfs it looks nothing up, so both addresses are numeric.
func (o Options) Kernel(server netip.AddrPort, client netip.Addr) []string {
	all := []string{
		"vers=4.1",
		"proto=" + netProto(server.Addr()),
		"addr=" + server.Addr().Unmap().String(),
		"port=" + strconv.Itoa(int(server.Port())),
		"clientaddr=" + client.Unmap().String(),
	}
	for _, standard := range []string{
		"rsize=" + strconv.Itoa(transferSize),
		"wsize=" + strconv.Itoa(transferSize),
		"hard",
		"timeo=" + strconv.Itoa(retryTenths),
		"retrans=" + strconv.Itoa(retries),
	} {
		key, _, _ := strings.Cut(standard, "=")
		if !slices.ContainsFunc(o, func(item string) bool { return item == key || strings.HasPrefix(item, key+"=") }) {
			all = append(all, standard)
		}
	}
	if !slices.Contains(o, "resvport") && !slices.Contains(o, "noresvport") {
		// With a fixed privileged port the server may still know the old
		// connection at a reconnect, and the mount hangs.
		all = append(all, "noresvport")
	}
	return append(all, o...)
}

func netProto(addr netip.Addr) string {
	if addr.Unmap().Is6() {
		return "tcp6"
	}
	return "tcp"
}
