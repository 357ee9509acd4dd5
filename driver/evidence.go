package driver

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/docker-volume-efs/docker-volume-efs/driver/mount"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/doctor"
)

// maxEvidence bounds what is taken of one file: its end, where the latest is.
const maxEvidence = 1 << 20

// Evidence is what a report of a fault needs of this host beside the findings: the tables of
// state in a data directory, the NFS mounts, the kernel. It has neither the host's key nor its
// id, needs no Driver and asks no file system. What cannot be read says so.
func Evidence(data string) []doctor.File {
	files := []doctor.File{{Name: "kernel.txt", Content: "Linux " + KernelVersion() + "\n"}}
	table, err := mount.NFSTable()
	files = append(files, doctor.File{Name: "mounts.txt", Content: orError(table, err)})
	// By name: whatever else comes to lie there stays there.
	for _, name := range []string{volumesTable, mountsTable, targetsTable, drainedTable, relaysTable} {
		text, err := endOf(filepath.Join(data, stateDir, name))
		files = append(files, doctor.File{Name: "state-" + name + ".txt", Content: orError(text, err)})
	}
	return files
}

func orError(text string, err error) string {
	if err != nil {
		return err.Error() + "\n"
	}
	return text
}

func endOf(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", &fs.PathError{Op: "read", Path: path, Err: errors.New("it is no file")}
	}
	if over := info.Size() - maxEvidence; over > 0 {
		if _, err := file.Seek(over, io.SeekStart); err != nil {
			return "", err
		}
	}
	text, err := io.ReadAll(io.LimitReader(file, maxEvidence))
	return string(text), err
}
