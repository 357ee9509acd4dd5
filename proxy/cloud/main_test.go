package cloud_test

import (
	"os"
	"strings"
	"testing"
)

// TestMain has all tests begin with no setting of AWS's, whoever runs them and wherever: neither in the
// environment nor in files.
func TestMain(m *testing.M) {
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "AWS_") || strings.HasPrefix(name, "ECS_") {
			_ = os.Unsetenv(name)
		}
	}
	for _, name := range []string{"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"} {
		_ = os.Setenv(name, "/nonexistent")
	}
	m.Run()
}
