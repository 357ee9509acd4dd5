package gateway_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/gateway"
)

func TestClientsGoToTheHomeZoneAndOnToAnotherWhenThatDies(t *testing.T) {
	a, b := serve(t, "a"), serve(t, "b")
	w := start(t, gateway.Options{Targets: []proxy.Target{a.Target, b.Target}, Home: "b"})
	client := dial(t, w.plain)
	talk(t, client, "hello")
	if a.conns.Load() != 0 || b.conns.Load() != 1 {
		t.Errorf("%d clients in zone a, %d in zone b, which is home", a.conns.Load(), b.conns.Load())
	}
	b.stop()
	expectReset(t, client)
	begun := time.Now()
	talk(t, dial(t, w.plain), "again")
	if took := time.Since(begun); took > patience/3 {
		t.Errorf("it took %v", took)
	}
}

func TestABackupIsForWhenNobodyElseAnswers(t *testing.T) {
	a, b, c := serve(t, "a"), serve(t, "b"), serve(t, "c")
	a.Backup = true
	w := start(t, gateway.Options{Targets: []proxy.Target{a.Target, b.Target, c.Target}})
	for i, target := range []*server{b, c, a} {
		client := dial(t, w.plain)
		talk(t, client, "hello")
		if target.conns.Load() != 1 {
			t.Fatalf("client %d went elsewhere", i)
		}
		if i < 2 {
			target.stop()
			expectReset(t, client)
		}
	}
}

func TestATargetThatIsNotNFSIsNotUsedAndTold(t *testing.T) {
	// It takes connections, greets, and understands nothing.
	other := serveAs(t, "a", func(_ *server, conn net.Conn) {
		_, _ = io.WriteString(conn, "220 mail.example.com ESMTP\r\n")
		_, _ = io.Copy(io.Discard, conn)
	})
	b := serve(t, "b")
	w := start(t, gateway.Options{Targets: []proxy.Target{other.Target, b.Target}, Home: "a"})
	w.log.expect(t, "does not speak NFSv4")
	eventually(t, "zone b is used", func() bool { return w.State().Current == b.Target })
	talk(t, dial(t, w.plain), "hello")
	answers := w.Check(t.Context())
	if len(answers) != 2 || answers[0].Err == nil || !strings.Contains(answers[0].Err.Error(), "does not speak NFSv4") || answers[1].Err != nil || answers[1].RTT <= 0 {
		t.Errorf("%+v", answers)
	}
}

func TestWhoIsLetInIs(t *testing.T) {
	for _, row := range []struct {
		name  string
		allow []netip.Prefix
		from  string
		let   bool
	}{
		{"this machine, if nobody else is named", nil, "127.0.0.1", true},
		{"a network that is named", prefixes("127.0.0.0/30"), "127.0.0.2", true},
		{"the second network that is named", prefixes("10.0.0.0/8", "127.0.0.0/30"), "127.0.0.2", true},
		{"nobody of another network", prefixes("127.0.0.0/30"), "127.0.0.4", false},
		{"not this machine, if others are named", prefixes("10.0.0.0/8"), "127.0.0.1", false},
		{"one address", prefixes("127.0.0.2/32"), "127.0.0.2", true},
		{"not its neighbour", prefixes("127.0.0.2/32"), "127.0.0.3", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := serve(t, "a")
			w := start(t, gateway.Options{Targets: []proxy.Target{a.Target}, Allow: row.allow})
			if row.let {
				talk(t, dialFrom(t, row.from, w.plain), "hello")
				return
			}
			expectRefused(t, row.from, w.plain)
			w.log.expect(t, "refused client "+row.from)
			w.log.expect(t, "its network is not allowed (--allow)")
			if n := a.conns.Load(); n != 0 {
				t.Errorf("%d connections came to the mount target", n)
			}
		})
	}
}

