package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// serverConfig is the server's configuration. It sees its own part of the lab as
// /lab. The I/O flusher mark needs a privilege that a container of a build
// machine may lack, and nothing here depends on it.
const serverConfig = `
NFS_CORE_PARAM {
	Protocols = 4;
	NFS_Port = %[2]d;
	Enable_NLM = false;
	Enable_RQUOTA = false;
	Allow_Set_Io_Flusher_Fail = true;
}
NFSV4 {
	Minor_Versions = 1;
	Only_Numeric_Owners = true;
	Delegations = false;
	Lease_Lifetime = 30;
	Grace_Period = 10;
	RecoveryBackend = fs;
	RecoveryRoot = /lab/recovery;
}
NFS_KRB5 { Active_krb5 = false; }
EXPORT_DEFAULTS {
	Access_Type = RW;
	Squash = No_Root_Squash;
	SecType = sys;
	Protocols = 4;
	Transports = TCP;
}
EXPORT { Export_Id = 1; Path = /lab/fs%[1]s; Pseudo = /; FSAL { Name = VFS; } }
`

// serverExports are what a server exports beside its root, unless that is a directory of another
// server's.
const serverExports = `EXPORT { Export_Id = 2; Path = /lab/fs/export; Pseudo = /export; FSAL { Name = VFS; } }
EXPORT { Export_Id = 3; Path = /lab/fs/readonly; Pseudo = /readonly; Access_Type = RO; FSAL { Name = VFS; } }
EXPORT { Export_Id = 4; Path = /lab/fs/squash; Pseudo = /squash; Squash = Root_Squash; FSAL { Name = VFS; } }
EXPORT { Export_Id = 5; Path = /lab/fs/small; Pseudo = /small; FSAL { Name = VFS; } }
`

// serverMounts is the mount table that the server reads. Its files lie in tmpfs,
// so that they vanish with the lab; it would pass over a tmpfs by that name,
// though everything that it needs of a file system works there.
const serverMounts = `lab /lab ext4 rw 0 0
lab /lab/fs/small ext4 rw 0 0
`

// makeRoot builds what the server runs in: its own read-only view of the image's
// tree, with its part of the lab as /lab.
func (s *Server) makeRoot() error {
	root, lab := filepath.Join(s.dir, "root"), filepath.Join(s.dir, "lab")
	for _, dir := range []string{root, lab} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("lab", lab, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount %s: %w", lab, err)
	}
	for _, dir := range []string{"recovery", "fs/export", "fs/readonly", "fs/squash", "fs/small"} {
		if err := os.MkdirAll(filepath.Join(lab, dir), 0o755); err != nil {
			return err
		}
	}
	files, mounts := error(nil), serverMounts
	config := fmt.Sprintf(serverConfig, s.options.Root, s.options.Port)
	if s.options.Root == "" {
		config += serverExports
	}
	if s.options.Of == nil {
		files = unix.Mount("lab", filepath.Join(lab, "fs/small"), "tmpfs", 0, "mode=755,size=8m")
	} else {
		mounts += "lab /lab/fs ext4 rw 0 0\n"
		files = unix.Mount(filepath.Join(s.options.Of.dir, "lab/fs"), filepath.Join(lab, "fs"), "", unix.MS_BIND|unix.MS_REC, "")
	}
	err := errors.Join(
		files,
		os.WriteFile(filepath.Join(lab, "ganesha.conf"), []byte(config), 0o644),
		os.WriteFile(filepath.Join(lab, "mounts"), []byte(mounts), 0o644),
	)
	if err != nil {
		return err
	}
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
	}{
		{s.tree, "", "", unix.MS_BIND},
		{"", "", "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY},
		{"proc", "proc", "proc", 0},
		{"/dev", "dev", "", unix.MS_BIND | unix.MS_REC},
		{"run", "run", "tmpfs", 0},
		{"tmp", "tmp", "tmpfs", 0},
		{lab, "lab", "", unix.MS_BIND | unix.MS_REC},
		{filepath.Join(lab, "mounts"), "etc/mtab", "", unix.MS_BIND},
	} {
		target := filepath.Join(root, m.target)
		if err := unix.Mount(m.source, target, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", target, err)
		}
	}
	return nil
}
