//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/integration/bundle"
)

// gatewayDir is the gateways' directory on the host.
const gatewayDir = "/root/gateway"

// testGateways mounts through gateways as a machine without mount targets of its own does.
func (p zonesPlace) testGateways(t *testing.T) {
	z := p.install(t, "relay", nil)
	const certificate = `mkdir -p %[1]s && cd %[1]s && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 ` +
		`-keyout key.pem -out cert.pem -subj /CN=pair -addext subjectAltName=DNS:pair 2>/dev/null`
	run(t, z.h, fmt.Sprintf(certificate, gatewayDir))
	var targets strings.Builder
	for zone, addr := range z.targets {
		fmt.Fprintf(&targets, " --target %s=%s", zone, addr)
	}
	const identity = " --cert " + gatewayDir + "/cert.pem --key " + gatewayDir + "/key.pem --peer-ca " + gatewayDir + "/cert.pem --peer-name pair"
	for _, row := range []struct {
		name     string
		gateways []string
	}{
		{"one in the clear", []string{"--listen 127.0.0.1:2051 --zone a" + targets.String()}},
		{"a pair", []string{
			"--peer-listen 127.0.0.1:2052 --zone a" + targets.String() + strings.ReplaceAll(identity, " --peer-name pair", ""),
			"--listen 127.0.0.1:2051 --peer-connect cloud=127.0.0.1:2052" + identity,
		}},
	} {
		z.in(row.name, func() { z.throughGateways(row.gateways) })
	}
}

func (z *zones) throughGateways(gateways []string) {
	z.t.Helper()
	for _, words := range gateways {
		run(z.t, z.h, "setsid "+bundle.Program+" relay "+words+" >>"+gatewayDir+"/log 2>&1 </dev/null &")
	}
	z.t.Cleanup(func() {
		if z.t.Failed() {
			z.t.Log(run(z.owner, z.h, "tail -n 40 "+gatewayDir+"/log"))
		}
		run(z.owner, z.h, "umount -lf /run/through; pkill -f '^"+bundle.Program+" relay'; true")
	})
	run(z.t, z.h, "mkdir -p /run/through && unshare --uts sh -c 'hostname through-gateway && "+
		"mount -t nfs4 -o vers=4.1,port=2051,hard,timeo=600,retrans=2,noresvport,nosharecache 127.0.0.1:/export /run/through'")
	for _, row := range []struct {
		name   string
		lasts  time.Duration
		happen func()
	}{
		{"a mount target refuses", zonesWriter / 2, func() { z.fault(z.server.Reject, "a") }},
		{"the next one is silent", zonesWriter, func() {
			zone := strings.TrimSpace(run(z.t, z.h, "sed -n 's/.*: moved from .* to \\(.\\)=.*/\\1/p' "+gatewayDir+"/log | tail -n 1"))
			if zone != "b" && zone != "c" {
				z.t.Fatalf("after the loss of zone a the gateway went to %q", zone)
			}
			z.fault(z.server.Drop, zone)
		}},
		{"the workers are killed", zonesWriter / 2, func() { run(z.t, z.h, "pkill -9 -f '^docker-volume-efs-relay relay'") }},
	} {
		run(z.t, z.h, fmt.Sprintf("rm -f /run/through/file; /root/writer -for %s /run/through/file >/run/through.json & sleep 3; echo $! >/run/through.pid", row.lasts))
		row.happen()
		out := run(z.t, z.h, "while kill -0 $(cat /run/through.pid) 2>/dev/null; do sleep 0.5; done; cat /run/through.json")
		var w written
		if err := json.Unmarshal([]byte(out), &w); err != nil {
			z.t.Fatalf("%s: the writer says %q: %v", row.name, out, err)
		}
		z.t.Logf("%s: %d writes, longest %.2f s", row.name, w.Writes, w.Longest)
		z.survives(w)
		time.Sleep(time.Second)
	}
}