func TestWithoutAListOnlyThisMachineIsLetInAndEveryPeerMayProveItself(t *testing.T) {
	a := serve(t, "a")
	open, err := gateway.New(gateway.Options{Targets: []proxy.Target{a.Target}})
	if err != nil {
		t.Fatal(err)
	}
	named, err := gateway.New(gateway.Options{Targets: []proxy.Target{a.Target}, Allow: prefixes("10.0.0.0/8", "fe80::/10"), PeerAllow: prefixes("198.51.100.7/32")})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		gateway *gateway.Gateway
		client  string
		peer    bool
		let     bool
	}{
		{open, "127.0.0.1", false, true},
		{open, "::1", false, true},
		{open, "::ffff:127.0.0.1", false, true},
		{open, "10.0.0.1", false, false},
		{open, "2001:db8::1", false, false},
		{open, "198.51.100.9", true, true},
		{named, "::ffff:10.0.0.1", false, true},
		{named, "fe80::1%eth0", false, true},
		{named, "198.51.100.7", false, false},
		{named, "198.51.100.7", true, true},
		{named, "10.0.0.1", true, false},
	} {
		if err := row.gateway.Allows(netip.MustParseAddr(row.client), row.peer); (err == nil) != row.let {
			t.Errorf("client %s, peer %t: %v", row.client, row.peer, err)
		}
	}
}

func TestPeersHaveAListOfTheirOwn(t *testing.T) {
	c := newCouple(t)
	far := start(t, gateway.Options{
		Targets: []proxy.Target{c.target.Target}, Identity: identity(t, c.farFiles, "near", &lines{}),
		Allow: prefixes("10.0.0.0/8"), PeerAllow: prefixes("127.0.0.1/32"),
	})
	talk(t, dial(t, c.connect(t, far.peer, "far").plain), "hello")
	expectRefused(t, "127.0.0.2", far.peer)
	far.log.expect(t, "--peer-allow")
	expectRefused(t, "127.0.0.1", far.plain)
}

func TestAClientOverItsLimitIsRefusedAndTheOthersUndisturbed(t *testing.T) {
	a := serve(t, "a")
	w := start(t, gateway.Options{Targets: []proxy.Target{a.Target}, MaxPerClient: 2})
	first, second := dial(t, w.plain), dial(t, w.plain)
	talk(t, first, "hello")
	talk(t, second, "hello")
	expectRefused(t, "127.0.0.1", w.plain)
	w.log.expect(t, "it has 2 connections, which is the limit for one address")
	talk(t, dialFrom(t, "127.0.0.2", w.plain), "another address")
	talk(t, first, "undisturbed")
}

func TestTheEndLeavesClientsTheirTimeAndTheQueueToTheNext(t *testing.T) {
	a := serve(t, "a")
	w := start(t, gateway.Options{Targets: []proxy.Target{a.Target}, DrainTime: 500 * time.Millisecond})
	client := dial(t, w.plain)
	talk(t, client, "hello")
	begun := time.Now()
	ended := make(chan time.Duration)
	go func() {
		w.end()
		ended <- time.Since(begun)
	}()
	w.log.expect(t, "1 clients are connected, and reset in 500ms")
	late := dial(t, w.plain) // not refused: it waits in the queue
	talk(t, client, "still served")
	if took := <-ended; took < 400*time.Millisecond || took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	expectReset(t, client)
	_ = late.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := late.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "timeout") {
		t.Errorf("who came late: %v", err)
	}
}

func TestTheEndWaitsForNobodyIfItIsToldTwice(t *testing.T) {
	a := serve(t, "a")
	w := start(t, gateway.Options{Targets: []proxy.Target{a.Target}, DrainTime: time.Hour})
	client := dial(t, w.plain)
	talk(t, client, "hello")
	done := make(chan struct{})
	go func() {
		w.end()
		close(done)
	}()
	w.log.expect(t, "reset in 1h")
	w.EndNow()
	expectReset(t, client)
	<-done
}

