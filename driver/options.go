package driver

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/nfs"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
)

// wanted is what a Create asks for, complete with defaults.
type wanted struct {
	given      map[string]bool // the options that the caller named
	fileSystem filesystem.Spec // of "filesystem", if given
	path       string
	options    catalog.Options
}

// option reads one volume option.
type option struct {
	name  string
	parse func(w *wanted, value string) error
}

// options are all volume options, in the order of the documentation.
func options() []option {
	return []option{
		{"filesystem", parseFileSystem},
		{"path", parsePath},
		{"uid", func(w *wanted, v string) (err error) { w.options.UID, err = parseID(v); return err }},
		{"gid", func(w *wanted, v string) (err error) { w.options.GID, err = parseID(v); return err }},
		{"mode", func(w *wanted, v string) (err error) { w.options.Mode, err = parseMode(v); return err }},
		{"access", func(w *wanted, v string) (err error) { w.options.Access, err = Access(v); return err }},
		{"remove", func(w *wanted, v string) (err error) { w.options.Remove, err = RemovePolicy(v); return err }},
		{"readonly", func(w *wanted, v string) (err error) { w.options.ReadOnly, err = parseBool(v); return err }},
		{"via", func(w *wanted, v string) (err error) { w.options.Via, err = Via(v); return err }},
		{"tls", func(w *wanted, v string) (err error) { w.options.TLS, err = parseBool(v); return err }},
		{"iam", func(w *wanted, v string) (err error) { w.options.IAM, err = parseBool(v); return err }},
		{"role", func(w *wanted, v string) (err error) { w.options.Role, err = Role(v); return err }},
		{"accesspoint", parseAccessPoint},
		{"nfs", func(w *wanted, v string) (err error) { w.options.NFS, err = nfs.ParseOptions(v); return err }},
	}
}

// parseWanted checks a volume's options. Its errors name the option, the value
// and what is allowed.
func parseWanted(name string, given map[string]string, defaults catalog.Options) (wanted, error) {
	w := wanted{given: map[string]bool{}, path: "/" + name, options: defaults}
	known := options()
	for key, value := range given {
		i := slices.IndexFunc(known, func(o option) bool { return o.name == key })
		if i < 0 {
			return wanted{}, invalid{fmt.Errorf("option %q is unknown; allowed: %s", key, optionNames(known))}
		}
		if err := known[i].parse(&w, value); err != nil {
			return wanted{}, invalid{fmt.Errorf("option %s=%q: %w", key, value, err)}
		}
		w.given[key] = true
	}
	if err := w.imply(); err != nil {
		return wanted{}, invalid{err}
	}
	return w, nil
}

func optionNames(known []option) string {
	names := make([]string, len(known))
	for i, o := range known {
		names[i] = o.name
	}
	return strings.Join(names, ", ")
}

func parseFileSystem(w *wanted, value string) (err error) {
	w.fileSystem, err = filesystem.Parse(value)
	return err
}

func parsePath(w *wanted, value string) (err error) {
	w.path, err = catalog.CheckPath(value)
	return err
}

func parseID(value string) (*uint32, error) {
	// 2^32-1 means "leave alone" to chown(2).
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil || n == 1<<32-1 {
		return nil, errors.New("allowed: a number from 0 to 4294967294")
	}
	id := uint32(n)
	return &id, nil
}

func parseMode(value string) (*catalog.Mode, error) {
	mode, err := catalog.ParseMode(value)
	if err != nil {
		return nil, err
	}
	return &mode, nil
}

func parseBool(value string) (bool, error) {
	switch strings.ToLower(value) {
	case "true", "1", "on", "yes", "":
		return true, nil
	case "false", "0", "off", "no":
		return false, nil
	}
	return false, errors.New("allowed: true, false")
}

// Access checks the option "access" and the setting EFS_ACCESS.
func Access(value string) (string, error) {
	switch value {
	case catalog.AccessShared, catalog.AccessExclusive:
		return value, nil
	}
	return "", errors.New("allowed: shared, exclusive")
}

// RemovePolicy checks the option "remove" and the setting EFS_REMOVE.
func RemovePolicy(value string) (string, error) {
	switch value {
	case catalog.RemoveKeep, catalog.RemoveTrash, catalog.RemoveDelete:
		return value, nil
	}
	return "", errors.New("allowed: keep, trash, delete")
}

// Age checks how long ago something was: 30d, or as time.ParseDuration has it.
func Age(value string) (time.Duration, error) {
	const day = 24 * time.Hour
	if days, ok := strings.CutSuffix(value, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err == nil {
			return time.Duration(n) * day, nil
		}
	}
	age, err := time.ParseDuration(value)
	if err != nil || age < 0 {
		return 0, errors.New("allowed: days, such as 30d, or hours, such as 12h")
	}
	return age, nil
}

// TrashKeep checks the setting EFS_TRASH_KEEP; 0 is forever.
func TrashKeep(value string) (time.Duration, error) {
	if value == "forever" {
		return 0, nil
	}
	keep, err := Age(value)
	if err == nil && keep < time.Hour {
		err = errors.New("allowed: forever, days, such as 30d, or hours, such as 12h, at least 1h")
	}
	return keep, err
}

