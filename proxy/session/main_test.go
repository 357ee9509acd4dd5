package session_test

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Owners of NFS clients: a kernel, and one who asks for himself.
const (
	kernel = "Linux NFSv4.1 web-1"
	canary = "canary of web-2"
)
