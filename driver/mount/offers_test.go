package mount_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/driver/mount"
)

func TestOffers(t *testing.T) {
	for _, row := range []struct {
		name, fileSystem string
		want             error
	}{
		{"a file system that every kernel has", "tmpfs", nil},
		{"one that none has", "nosuchfs", mount.ErrNotOffered},
	} {
		t.Run(row.name, func(t *testing.T) {
			if err := mount.Offers(row.fileSystem); !errors.Is(err, row.want) || (err == nil) != (row.want == nil) {
				t.Errorf("%v, want %v", err, row.want)
			}
		})
	}
}

func TestListOfFileSystems(t *testing.T) {
	const list = "nodev\tsysfs\n\text4\nnodev\tnfs4\n\n"
	for name, want := range map[string]bool{"ext4": true, "nfs4": true, "sysfs": true, "nfs": false, "nodev": false, "": false} {
		if got := mount.Listed(list, name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestNFSTableHasNoOtherMounts(t *testing.T) {
	const table = `26 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
90 26 0:51 / /mnt/efs/volumes/a rw,relatime shared:2 - nfs4 127.0.0.1:/ rw,vers=4.1,addr=127.0.0.1
91 26 0:52 / /mnt/nfs\0404 rw - tmpfs nfs4 rw
`
	got := mount.NFSLines(table)
	if strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "90 26") {
		t.Errorf("it is %q", got)
	}
	if _, err := mount.NFSTable(); err != nil {
		t.Error(err)
	}
}
