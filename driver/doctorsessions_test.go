package driver_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/doctor"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/proxytest"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/session"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/session/sessiontest"
)

// inZones has a plain file system with a mount target at each address, in zones a, b, c.
func inZones(addresses ...netip.AddrPort) func(*driver.Options) {
	return func(o *driver.Options) {
		inAWS(o)
		plain(o)
		o.Volume.IAM = false
		a := o.Cloud.(*aws)
		a.told.Targets = nil
		for i, addr := range addresses {
			a.told.Targets = append(a.told.Targets, proxy.Target{Zone: string(rune('a' + i)), Addr: addr})
		}
		a.dns = a.told.Targets
	}
}

// The mount targets here answer NULL and no more, so that the answer is not known.
func TestDoctorAsksFurtherMountTargetsForSessions(t *testing.T) {
	dead := closedPort(t)
	for _, row := range []struct {
		name  string
		ports func(first, second netip.AddrPort) []netip.AddrPort
		want  []doctor.Outcome
	}{
		{"there is one: nobody is asked", func(first, _ netip.AddrPort) []netip.AddrPort { return []netip.AddrPort{first} }, nil},
		{"the second is asked", func(first, second netip.AddrPort) []netip.AddrPort { return []netip.AddrPort{first, second} }, []doctor.Outcome{doctor.Warning}},
		{"one that is dead is not", func(first, second netip.AddrPort) []netip.AddrPort { return []netip.AddrPort{first, dead, second} }, []doctor.Outcome{doctor.Skipped, doctor.Warning}},
		{"the first that lives is what others are compared with", func(first, second netip.AddrPort) []netip.AddrPort { return []netip.AddrPort{dead, first, second} }, []doctor.Outcome{doctor.Warning}},
	} {
		t.Run(row.name, func(t *testing.T) {
			first, second := proxytest.Serve(t, proxytest.Echo).Addr, proxytest.Serve(t, proxytest.Echo).Addr
			e := newEFSHost(t, inZones(row.ports(first, second)...))
			var got []doctor.Outcome
			for _, f := range examined(e.testHost) {
				if f.Check != "sessions" {
					continue
				}
				got = append(got, f.Outcome)
				if f.Outcome == doctor.Warning && (!strings.Contains(f.Found, "not known whether it shares them with") || !strings.Contains(f.Found, "="+first.String())) {
					t.Errorf("%+v does not name %v", f, first)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(row.want) {
				t.Errorf("%v, want %v", got, row.want)
			}
		})
	}
}

func TestDoctorTellsServersThatShareSessions(t *testing.T) {
	for _, row := range []struct {
		name string
		one  bool
		want doctor.Outcome
	}{
		{"one server at two addresses", true, doctor.OK},
		{"two servers", false, doctor.Warning},
	} {
		t.Run(row.name, func(t *testing.T) {
			a, b := sessiontest.New(), sessiontest.New()
			if row.one {
				b = a
			}
			at := func(s *sessiontest.Server) netip.AddrPort {
				return proxytest.Serve(t, func(conn *net.TCPConn) { s.Serve(t, conn) }).Addr
			}
			e := newEFSHost(t, inZones(at(a), at(b)))
			if f := finding(t, examined(e.testHost), "sessions"); f.Outcome != row.want || !strings.HasPrefix(f.Target, "b=") {
				t.Errorf("%+v, want it %s", f, row.want)
			}
			for _, s := range []*sessiontest.Server{a, b} {
				if len(s.Clients) > 0 || len(s.Sessions) > 0 {
					t.Errorf("doctor has left %d clients, %d sessions", len(s.Clients), len(s.Sessions))
				}
			}
		})
	}
}

func TestDoctorSaysWhatSharedSessionsMean(t *testing.T) {
	first := proxy.Target{Zone: "a", Addr: netip.MustParseAddrPort("10.0.1.5:2049")}
	for _, row := range []struct {
		name   string
		shared bool
		err    error
		want   doctor.Outcome
		says   []string
	}{
		{"shared", true, nil, doctor.OK, []string{"shared with a=10.0.1.5:2049", "keeps open files and locks"}},
		{"shared, and the question's client stays there for a while", true, fmt.Errorf("first server: %w", session.ErrLeftover), doctor.OK, []string{"shared with"}},
		{"apart", false, nil, doctor.Warning, []string{"apart from those of a=10.0.1.5:2049", "locks", "can be lost", "EFS_RETURN=sticky"}},
		{"apart, and the question's client stays there for a while", false, session.ErrLeftover, doctor.Warning, []string{"apart from"}},
		{"no answer", false, errors.New("use the first server's session on the second: reset"), doctor.Warning, []string{"not known", "reset"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := driver.ExplainSessions(first, row.shared, row.err)
			if f.Outcome != row.want || f.Outcome != doctor.OK && (f.Why == "" || f.Do == "") {
				t.Errorf("%+v, want it %s", f, row.want)
			}
			for _, says := range row.says {
				if !strings.Contains(f.Found+"\n"+f.Why+"\n"+f.Do, says) {
					t.Errorf("%+v does not say %q", f, says)
				}
			}
		})
	}
}
