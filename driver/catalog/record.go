package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/nfs"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
)

// Version is the format of records and of the catalogue that this package writes.
// VersionProtected is that of records of volumes that are not mounted in the clear, or not
// as themselves, VersionExclusive that of volumes that one host has at a time: who does not know
// those options must not mount without them. It is the newest that this package reads.
const (
	Version          = 1
	VersionProtected = 2
	VersionExclusive = 3
)

// What the option "access" may be.
const (
	AccessShared    = "shared"
	AccessExclusive = "exclusive"
)

// Same tells whether two records are one volume's, however far it has come.
func (r Record) Same(other Record) bool {
	return r.Name == other.Name && r.Path == other.Path && r.CreatedBy == other.CreatedBy && r.Created.Equal(other.Created)
}

// isAt tells whether a record is the same volume's, and as far.
func (r Record) isAt(other Record) bool {
	return r.Same(other) && r.State == other.State && r.Trash == other.Trash
}

// IsRemoval tells whether a record says that its volume is being removed to that entry of the trash, or
// restored from it.
func (r Record) IsRemoval(entry string) bool { return r.State == Removing && r.Trash == entry }

// version is the oldest that says all of it.
func (r Record) version() int {
	o := r.Options
	if o.Access == AccessExclusive {
		return VersionExclusive
	}
	if o.TLS || o.IAM || o.Role != "" || o.AccessPoint != "" || r.AccessPointID != "" {
		return VersionProtected
	}
	return Version
}

// State is how far a volume has come. Whoever finds one under way may finish
// it: each step can be repeated.
type State string

// The states of a volume.
const (
	// Creating: the record is there, the directory perhaps not yet whole.
	Creating State = "creating"
	// Ready: the directory is there.
	Ready State = "ready"
	// Removing: the data may have left for the trash; the volume must not be
	// mounted any more.
	Removing State = "removing"
)

// Record is the definition of a volume.
type Record struct {
	Version int    `json:"version"`
	Name    string `json:"name"`
	State   State  `json:"state"`
	// FileSystem is set in a record that only points at the one on another
	// file system.
	FileSystem string `json:"filesystem,omitempty"`
	// Path is the directory under the file system's root, clean, with a
	// leading slash.
	Path    string  `json:"path"`
	Options Options `json:"options"`
	// AccessPointID is the access point that the plugin made for the volume.
	AccessPointID string `json:"accesspoint_id,omitempty"`
	// Made tells that the plugin made the directory, and so may remove it.
	Made      bool      `json:"made"`
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
	// Trash names the trash entry of a volume being removed, and Directory is
	// the inode of the directory that goes there: no other one may.
	Trash     string `json:"trash,omitempty"`
	Directory uint64 `json:"directory,omitempty"`
}

// OwnAccessPoint is the option by which the plugin makes an access point for the volume
// alone.
const OwnAccessPoint = "create"

// Foreign tells whether the volume lies in an access point that somebody else made. Its path
// begins there, and where that is in the file system is not known.
func (r Record) Foreign() bool {
	return r.Options.AccessPoint != "" && r.Options.AccessPoint != OwnAccessPoint
}

// ErrMoved reports a record that only points at the volume on another file
// system.
var ErrMoved = errors.New("the volume is on another file system")

// CheckPath checks a volume's path and returns it clean. The root itself, which
// holds the catalogue, and the catalogue cannot be volumes.
func CheckPath(path string) (string, error) {
	clean, err := filesystem.CleanPath(path)
	if err != nil {
		return "", fmt.Errorf("%w; allowed: an absolute path under the file system's root, such as /apps/data", err)
	}
	if clean == "/" {
		return "", errors.New("the root itself cannot be a volume, it holds the catalogue; name a directory beneath it")
	}
	for component := range strings.SplitSeq(clean, "/") {
		if component == DirName {
			return "", fmt.Errorf("%s is the catalogue and cannot be a volume", DirName)
		}
	}
	return clean, nil
}

// Options are what a volume was created with. They hold on every host.
type Options struct {
	// UID, GID and Mode are given to the directory when it is made; nil
	// means root and 0755.
	UID      *uint32     `json:"uid,omitempty"`
	GID      *uint32     `json:"gid,omitempty"`
	Mode     *Mode       `json:"mode,omitempty"`
	Access   string      `json:"access"`
	Remove   string      `json:"remove"`
	ReadOnly bool        `json:"readonly,omitempty"`
	Via      string      `json:"via"`
	NFS      nfs.Options `json:"nfs,omitempty"`
	// TLS, IAM, Role and AccessPoint are how the volume is reached. A role implies
	// IAM, and IAM or an access point implies TLS. An access point is an id or
	// [OwnAccessPoint].
	TLS         bool   `json:"tls,omitempty"`
	IAM         bool   `json:"iam,omitempty"`
	Role        string `json:"role,omitempty"`
	AccessPoint string `json:"accesspoint,omitempty"`
}

// Mode is a directory's permission bits as in chmod(2); its text is octal.
type Mode uint32

