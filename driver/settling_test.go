package driver_test

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
)

// refuse has mounts of servers refused for a while.
func (k *faults) refuse(t *testing.T, d time.Duration) {
	t.Helper()
	set := func(err error) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.refuses = err
	}
	set(syscall.EACCES)
	timer := time.AfterFunc(d, func() { set(nil) })
	t.Cleanup(func() { timer.Stop() })
}

func TestNewAccessPointIsWaitedFor(t *testing.T) {
	e := newEFSHost(t)
	e.create("web", "accesspoint=create")
	e.k.refuse(t, 1500*time.Millisecond)
	e.mount("web", "1")
}

func TestRefusalSaysOnceWhatToDo(t *testing.T) {
	e := newEFSHost(t)
	e.k.refuse(t, time.Hour)
	err := e.Create(t.Context(), "web", nil)
	wantKind(t, err, driver.Failed, "refuses anonymous clients", "elasticfilesystem:ClientMount")
	if strings.Contains(err.Error(), "squash") {
		t.Errorf("an EFS file system has no exports: %v", err)
	}
}

func TestRefusalIsAnAnswerIf(t *testing.T) {
	for _, row := range []struct {
		name    string
		options []string
	}{
		{"the access point is older than the volume", []string{"accesspoint=" + someAP, "path=/web"}},
		{"there is no access point", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			e := newEFSHost(t)
			e.create("web", row.options...)
			e.restart() // what is mounted stays mounted
			e.k.refuse(t, time.Hour)
			begun := time.Now()
			wantKind(t, mountOf(t.Context(), e.testHost, "web", "1"), driver.Failed, "permission denied")
			if took := time.Since(begun); took > 8*time.Second { // the patience with a new one is 10 s
				t.Errorf("it took %v", took)
			}
		})
	}
}
