package driver_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
)

// Containers have the file system for three quarters of the time, however slow it is.
func TestDeletionLeavesTimeToContainers(t *testing.T) {
	for _, row := range []struct {
		name       string
		took, want time.Duration
	}{
		{"when a file takes nothing", 0, 0},
		{"when a file takes 20 ms", 20 * time.Millisecond, 60 * time.Millisecond},
		{"when the server was silent for a minute", time.Minute, time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				next := driver.Pace()
				for range 3 {
					time.Sleep(row.took)
					if got := took(func() {
						if err := next(t.Context()); err != nil {
							t.Error(err)
						}
					}); got != row.want {
						t.Errorf("it waits %v, want %v", got, row.want)
					}
				}
				time.Sleep(row.took)
				ended, end := context.WithCancel(t.Context())
				end()
				if err := next(ended); !errors.Is(err, context.Canceled) {
					t.Errorf("at the plugin's end: %v", err)
				}
			})
		})
	}
}