// maxMode has all permission bits but set-user-id, which EFS does not know on
// directories.
const maxMode = 0o3777

// ParseMode reads an octal mode such as 0700.
func ParseMode(text string) (Mode, error) {
	n, err := strconv.ParseUint(text, 8, 32)
	if err != nil || n > maxMode {
		return 0, fmt.Errorf("allowed: an octal number such as 0700, at most %o (EFS knows no set-user-id on directories)", maxMode)
	}
	return Mode(n), nil
}

// String returns the mode as [ParseMode] reads it.
func (m Mode) String() string { return fmt.Sprintf("%04o", uint32(m)) }

// MarshalText writes the mode into a record.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads it back.
func (m *Mode) UnmarshalText(text []byte) (err error) {
	*m, err = ParseMode(string(text))
	return err
}

// What happens to a volume's data at docker volume rm.
const (
	RemoveKeep   = "keep"
	RemoveTrash  = "trash"
	RemoveDelete = "delete"
)

var (
	// ErrNotFound reports that there is no record of that name.
	ErrNotFound = errors.New("no such volume")
	// ErrDamaged reports a record that cannot be read as one.
	ErrDamaged = errors.New("its record is damaged")
	// ErrDamagedHost reports a host's entry that cannot be read as one: nothing is known of what that host uses.
	ErrDamagedHost = errors.New("its entry is damaged")
	// ErrDamagedLease reports a lease of which nobody can tell who has it.
	ErrDamagedLease = errors.New("its lease is damaged")
	// ErrChanged reports that a record is not any more the one that it was.
	ErrChanged = errors.New("another host has changed it meanwhile: try again")
	// ErrNewer reports a record or catalogue of a later format.
	ErrNewer = errors.New("written by a newer version of docker-volume-efs")
)

// namePattern is what Docker itself allows for local volumes, bounded so that
// "NAME.json" and a suffix fit into a file's name.
var namePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,199}$`)

// CheckName tells whether a volume may have that name. The Docker Engine
// accepts any string here, and then cannot delete it again.
func CheckName(name string) error {
	if namePattern.MatchString(name) {
		return nil
	}
	shown := name
	if len(shown) > 60 {
		shown = shown[:60] + "…"
	}
	return fmt.Errorf("volume name %q is not allowed: use 1 to 200 of a-z A-Z 0-9 _ . - and begin with a letter or digit", shown)
}

// parseRecord reads and checks a record: what lies on the file system may have
// been damaged, or written by somebody else.
func parseRecord(name string, data []byte) (Record, error) {
	var format struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &format); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if format.Version > VersionExclusive {
		return Record{}, newer(format.Version)
	}
	var record Record
	if err := json.Unmarshal(data, &record); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err := record.check(name); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return record, nil
}

func newer(version int) error {
	return fmt.Errorf("%w (format %d, this one reads up to %d): upgrade the plugin on this host", ErrNewer, version, VersionExclusive)
}

// checkPath allows the whole of an access point, which is somebody else's root.
func (r Record) checkPath() error {
	clean, err := CheckPath(r.Path)
	if err != nil && (!r.Foreign() || r.Path != "/") {
		return err
	}
	if err == nil && clean != r.Path {
		return fmt.Errorf("path %q is not clean", r.Path)
	}
	return nil
}

func (r Record) check(name string) error {
	if r.Version != r.version() {
		return fmt.Errorf("format %d is unknown, or not that of its options", r.Version)
	}
	if o := r.Options; !o.TLS && (o.IAM || o.AccessPoint != "") {
		return errors.New("IAM and access points are nothing without TLS")
	}
	if r.Name != name {
		return fmt.Errorf("it is that of volume %q", r.Name)
	}
	switch r.State {
	case Creating, Ready, Removing:
	default:
		return fmt.Errorf("state %q is unknown", r.State)
	}
	if err := r.checkPath(); err != nil {
		return err
	}
	if r.FileSystem != "" {
		if _, err := filesystem.Parse(r.FileSystem); err != nil {
			return err
		}
	}
	if r.Trash != "" && CheckName(r.Trash) != nil {
		return fmt.Errorf("trash entry %q has no valid name", r.Trash)
	}
	if _, err := nfs.ParseOptions(r.Options.NFS.String()); err != nil {
		return err
	}
	if r.Foreign() && !efs.IsAccessPoint(r.Options.AccessPoint) || r.AccessPointID != "" && !efs.IsAccessPoint(r.AccessPointID) {
		return fmt.Errorf("access point %q %q is none", r.Options.AccessPoint, r.AccessPointID)
	}
	switch r.Options.Remove {
	case RemoveKeep, RemoveTrash, RemoveDelete:
	default:
		return fmt.Errorf("remove policy %q is unknown", r.Options.Remove)
	}
	return nil
}

func (r Record) encode() ([]byte, error) {
	r.Version = r.version()
	data, err := json.MarshalIndent(r, "", "  ")
	return append(data, '\n'), err
}
