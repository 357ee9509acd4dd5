//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

const (
	relayUnit    = "docker-volume-efs-relay"
	relayMount   = "/run/by-unit"
	relayProgram = "/usr/local/bin/docker-volume-efs"
)

// startSystemd is systemd as the first process of namespaces of its own, which the lab's hosts do not
// start with: it takes a minute that no other test needs. Mounts of others are not kept in there.
const startSystemd = `
mkdir -p /sys/fs/cgroup/systemd
cat >/run/first <<'END'
awk '$3 ~ /^nfs/ { print $2 }' /proc/mounts | xargs -r umount -l
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -o remount,bind,ro /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /run/systemd/system
printf '[Unit]\nDefaultDependencies=no\n' >/run/systemd/system/lab.target
exec env -i container=lab PATH=$PATH LANG=C.UTF-8 /usr/lib/systemd/systemd --unit=lab.target
END
sh -c 'echo 0 >/sys/fs/cgroup/systemd/cgroup.procs
exec setsid unshare --mount --pid --cgroup --ipc --fork --kill-child --propagation private sh /run/first' >/run/systemd.log 2>&1 </dev/null &
echo $! >/run/systemd.outer
for i in $(seq 60); do
	sleep 1
	pgrep -P $(cat /run/systemd.outer) -x systemd >/run/systemd.pid || continue
	nsenter -t $(cat /run/systemd.pid) -a systemctl is-active lab.target && exit
done
cat /run/systemd.log
exit 1`

const endSystemd = `umount -lf ` + relayMount + `; kill -9 $(cat /run/systemd.outer)
while pgrep -f '[d]ocker-volume-efs.* relay' >/dev/null; do sleep 0.1; done`

// units is a host on which systemd runs, with the relay's units.
type units struct {
	t *testing.T
	h *lab.Host
}

// inside runs a line of shell as systemd's own machine would.
func (u *units) inside(line string) string {
	u.t.Helper()
	return run(u.t, u.h, "nsenter -t $(cat /run/systemd.pid) -a sh -ec '"+line+"'")
}

// TestRelayUnits runs the units of deploy/systemd as docs/relay.md has them installed.
func TestRelayUnits(t *testing.T) {
	apartOnServer(t, "host-e")
	l := hosts(t)
	u := &units{t, l.Host("host-e")}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := u.h.Run(ctx, endSystemd); err != nil {
			t.Errorf("end systemd: %v", err)
		}
	})
	run(t, u.h, startSystemd)
	u.install(l.Server)
	u.isConfined()

	run(t, u.h, "mkdir -p "+relayMount+" && mount -t nfs4 -o vers=4.1,hard,timeo=600,retrans=2,noresvport,nosharecache 127.0.0.1:/export "+relayMount)
	for _, row := range []struct{ name, line string }{
		{"an upgrade", "cp " + relayProgram + " /run/next; install -m 0755 /run/next " + relayProgram + "; systemctl restart " + relayUnit},
		{"a crash of both processes", "systemctl kill --signal=KILL " + relayUnit},
		{"a stop, after which systemd's socket starts it", "systemctl stop " + relayUnit + ".service"},
		{"a reload", "systemctl reload " + relayUnit},
	} {
		if part := t.Run(row.name, func(t *testing.T) { (&units{t, u.h}).goesOn(row.line) }); !part {
			t.Log(u.inside("systemctl status --no-pager --lines=40 " + relayUnit + ".service || true"))
		}
	}
}

func (u *units) install(server *lab.Server) {
	u.t.Helper()
	for from, to := range map[string]string{
		filepath.Join(siteBundle, "rootfs/docker-volume-efs"): relayProgram,
		"../deploy/systemd/" + relayUnit + ".service":         "/etc/systemd/system/" + relayUnit + ".service",
		"../deploy/systemd/" + relayUnit + ".socket":          "/etc/systemd/system/" + relayUnit + ".socket",
		"../deploy/systemd/" + relayUnit + "-peer.socket":     "/etc/systemd/system/" + relayUnit + "-peer.socket",
		"../build/lab/writer":                                 "/root/writer",
	} {
		if err := u.h.Upload(u.t.Context(), from, to, 0o755); err != nil {
			u.t.Fatal(err)
		}
	}
	run(u.t, u.h, fmt.Sprintf("chmod 0644 /etc/systemd/system/%s*; mkdir -p /etc/docker-volume-efs && echo 'RELAY_OPTIONS=--zone a --target a=%s --target b=%s' >/etc/docker-volume-efs/relay.conf",
		relayUnit, server.Addr("a"), server.Addr("b")))
	u.inside("systemctl daemon-reload; systemctl enable --now " + relayUnit + ".socket " + relayUnit + ".service")
	if said := u.inside(relayProgram + " status --data /run/" + relayUnit); !strings.Contains(said, "LISTENS ON") || !strings.Contains(said, "up, in use") {
		u.t.Errorf("the gateway's status:\n%s", said)
	}
}

// isConfined looks at what the processes of the service may do: nothing but use sockets.
func (u *units) isConfined() {
	u.t.Helper()
	processes := strings.Fields(u.inside("cat /sys/fs/cgroup/system.slice/" + relayUnit + ".service/cgroup.procs"))
	if n := len(processes); n != 2 {
		u.t.Fatalf("%d processes, want the parent and its worker", n)
	}
	for _, pid := range processes {
		status := u.inside("cat /proc/" + pid + "/status")
		for _, want := range []string{"CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
			if !strings.Contains(status, want) {
				u.t.Errorf("process %s does not have %q:\n%s", pid, want, status)
			}
		}
		if strings.Contains(status, "\nUid:\t0\t") {
			u.t.Errorf("process %s is root's", pid)
		}
	}
}

// goesOn has something happen to the service while a file on a mount through it is written, and others
// connect: nobody is refused.
func (u *units) goesOn(line string) {
	u.t.Helper()
	run(u.t, u.h, "rm -f "+relayMount+"/file; /root/writer -for 20s "+relayMount+"/file >/run/unit.json 2>/run/unit.error </dev/null & echo $! >/run/unit.writer\n"+
		"(for i in $(seq 100); do timeout 20 bash -c ': </dev/tcp/127.0.0.1/2049' 2>/dev/null || echo refused; sleep 0.1; done) >/run/unit.refused 2>&1 </dev/null & echo $! >/run/unit.dialer\nsleep 3")
	before := u.inside("systemctl show --value --property=MainPID " + relayUnit)
	u.inside(line)
	out := run(u.t, u.h, "for one in writer dialer; do while kill -0 $(cat /run/unit.$one) 2>/dev/null; do sleep 0.5; done; done; cat /run/unit.json")
	var w written
	if err := json.Unmarshal([]byte(out), &w); err != nil {
		u.t.Fatalf("the writer says %q: %v", out, err)
	}
	u.t.Logf("%d writes, longest %.2f s", w.Writes, w.Longest)
	if !w.isWell() {
		u.t.Errorf("%+v", w)
	}
	if refused := run(u.t, u.h, "cat /run/unit.refused"); refused != "" {
		u.t.Errorf("%d clients were refused", strings.Count(refused, "\n"))
	}
	after := u.inside("systemctl show --value --property=MainPID " + relayUnit)
	if reload := strings.Contains(line, "reload"); (before == after) != reload || strings.TrimSpace(after) == "0" {
		u.t.Errorf("the gateway was process %s and is process %s", strings.TrimSpace(before), strings.TrimSpace(after))
	}
}
