package catalog_test

import (
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/driver/mount/mounttest"
)

// No test may give a call that changes anything a path or a link that leads out of
// the test's own directories: a defect would then be done to the machine.
func TestMain(m *testing.M) { mounttest.Main(m) }