func TestAGatewayIsNotItsOwnTarget(t *testing.T) {
	listener := listen(t)
	everywhere, err := net.ListenTCP("tcp", &net.TCPAddr{})
	if err != nil {
		t.Fatal(err)
	}
	defer everywhere.Close()
	port := addrOf(everywhere).Port()
	for _, row := range []struct {
		name   string
		target netip.AddrPort
		listen *net.TCPListener
	}{
		{"by its address", addrOf(listener), listener},
		{"by loopback, where it listens everywhere", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), everywhere},
	} {
		t.Run(row.name, func(t *testing.T) {
			g, err := gateway.New(gateway.Options{Targets: []proxy.Target{{Zone: "a", Addr: row.target}}})
			if err != nil {
				t.Fatal(err)
			}
			err = g.Serve(t.Context(), gateway.Listeners{Plain: []*net.TCPListener{row.listen}})
			if err == nil || !strings.Contains(err.Error(), "is this gateway itself") {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestListenersAreRefusedThat(t *testing.T) {
	a := serve(t, "a")
	g, err := gateway.New(gateway.Options{Targets: []proxy.Target{a.Target}})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Serve(t.Context(), gateway.Listeners{}); err == nil || !strings.Contains(err.Error(), "give --listen") {
		t.Errorf("none: %v", err)
	}
	if err := g.Serve(t.Context(), gateway.Listeners{Peer: []*net.TCPListener{listen(t)}}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("for peers, without a certificate: %v", err)
	}
	if _, err := gateway.New(gateway.Options{Targets: []proxy.Target{a.Target}, Peers: true}); err == nil {
		t.Error("a peer is reached without a certificate")
	}
}

// ask puts a question to a handler.
func ask(t *testing.T, handler http.Handler, method, path string) (int, string) {
	t.Helper()
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), method, path, nil))
	return answer.Code, answer.Body.String()
}

func TestCommandsAreObeyedOnTheControlSocketOnly(t *testing.T) {
	a, b := serve(t, "a"), serve(t, "b")
	w := start(t, gateway.Options{Targets: []proxy.Target{a.Target, b.Target}, Version: "1.2.3"})
	client := dial(t, w.plain)
	talk(t, client, "hello")
	for _, path := range []string{"/drain?zone=a&on=true", "/status.json"} {
		if code, _ := ask(t, w.Look(), http.MethodPost, path); code < 400 {
			t.Errorf("POST %s changes something for everybody: %d", path, code)
		}
	}
	for _, row := range []struct {
		query, says string
	}{
		{"zone=c&on=true", `no mount target in zone "c"; there are: a, b`},
		{"zone=a&on=perhaps", "write true or false"},
		{"zone=a", "write true or false"},
	} {
		if code, text := ask(t, w.Control(), http.MethodPost, "/drain?"+row.query); code != http.StatusBadRequest || !strings.Contains(text, row.says) {
			t.Errorf("%s: %d %s", row.query, code, text)
		}
	}
	eventually(t, "zone b is known to answer", func() bool { return w.State().Targets[1].Health == proxy.Up })
	if code, text := ask(t, w.Control(), http.MethodPost, "/drain?zone=a&on=true"); code != http.StatusNoContent {
		t.Fatalf("%d %s", code, text)
	}
	expectReset(t, client)
	talk(t, dial(t, w.plain), "in zone b")
	var status gateway.Status
	code, text := ask(t, w.Control(), http.MethodGet, "/status.json")
	if err := json.Unmarshal([]byte(text), &status); err != nil || code != http.StatusOK {
		t.Fatalf("%d %s, %v", code, text, err)
	}
	if s := status.Gateway; status.Version != "1.2.3" || s.Targets.Current != b.Target || s.Targets.Moves[proxy.CauseDrain] != 1 ||
		len(s.Listen) != 1 || s.Listen[0] != w.plain || s.Relay.Accepted != 2 || len(s.Trouble) != 0 {
		t.Errorf("%s", text)
	}
	if code, text := ask(t, w.Look(), http.MethodGet, "/healthz"); code != http.StatusOK || text != "ok\n" {
		t.Errorf("%d %s", code, text)
	}
	a.stop()
	eventually(t, "one target is down", func() bool { return w.State().Targets[1].Health == proxy.Down })
	if !w.Status().Healthy() {
		t.Errorf("one of two is down, which is no trouble: %v", w.Status().Gateway.Trouble)
	}
	b.stop()
	eventually(t, "it is told that nobody answers", func() bool {
		code, text := ask(t, w.Look(), http.MethodGet, "/healthz")
		return code == http.StatusServiceUnavailable && strings.Contains(text, "no target answers")
	})
}
