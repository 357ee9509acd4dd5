//go:build integration

package integration

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

// registryConfig keeps what is pushed in memory.
const registryConfig = "version: 0.1\nlog: {level: error}\nstorage: {inmemory: {}}\nhttp: {addr: ':5000'}\n"

// registry starts a registry of images and plugins in the hosts' network and returns its address.
func (z *zones) registry() string {
	z.t.Helper()
	peers, err := lab.PreparePeers(z.t.Context(), lab.Suites()[0], os.Stderr)
	if err != nil {
		z.t.Fatal(err)
	}
	site, err := hosts(z.t).AddSite(z.t.Context(), "registry", lab.Addresses(58)...)
	if err != nil {
		z.t.Fatal(err)
	}
	config := filepath.Join(z.t.TempDir(), "config.yml")
	if err := os.WriteFile(config, []byte(registryConfig), 0o644); err != nil {
		z.t.Fatal(err)
	}
	const enter = `mount -t tmpfs tmpfs "$1/mnt" && cp "$2" "$1/mnt/config.yml" && exec chroot "$1" docker-registry serve /mnt/config.yml`
	p, err := site.Run("registry", "unshare", "--mount", "sh", "-c", enter, "sh", peers, config)
	if err != nil {
		z.t.Fatal(err)
	}
	z.t.Cleanup(p.Stop)
	addr := fmt.Sprintf("%s:5000", lab.Addresses(58)[0])
	for begun := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		response, err := http.Get("http://" + addr + "/v2/")
		if err == nil {
			_ = response.Body.Close()
			return addr
		}
		if time.Since(begun) > 30*time.Second {
			z.t.Fatalf("the registry does not answer: %v: %s", err, p.Log())
		}
	}
}

// configure sets the Engine's configuration, to what it was when the part ends: what a file does not say,
// the Engine leaves as it is.
func (z *zones) configure(config string) {
	z.t.Helper()
	set := func(config string) string {
		return "echo '" + config + "' >/etc/docker/daemon.json && kill -HUP $(cat /run/docker.pid) && sleep 1"
	}
	z.t.Cleanup(func() { run(z.owner, z.h, set(`{"live-restore": false, "insecure-registries": []}`)) })
	run(z.t, z.h, set(config))
}

// testUpgrade has Docker upgrade the plugin to another build, from a registry, while a
// container writes. As long as that takes there is no relay; the container waits.
func (z *zones) testUpgrade() {
	next := z.registry() + "/" + zonesPlugin + ":2"
	z.configure(fmt.Sprintf(`{"insecure-registries": [%q]}`, lab.Addresses(58)[0].String()+":5000"))
	run(z.t, z.h, `rm -rf /root/next && cp -a /root/plugin /root/next && sed -i 's/"description": "Volumes/"description": "Newer volumes/' /root/next/config.json && echo 2 >/root/next/rootfs/build && `+
		"docker plugin create "+next+" /root/next && docker plugin push "+next+" >/dev/null && docker plugin rm "+next)
	w := z.write(zonesWriter+20*time.Second, func() {
		run(z.t, z.h, "docker plugin disable -f "+zonesPlugin+" && docker plugin upgrade --grant-all-permissions --skip-remote-check "+zonesPlugin+" "+next+
			" >/dev/null && docker plugin enable "+zonesPlugin)
	})
	if w.Error != "" || w.Damage != "" || w.Writes == 0 {
		z.t.Errorf("%+v", w)
	}
	if got := run(z.t, z.h, "docker plugin inspect -f '{{.Config.Description}}' "+zonesPlugin); got[:5] != "Newer" {
		z.t.Errorf("the plugin is %s", got)
	}
	z.known("zone")
	z.survives(z.write(time.Second, func() {}))
}
