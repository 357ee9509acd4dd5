package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/integration/bundle"
	"github.com/docker-volume-efs/docker-volume-efs/integration/lab"
)

// The EFS file system of the measurements: one mount target, which speaks TLS and plain NFS on
// this machine, so that the host's own work is what counts.
const (
	efsPlugin   = "protected"
	efsName     = "fs-0123456789abcdef0"
	efsDNSName  = efsName + ".efs.eu-west-1.amazonaws.com"
	efsBackend  = 3049
	efsTest     = "build/lab/efs.test"
	mountTarget = "build/lab/mounttarget"

	wayTLS     = "relay, TLS and IAM"
	wayStunnel = "stunnel, TLS"
)

// efsResults are what TLS, an identity and the mount target's certificate cost.
type efsResults struct {
	mounts map[string]summary
	loads  loadResults
	// micro are medians of Go's benchmarks, in milliseconds, by name.
	micro map[string]float64
}

func (b *bench) prepareEFS() error {
	server, err := b.lab.AddServer(b.ctx, lab.ServerOptions{Name: "efs", Addresses: lab.Addresses(69), Port: efsBackend})
	if err != nil {
		return err
	}
	b.efsTarget = lab.Addresses(69)[0].String()
	certificate, key, err := lab.SelfSigned(efsDNSName, time.Now().Add(24*time.Hour))
	if err != nil {
		return err
	}
	for name, content := range map[string]string{"cert.pem": string(certificate), "key.pem": string(key), "rules.json": "{}"} {
		if err := os.WriteFile(filepath.Join(b.files, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	file := func(name string) string { return filepath.Join(b.files, name) }
	target, err := server.Site.Run("mounttarget", mountTarget, "-listen", b.efsTarget+":2049", "-backend", fmt.Sprintf("127.0.0.1:%d", efsBackend),
		"-cert", file("cert.pem"), "-key", file("key.pem"), "-rules", file("rules.json"), "-record", b.files)
	if err != nil {
		return err
	}
	for begun := time.Now(); !strings.Contains(target.Log(), "listening"); time.Sleep(50 * time.Millisecond) {
		if time.Since(begun) > 10*time.Second {
			return fmt.Errorf("the mount target does not listen: %s", target.Log())
		}
	}
	if err := b.host.UploadBytes(b.ctx, certificate, "/root/ca.pem", 0o644); err != nil {
		return err
	}
	// As AWS's mount helper configures it, which checks the certificate as well.
	config := fmt.Sprintf("foreground = yes\ndebug = err\npid =\nsslVersionMin = TLSv1.2\nsocket = l:SO_REUSEADDR=yes\n[efs]\nclient = yes\naccept = 127.0.0.1:2051\n"+
		"connect = %s:2049\nTIMEOUTbusy = 20\nTIMEOUTclose = 0\nTIMEOUTidle = 70\ndelay = yes\nverify = 2\nCAfile = /ca.pem\ncheckHost = %s\nsni = %[2]s\n", b.efsTarget, efsDNSName)
	return b.host.UploadBytes(b.ctx, []byte(config), "/root/stunnel.conf", 0o644)
}

// protected measures the mount of a further volume, before anything else uses the file system.
func (b *bench) protected() error {
	line := fmt.Sprintf("%s -program %s -server %s -authority /root/ca.pem -rounds 50 protected", remote, bundle.Program, b.efsTarget)
	return b.measureLine(&b.results.efs.mounts, line)
}

// protectedLoads measures fio through the plugin and through stunnel.
func (b *bench) protectedLoads() error {
	if err := b.bringPeers(); err != nil {
		return err
	}
	if err := b.createPlugin(efsPlugin); err != nil {
		return err
	}
	_, err := b.host.Run(b.ctx, fmt.Sprintf(`set -e
docker plugin set %[1]s EFS_FILESYSTEM=%[2]s EFS_TARGETS=a=%[3]s EFS_ZONE=a EFS_ROOT=/loads EFS_CA_FILE=/mnt/efs/ca.pem AWS_REGION=eu-west-1 \
	AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY
d=/var/lib/docker/plugins/$(docker plugin inspect -f '{{.Id}}' %[1]s)/propagated-mount
mkdir -p $d && cp /root/ca.pem $d/
docker plugin enable %[1]s
docker volume create -d %[1]s -o via=relay -o tls=off -o iam=off plain
docker volume create -d %[1]s -o tls=on -o iam=on tls
docker run -d --name stunnel --network host -v /root/stunnel.conf:/stunnel.conf:ro -v /root/ca.pem:/ca.pem:ro peers stunnel /stunnel.conf
sleep 3
mkdir -p /run/stunnel-nfs
unshare --uts sh -c 'hostname bench-stunnel && mount -t nfs4 -o vers=4.1,port=2051,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport 127.0.0.1:/ /run/stunnel-nfs'`,
		efsPlugin, efsName, b.efsTarget))
	if err != nil {
		return err
	}
	ways := []struct{ way, volume string }{{wayTLS, "tls"}, {wayStunnel, "/run/stunnel-nfs"}, {wayRelay, "plain"}}
	for round := range loadRounds {
		for i := range ways {
			one := ways[(i+round)%len(ways)]
			for _, job := range fioJobs {
				rate, err := zones{b}.fio(one.volume, job.options)
				if err != nil {
					return fmt.Errorf("fio, %s, %s: %w", job.name, one.way, err)
				}
				b.results.efs.loads.add("fio "+job.name+", MiB/s", one.way, rate)
			}
		}
	}
	return nil
}

// aBenchmark is a line of Go's benchmarks: name, processors, rounds, time.
var aBenchmark = regexp.MustCompile(`(?m)^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+([0-9.]+) ns/op`)

// measureEFS has Go's own benchmarks run on this machine, while no host does.
func measureEFS(ctx context.Context) (map[string]float64, error) {
	fmt.Fprintln(os.Stderr, "bench: certificates and connections")
	command := exec.CommandContext(ctx, efsTest, "-test.run", "^$", "-test.bench", "Certificate|Connect", "-test.count", "5")
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", efsTest, err, out)
	}
	all := map[string][]float64{}
	for _, line := range aBenchmark.FindAllStringSubmatch(string(out), -1) {
		ns, err := strconv.ParseFloat(line[2], 64)
		if err != nil {
			return nil, err
		}
		all[line[1]] = append(all[line[1]], ns/1e6)
	}
	medians := map[string]float64{}
	for name, times := range all {
		medians[name] = median(times)
	}
	for _, name := range []string{"Certificate", "Connect/plain", "Connect/TLS", "Connect/TLS_and_IAM"} {
		if medians[name] == 0 {
			return nil, fmt.Errorf("no benchmark %s in: %s", name, out)
		}
	}
	return medians, nil
}

func (r results) efsPage(p *strings.Builder) {
	fmt.Fprint(p, "## EFS's TLS and IAM\n\n")
	if m := r.efs.micro; m != nil {
		fmt.Fprintf(p, "### A certificate and a connection, on this machine without emulation (milliseconds, medians of 5)\n\n"+
			"A connection up to NFS's first answer on loopback, where a round trip takes no time: on a network the plain one has two of them, the one by TLS 1.3 three. "+
			"What TLS costs are the signatures, by RSA with 3,072 bits, which is what AWS's mount helper shows: two on this side, and the server checks them.\n\n"+
			"| what | median | against plain | target |\n|---|---|---|---|\n")
		fmt.Fprintf(p, "| certificate, key cached | %.2f | | 10 |\n| connection, plain | %.3f | 1.0 | |\n", m["Certificate"], m["Connect/plain"])
		fmt.Fprintf(p, "| connection, TLS | %.2f | %.1f | |\n| connection, TLS and IAM | %.2f | %.1f | 3 times |\n\n",
			m["Connect/TLS"], m["Connect/TLS"]/m["Connect/plain"], m["Connect/TLS_and_IAM"], m["Connect/TLS_and_IAM"]/m["Connect/plain"])
	}
	if r.efs.mounts == nil {
		return
	}
	peerTable(p, "Mount of a further volume (50 rounds, on the test host, milliseconds)", "At the plugin's socket; the file system is in use by both ways.", r.efs.mounts, wayRelay, wayTLS)
	fmt.Fprintf(p, "AWS is asked nothing during 1,000 mounts; `make integration RUN=TestEFS` counts it.\n\n")
	r.efs.loads.table(p, fmt.Sprintf("fio by TLS on the test host (medians of %d rounds)", loadRounds),
		"stunnel as AWS's mount helper configures it, under `mount -t nfs4`.", wayStunnel, wayTLS, wayRelay)
}
