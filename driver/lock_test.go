package driver_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
)

func TestOnePluginUsesADataDirectory(t *testing.T) {
	data := t.TempDir()
	lock, err := driver.Lock(data)
	if err != nil {
		t.Fatal(err)
	}
	const says = "another docker-volume-efs uses this data directory"
	if _, err := driver.Lock(data); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("a second parent is told %v", err)
	}
	if _, err := driver.New(driver.Options{Data: data}, logrus.New()); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("a process without a parent is told %v", err)
	}
	worker := driver.Options{Data: data, Locked: true}
	d, err := driver.New(worker, logrus.New())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := lock.Close(); err != nil {
		t.Error(err)
	}
}

// A worker that was killed has its lock for as long as it cannot end, and does nothing with it.
func TestWorkerBeginsBesideOneThatCannotEnd(t *testing.T) {
	data := t.TempDir()
	lock, err := driver.Lock(data)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	held, err := os.Create(filepath.Join(data, "state", "worker-lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for _, beside := range []bool{true, false} {
		d, err := driver.New(driver.Options{Data: data, Locked: true, Beside: beside}, logrus.New())
		if err != nil {
			t.Fatalf("known before: %v: %v", beside, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}
