//go:build integration

package integration

import (
	"errors"
	"os"
	"syscall"
	"testing"
)

// Tests run as root, on code that moves and removes directories.
func TestTheMachineCannotBeTouched(t *testing.T) {
	for _, path := range []string{"/docker-volume-efs-test", "/usr/docker-volume-efs-test", "/var/docker-volume-efs-test"} {
		if err := os.Mkdir(path, 0o700); !errors.Is(err, syscall.EROFS) {
			t.Errorf("mkdir %s: %v, want %v", path, err, syscall.EROFS)
			os.Remove(path)
		}
	}
}
