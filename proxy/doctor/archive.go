package doctor

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"path"
	"time"
)

// File is one of an archive.
type File struct {
	Name    string `json:"name"`
	Content string `json:"content"`
}

// archiveDir is the directory that an archive unpacks to.
const archiveDir = "docker-volume-efs-doctor"

// WriteArchive writes files as a compressed tar archive of one directory.
func WriteArchive(to io.Writer, files []File, now time.Time) error {
	packed := gzip.NewWriter(to)
	archive := tar.NewWriter(packed)
	for _, f := range files {
		err := archive.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: path.Join(archiveDir, path.Base(f.Name)), Mode: 0o600, Size: int64(len(f.Content)), ModTime: now,
		})
		if err == nil {
			_, err = io.WriteString(archive, f.Content)
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(archive.Close(), packed.Close())
}
