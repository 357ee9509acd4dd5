package catalog_test

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
)

func TestTryWritesAndLeavesNothing(t *testing.T) {
	root := t.TempDir()
	trial, err := open(t, root).Try()
	must(t, err)
	if trial.Write <= 0 || trial.Remove <= 0 || trial.Ahead.Abs() > 2*time.Second {
		t.Errorf("it took %+v", trial)
	}
	left, err := os.ReadDir(inside(root, catalog.TmpDir))
	if err != nil || len(left) != 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}

func TestTryFailsWhereNothingCanBeWritten(t *testing.T) {
	root := t.TempDir()
	open(t, root)
	must(t, errors.Join(syscall.Mount(root, root, "", syscall.MS_BIND, ""), syscall.Mount("", root, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, "")))
	t.Cleanup(func() { must(t, syscall.Unmount(root, syscall.MNT_DETACH)) })
	_, err := open(t, root).Try()
	wantError(t, err, syscall.EROFS)
}