// How a transport reaches its file system: the option "via" and the setting EFS_VIA.
const (
	viaAuto   = "auto"
	viaDirect = "direct"
	viaRelay  = "relay"
)

// Via checks the option "via" and the setting EFS_VIA.
func Via(value string) (string, error) {
	switch value {
	case viaAuto, viaDirect, viaRelay:
		return value, nil
	}
	return "", errors.New("allowed: auto, direct, relay")
}

// Switch checks settings that are on or off.
func Switch(value string) (bool, error) {
	on, err := parseBool(value)
	if err != nil {
		return false, errors.New("allowed: on, off")
	}
	return on, nil
}

// roleARN is an IAM role's
// (docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html).
var roleARN = regexp.MustCompile(`^arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]{1,128}$`)

// Role checks the option "role".
func Role(value string) (string, error) {
	if value != "" && !roleARN.MatchString(value) {
		return "", errors.New("allowed: the ARN of an IAM role, such as arn:aws:iam::123456789012:role/volumes")
	}
	return value, nil
}

// AccessPoint checks the option "accesspoint" and the setting EFS_ACCESS_POINT.
func AccessPoint(value string) (string, error) {
	if value != "" && !efs.IsAccessPoint(value) {
		return "", errors.New("allowed: the id of an access point, such as fsap-0123456789abcdef0")
	}
	return value, nil
}

func parseAccessPoint(w *wanted, value string) (err error) {
	if value == catalog.OwnAccessPoint {
		w.options.AccessPoint = value
		return nil
	}
	if w.options.AccessPoint, err = AccessPoint(value); err != nil {
		return errors.New("allowed: the id of an access point, such as fsap-0123456789abcdef0, or create: one for this volume alone")
	}
	return nil
}

// imply completes the options that follow from others, and refuses those that
// contradict each other.
func (w *wanted) imply() error {
	o := &w.options
	if o.Role != "" {
		if w.given["iam"] && !o.IAM {
			return errors.New("option role needs iam=on")
		}
		o.IAM = true
	}
	if o.IAM || o.AccessPoint != "" {
		if w.given["tls"] && !o.TLS {
			return errors.New("options iam, role and accesspoint need tls=on: EFS reads them in the client's certificate; leave tls out, or switch them off as well (iam=off)")
		}
		o.TLS = true
	}
	if o.TLS && o.Via == viaDirect && w.given["via"] {
		return errNeedsRelay
	}
	if o.Access == catalog.AccessExclusive {
		switch {
		case o.ReadOnly && w.given["access"]:
			return errors.New("access=exclusive is for who writes: leave readonly out, or use access=shared, which lets any number of hosts read")
		case o.ReadOnly: // it was the setting's
			o.Access = catalog.AccessShared
		case o.Via == viaDirect && w.given["via"]:
			return errors.New("access=exclusive needs the relay, which stops a host that lost its lease: use via=relay, or leave via out")
		}
	}
	if o.AccessPoint != "" && o.AccessPoint != catalog.OwnAccessPoint && !w.given["path"] {
		w.path = "/" // the whole of what the access point shows
	}
	return nil
}

// differences says how an existing volume differs from what was asked. Options that
// the caller did not name do not count: whoever only knows the name gets the
// volume as it is.
func (w wanted) differences(record catalog.Record, location string) error {
	have := record.Options
	pairs := []struct{ name, have, want string }{
		{"filesystem", location, w.fileSystem.String()},
		{"path", record.Path, w.path},
		{"uid", idText(have.UID), idText(w.options.UID)},
		{"gid", idText(have.GID), idText(w.options.GID)},
		{"mode", modeText(have.Mode), modeText(w.options.Mode)},
		{"access", have.Access, w.options.Access},
		{"remove", have.Remove, w.options.Remove},
		{"readonly", strconv.FormatBool(have.ReadOnly), strconv.FormatBool(w.options.ReadOnly)},
		{"via", have.Via, w.options.Via},
		{"tls", onOff(have.TLS), onOff(w.options.TLS)},
		{"iam", onOff(have.IAM), onOff(w.options.IAM)},
		{"role", have.Role, w.options.Role},
		{"accesspoint", have.AccessPoint, w.options.AccessPoint},
		{"nfs", have.NFS.String(), w.options.NFS.String()},
	}
	var different []string
	for _, p := range pairs {
		if w.given[p.name] && p.have != p.want {
			different = append(different, fmt.Sprintf("%s is %q, not %q", p.name, p.have, p.want))
		}
	}
	if different == nil {
		return nil
	}
	return conflict{fmt.Errorf("it exists with other options: %s; leave these options out to use it as it is, or remove it first",
		strings.Join(different, ", "))}
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func idText(id *uint32) string {
	if id == nil {
		return ""
	}
	return strconv.FormatUint(uint64(*id), 10)
}

func modeText(mode *catalog.Mode) string {
	if mode == nil {
		return ""
	}
	return mode.String()
}
