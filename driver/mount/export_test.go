package mount

import (
	"io"
	"os"
)

// ServerIn is what Server makes of a mount table.
var ServerIn = serverIn

// KeepFailingBy is KeepFailing with another system call.
var KeepFailingBy = keepFailing

// HostName is the host name of the root's thread, which the kernel takes for the NFS
// client's.
func (r *Root) HostName() (name string, err error) {
	err = r.do(func() (err error) {
		name, err = os.Hostname()
		return err
	})
	return name, err
}

// Table is the mount table of the root's own namespace.
func (r *Root) Table() (table string, err error) {
	err = r.do(func() error {
		text, err := io.ReadAll(io.NewSectionReader(r.table, 0, 1<<20))
		table = string(text)
		return err
	})
	return table, err
}

// IntroductionsIn is what Introductions makes of the statistics.
func IntroductionsIn(stats string) (int, error) { return introductionsIn(stats) }

// Listed tells whether a file system is in the kernel's list.
func Listed(list, fileSystem string) bool { return listed(list, fileSystem) }

// NFSLines are the lines of a mount table that are NFS mounts.
func NFSLines(table string) string { return nfsLines(table) }

// Unmounting is a root that was closed and whose server does not answer the unmount.
func Unmounting() *Root {
	r := &Root{calls: make(chan func()), done: make(chan struct{}), closed: make(chan struct{}), finished: make(chan struct{})}
	close(r.done)
	r.Close()
	return r
}
