package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/relay"
)

// expiresSoon is when a certificate that nobody renewed is trouble.
const expiresSoon = 7 * 24 * time.Hour

// Status is a moment's picture of a gateway; the control socket answers it to
// /status.json.
type Status struct {
	Version string `json:"version"`
	// Host is the machine's name.
	Host string `json:"host,omitempty"`
	// Gateway tells this from the plugin's status.
	Gateway Overview `json:"gateway"`
}

// Overview is all but what program it is, and where.
type Overview struct {
	Since      time.Time        `json:"since"`
	Listen     []netip.AddrPort `json:"listen"`
	PeerListen []netip.AddrPort `json:"peer_listen,omitempty"`
	// Peers: the targets are gateways.
	Peers       bool             `json:"peers"`
	Targets     proxy.GroupState `json:"targets"`
	Relay       relay.Stats      `json:"relay"`
	Certificate *Certificate     `json:"certificate,omitempty"`
	// Trouble are sentences for an operator; none: all is well.
	Trouble []string `json:"trouble"`
}

// Healthy reports whether there is no trouble.
func (s Status) Healthy() bool { return len(s.Gateway.Trouble) == 0 }

// Status looks at everything.
func (g *Gateway) Status() Status {
	g.mu.Lock()
	where := g.where
	g.mu.Unlock()
	o := Overview{
		Since: g.started, Listen: where.plain, PeerListen: where.peer, Peers: g.options.Peers,
		Targets: g.group.State(), Relay: g.relay.Stats(), Trouble: []string{},
	}
	usable := false
	var reasons []string
	for _, target := range o.Targets.Targets {
		// That one of several is down is no trouble: it is what the others are for.
		usable = usable || target.Health != proxy.Down && target.Health != proxy.Doubt
		if target.Why != "" {
			reasons = append(reasons, fmt.Sprintf("%s: %s", target.Target, target.Why))
		}
	}
	if !usable {
		o.Trouble = append(o.Trouble, "no target answers, clients wait until one does: "+strings.Join(reasons, "; "))
	}
	if g.options.Identity != nil {
		c := g.options.Identity.Certificate()
		o.Certificate = &c
		o.Trouble = append(o.Trouble, c.Trouble(time.Now())...)
	}
	host, _ := os.Hostname() // without a name it goes as well
	return Status{Version: g.options.Version, Host: host, Gateway: o}
}

// Look answers GET /status.json, and GET /healthz with 200 or with 503 and the trouble.
// Nothing can be changed through it.
func (g *Gateway) Look() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// An asker that has gone away is no trouble of ours.
		_ = json.NewEncoder(w).Encode(g.Status())
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if trouble := g.Status().Gateway.Trouble; len(trouble) > 0 {
			http.Error(w, strings.Join(trouble, "\n"), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// Control is [Gateway.Look] and POST /drain?zone=Z&on=true|false. Whoever may use it, may
// do that: it is for a Unix socket.
func (g *Gateway) Control() http.Handler {
	mux := g.Look()
	mux.HandleFunc("POST /drain", func(w http.ResponseWriter, r *http.Request) {
		on, err := strconv.ParseBool(r.URL.Query().Get("on"))
		if err != nil {
			err = fmt.Errorf("on=%q: write true or false", r.URL.Query().Get("on"))
		} else {
			err = g.Drain(r.URL.Query().Get("zone"), on)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}
