//go:build integration

package integration

import (
	"strings"
	"testing"
)

// TestRootOfAnotherControlGroup runs proxy/peer's own test of that on a host: control groups are the
// machine's, and the tests make none on the one that they run on.
func TestRootOfAnotherControlGroup(t *testing.T) {
	beside(t)
	const name, program = "TestARootOfAnotherControlGroupIsRefused", "/peer.test"
	h := hosts(t).Host("host-a")
	if err := h.Upload(t.Context(), "../build/lab/peer.test", program, 0o755); err != nil {
		t.Fatal(err)
	}
	out := run(t, h, "PEER_TEST_CGROUPS=$(findmnt -n -t cgroup2 -o TARGET | head -n 1) "+program+" -test.v -test.run "+name)
	if !strings.Contains(out, "--- PASS: "+name) {
		t.Errorf("it did not pass:\n%s", out)
	}
}
