package sunrpc_test

import (
	"os"
	"path/filepath"
	"testing"
)

func TestIdentifier(t *testing.T) {
	for _, row := range []struct {
		name, network, module, want string
	}{
		{"is nothing before the module is loaded", "", "", ""},
		{"is nothing where neither is set", "(null)\n", "\n", ""},
		{"is the module's", "(null)\n", "web-1\n", "web-1"},
		{"is the network namespace's before the module's", "web-2\n", "web-1\n", "web-2"},
	} {
		t.Run(row.name, func(t *testing.T) {
			sys := t.TempDir()
			for name, text := range map[string]string{"fs/nfs/net/nfs_client/identifier": row.network, "module/nfs/parameters/nfs4_unique_id": row.module} {
				if text == "" {
					continue
				}
				file := filepath.Join(sys, name)
				if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := open(t, sys).Identifier(); err != nil || got != row.want {
				t.Errorf("%q, %v, want %q", got, err, row.want)
			}
		})
	}
}
