package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/plugin"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/gateway"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/relay"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/web"
)

// plugged answers on the control socket of the result, a data directory.
func plugged(t *testing.T, s status.Snapshot) (data string) {
	t.Helper()
	data = t.TempDir()
	listener, err := plugin.Listen(filepath.Join(data, controlSocket))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	pages := web.Handler(func() status.Snapshot { return s }, new(lines).logger())
	go func() { ended <- plugin.ServeControl(listener, pages, nil, nil) }()
	t.Cleanup(func() {
		_ = listener.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return data
}

func TestStatusPrintsWhatThePluginTells(t *testing.T) {
	well := status.Snapshot{Version: "v1.2.3", Host: "host-a", FileSystems: []status.FileSystem{{
		GroupState: proxy.GroupState{FileSystem: "fs-1", Targets: []proxy.TargetState{{
			Target: proxy.Target{Zone: "eu-west-1b", Addr: netip.MustParseAddrPort("10.0.2.5:2049")}, Health: proxy.Up, InUse: true,
		}}},
		Transports: []status.Transport{{Path: status.Relayed, Listen: netip.MustParseAddrPort("127.0.0.1:40103")}},
	}}}
	ill := well
	ill.Trouble = []string{"EFS_VIA is wrong"}
	for _, row := range []struct {
		name     string
		snapshot status.Snapshot
		asJSON   bool
		has      []string
		err      error
	}{
		{"for people", well, false, []string{"v1.2.3 on host-a", "eu-west-1b", "up, in use", "127.0.0.1:40103"}, nil},
		{"for programs", well, true, []string{`"version": "v1.2.3"`, `"zone": "eu-west-1b"`, `"mounted": []`, `"trouble": []`}, nil},
		{"for people, in trouble", ill, false, []string{"EFS_VIA is wrong"}, errTrouble},
		{"for programs, in trouble", ill, true, []string{`"EFS_VIA is wrong"`}, errTrouble},
	} {
		t.Run(row.name, func(t *testing.T) {
			data := plugged(t, row.snapshot)
			page := httptest.NewServer(web.Handler(func() status.Snapshot { return row.snapshot }, new(lines).logger()))
			defer page.Close()
			for over, ask := range map[string]func(string) ([]byte, error){
				"the control socket": func(path string) ([]byte, error) { return ask(t.Context(), data, http.MethodGet, path) },
				"HTTP":               func(path string) ([]byte, error) { return askHTTP(t.Context(), page.Listener.Addr().String(), path) },
			} {
				var out bytes.Buffer
				if err := showStatus(row.asJSON, &out, ask); !errors.Is(err, row.err) {
					t.Errorf("over %s the error is %v, want %v", over, err, row.err)
				}
				for _, want := range row.has {
					if !strings.Contains(out.String(), want) {
						t.Errorf("over %s it does not print %q:\n%s", over, want, out.String())
					}
				}
			}
		})
	}
}

// What is wrong with a target may be told in words of whoever answers there.
func TestStatusOfAGatewayIsItsStatusPage(t *testing.T) {
	a, b := proxy.Target{Zone: "a", Addr: netip.MustParseAddrPort("10.0.1.5:2049")}, proxy.Target{Zone: "b", Addr: netip.MustParseAddrPort("10.0.2.5:2049")}
	s := gateway.Status{Version: "v1.2.3", Host: "gateway-a", Gateway: gateway.Overview{
		Listen: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.9:2049")}, PeerListen: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.9:20490")},
		Targets: proxy.GroupState{
			FileSystem: "nfs", Home: "a", Current: b,
			Targets: []proxy.TargetState{{Target: a, Health: proxy.Down, Why: "valid for evil\x1b[2J\n, not a"}, {Target: b, Health: proxy.Up, InUse: true}},
			Moves:   map[proxy.Cause]uint64{proxy.CauseCheck: 1},
			Recent:  []proxy.Move{{At: time.Now(), From: a, To: b, Cause: proxy.CauseCheck, Why: "3 checks failed"}},
		},
		Relay:       relay.Stats{Conns: 7, Limit: 100, Accepted: 4711, Lost: 815},
		Certificate: &gateway.Certificate{File: "/etc/cert.pem", Subject: "CN=evil\x1b[2J", NotAfter: time.Now().Add(time.Hour)},
		Trouble:     []string{"certificate /etc/cert.pem expires on …"},
	}}
	content, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var told, paged bytes.Buffer
	answer := func(string) ([]byte, error) { return content, nil }
	if err := showStatus(false, &told, answer); !errors.Is(err, errTrouble) {
		t.Errorf("the error is %v", err)
	}
	for _, want := range []string{
		"v1.2.3 on gateway-a", "1 in trouble", "home zone a", "valid for evil", "3 checks failed", "7 of 100", "4711", "815", "10.0.0.9:20490", "for peers",
		"certificate /etc/cert.pem expires on", "certificate /etc/cert.pem (CN=evil",
	} {
		if !strings.Contains(told.String(), want) {
			t.Errorf("it does not print %q", want)
		}
	}
	if strings.Contains(told.String(), "\x1b") {
		t.Errorf("a terminal would obey it")
	}
	page := httptest.NewServer(web.Handler(func() status.Snapshot { return snapshotOf(s) }, new(lines).logger()))
	defer page.Close()
	overHTTP := func(path string) ([]byte, error) { return askHTTP(t.Context(), page.Listener.Addr().String(), path) }
	if err := showStatus(false, &paged, overHTTP); !errors.Is(err, errTrouble) || !strings.HasPrefix(told.String(), paged.String()) {
		t.Errorf("over HTTP: %v\n%s", err, paged.String())
	}
	if t.Failed() {
		t.Logf("%q", told.String())
	}
}

func TestStatusWithoutAPluginSaysSo(t *testing.T) {
	err := showStatus(false, &bytes.Buffer{}, func(path string) ([]byte, error) { return ask(t.Context(), t.TempDir(), http.MethodGet, path) })
	if err == nil || !strings.Contains(err.Error(), "docker plugin ls") {
		t.Errorf("the error is %v", err)
	}
}
