//go:build integration

package integration

import (
	"context"
	"strings"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/integration/bundle"
)

// What make plugin and make uninstall run, on an Engine of its own.
func TestInstall(t *testing.T) {
	apart(t, "host-c")
	h := hosts(t).Host("host-c")
	if err := bundle.Upload(t.Context(), h, siteBundle); err != nil {
		t.Fatal(err)
	}
	if err := h.Upload(t.Context(), "../scripts/plugin.sh", "/root/plugin.sh", 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = h.Run(context.Background(), "docker plugin enable dev/installed; docker volume rm -f inside; docker plugin disable -f dev/installed; docker plugin rm -f dev/installed; rm -rf /root/plugin.installed")
	})
	// say runs it and returns what it says, with its exit status as the last line.
	say := func(words string) string {
		t.Helper()
		return run(t, h, "/root/plugin.sh "+words+" 2>&1; echo $?")
	}
	for _, row := range []struct{ name, before, words, want string }{
		{"what is not there is not removed", "true", "uninstall dev/installed:latest", "is not installed, nothing to do"},
		{"it is made and enabled", "true", "install dev/installed:latest /root/plugin", "dev/installed:latest is enabled"},
		{"the same again is left alone", "true", "install dev/installed:latest /root/plugin", "is this build already, and enabled"},
		{
			"one that is disabled is enabled", "docker plugin disable dev/installed && docker plugin set dev/installed EFS_LOG_LEVEL=debug",
			"install dev/installed:latest /root/plugin", "is this build already; enabled it",
		},
		{
			"another build replaces it", `sed -i 's/"description": "Volumes/"description": "Newer volumes/' /root/plugin/config.json`,
			"install dev/installed:latest /root/plugin", "replacing dev/installed:latest; its settings are kept",
		},
		{
			"with volumes it is in use", "docker volume create -d dev/installed inside && docker run --rm -v inside:/data busybox touch /data/file",
			"uninstall dev/installed:latest", "is in use, left as it is",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			run(t, h, row.before)
			if said := say(row.words); !strings.Contains(said, row.want) {
				t.Errorf("it says %s", said)
			}
		})
	}
	if got := run(t, h, "docker plugin inspect -f '{{.Enabled}} {{.Settings.Env}}' dev/installed"); !strings.HasPrefix(got, "true") || !strings.Contains(got, "EFS_LOG_LEVEL=debug") {
		t.Errorf("after all that the plugin is %s", got)
	}
	t.Run("data inside it is not removed with it", func(t *testing.T) {
		run(t, h, "docker volume rm inside") // which keeps the data in the trash
		if said := say("uninstall dev/installed:latest"); !strings.Contains(said, "holds data of volumes itself") || !strings.HasSuffix(strings.TrimSpace(said), "1") {
			t.Fatalf("it says %s", said)
		}
		if said := run(t, h, "DELETE_DATA=1 /root/plugin.sh uninstall dev/installed:latest"); !strings.Contains(said, "is removed") {
			t.Errorf("it says %s", said)
		}
	})
}
