// Package bundle brings the built plugin, the directory that docker plugin create
// takes, onto a test host. It builds nothing: make rootfs does.
package bundle

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

// Name is the plugin's name on the hosts, and so the driver's.
const Name = "efs"

// remoteDir is where the bundle lies on a host.
const remoteDir = "/root/plugin"

// Program is where the plugin's program lies on a host.
const Program = remoteDir + "/rootfs/docker-volume-efs"

// Upload copies a bundle to a host.
func Upload(ctx context.Context, h *lab.Host, dir string) error {
	for _, file := range []struct {
		name string
		mode uint32
	}{{"config.json", 0o644}, {"rootfs/docker-volume-efs", 0o755}} {
		local := filepath.Join(dir, file.name)
		if err := h.Upload(ctx, local, path.Join(remoteDir, file.name), 0o755); err != nil {
			return fmt.Errorf("upload plugin (was it built? make rootfs ARCH=amd64): %w", err)
		}
	}
	_, err := h.Run(ctx, "cd "+remoteDir+"/rootfs && mkdir -p mnt/efs run/docker/plugins dev etc proc sys")
	return err
}

// Commands are the lines of shell that create the uploaded plugin with settings,
// KEY=VALUE, and enable it.
func Commands(settings ...string) []string {
	lines := []string{"docker plugin create " + Name + " " + remoteDir}
	if len(settings) > 0 {
		lines = append(lines, "docker plugin set "+Name+" "+strings.Join(settings, " "))
	}
	return append(lines, "docker plugin enable "+Name)
}

// Install uploads a bundle, creates the plugin and enables it.
func Install(ctx context.Context, h *lab.Host, dir string, settings ...string) error {
	if err := Upload(ctx, h, dir); err != nil {
		return err
	}
	for _, line := range Commands(settings...) {
		if _, err := h.Run(ctx, line); err != nil {
			return err
		}
	}
	return nil
}
