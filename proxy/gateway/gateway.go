package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/relay"
)

// Defaults of [Options].
const (
	DefaultMaxConns     = 10000
	DefaultMaxPerClient = 256
	DefaultDrainTime    = 2 * time.Second
)

// speakFirst is how long a plain client may take to say anything.
const speakFirst = 30 * time.Second

// Options describe a [Gateway]. Targets are required; all else has a zero value that works.
type Options struct {
	// Targets are the mount targets, or with Peers the gateways at the other end.
	Targets []proxy.Target
	// FileSystem is its name in logs and the status; empty: "nfs".
	FileSystem string
	Home       string
	Knobs      proxy.Knobs
	Return     proxy.ReturnPolicy
	// Peers: the targets are gateways that accept mutual TLS. It takes an Identity.
	Peers bool
	// Identity is for Peers and for clients of [Listeners.Peer]; nil: neither.
	Identity *Identity
	// EFS has mount targets reached by TLS, as the identity that it shows them; nil: in the
	// clear. Not with Peers.
	EFS *efs.Client
	// Allow are the networks of plain clients; none: loopback only.
	Allow []netip.Prefix
	// PeerAllow are the networks of peers; none: any, their certificate decides.
	PeerAllow []netip.Prefix
	// MaxConns is how many clients may be connected, MaxPerClient how many plain ones
	// from one address; 0: the defaults, less than 0: any number for one address.
	MaxConns, MaxPerClient int
	// DrainTime is how long clients may go on when the gateway ends; 0: the default,
	// less than 0: they are reset at once.
	DrainTime time.Duration
	// HTTP makes what [Listeners.HTTP] answers; nil: nothing does.
	HTTP func(*Gateway) http.Handler
	// Version is for the status.
	Version string
	// Log gets moves, refusals and news of certificates. Nil: nowhere.
	Log logrus.FieldLogger
}

// Gateway passes clients' connections on to the mount target in use.
type Gateway struct {
	options Options
	log     logrus.FieldLogger
	group   *proxy.Group
	relay   relay.Relay
	ask     func(context.Context, netip.AddrPort) (time.Duration, error) // a target, whether it serves
	started time.Time
	hurry   chan struct{}
	endNow  func()

	mu    sync.Mutex // guards the following field
	where listening
}

// New checks the options. It starts nothing.
func New(options Options) (*Gateway, error) {
	if err := options.CheckTargets(); err != nil {
		return nil, err
	}
	if options.Peers && options.Identity == nil {
		return nil, errors.New("a peer is reached with a certificate only: none is given")
	}
	if options.Log == nil {
		silent := logrus.New()
		silent.SetLevel(logrus.PanicLevel)
		options.Log = silent
	}
	if options.FileSystem == "" {
		options.FileSystem = "nfs"
	}
	g := &Gateway{options: options, log: options.Log, started: time.Now(), hurry: make(chan struct{})}
	g.endNow = sync.OnceFunc(func() { close(g.hurry) })
	choice := proxy.GroupOptions{FileSystem: options.FileSystem, Home: options.Home, Knobs: options.Knobs, Return: options.Return, Log: options.Log}
	g.relay = relay.Relay{
		MaxConns:     orDefault(options.MaxConns, DefaultMaxConns),
		MaxPerClient: max(0, orDefault(options.MaxPerClient, DefaultMaxPerClient)),
		Admit:        g.admit,
		SpeakFirst:   speakFirst,
		Log:          options.Log,
	}
	switch {
	case options.Peers:
		g.ask, g.relay.Secure = options.Identity.check, options.Identity.secure
	case options.EFS != nil:
		g.ask, g.relay.Secure = options.EFS.Check, options.EFS.Secure
	default:
		g.ask = proxy.Ping
	}
	choice.Check = g.ask
	g.group = proxy.NewGroup(choice, options.Targets)
	g.relay.Group = g.group
	return g, nil
}

func orDefault[T int | time.Duration](value, otherwise T) T {
	if value == 0 {
		return otherwise
	}
	return value
}

// CheckTargets refuses what can only be a slip.
func (o Options) CheckTargets() error {
	if len(o.Targets) == 0 {
		return errors.New("no target is given")
	}
	for i, target := range o.Targets {
		if addr := target.Addr.Addr(); !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() {
			return fmt.Errorf("target %s: nobody can be reached at that address", target)
		}
		for _, earlier := range o.Targets[:i] {
			switch {
			case earlier.Addr == target.Addr:
				return fmt.Errorf("target %s: address %s is given twice", target, target.Addr)
			case earlier.Zone == target.Zone && target.Zone != "":
				return fmt.Errorf("target %s: zone %s is given twice, it has one mount target", target, target.Zone)
			}
		}
	}
	if zones := zonesOf(o.Targets); o.Home != "" && !slices.Contains(zones, o.Home) {
		return fmt.Errorf("home zone %s: no target is there, the zones are: %s; give one of them or none", o.Home, strings.Join(zones, ", "))
	}
	return nil
}

func zonesOf(targets []proxy.Target) []string {
	var zones []string
	for _, target := range targets {
		if target.Zone != "" {
			zones = append(zones, target.Zone)
		}
	}
	return zones
}

// Drain moves the clients away from a zone and keeps them away, or allows it again.
func (g *Gateway) Drain(zone string, on bool) error {
	if err := g.group.Drain(zone, on); err != nil {
		return err
	}
	g.log.Infof("zone %s drained: %t", zone, on)
	return nil
}

// Reload reads the certificates again. After an error the old ones stay.
func (g *Gateway) Reload() error {
	if g.options.Identity == nil {
		return nil
	}
	return g.options.Identity.Reload()
}

// EndNow shortens the time that clients have when the gateway ends to nothing.
func (g *Gateway) EndNow() { g.endNow() }

// shutdown lets clients go on for a while, then resets them.
func (g *Gateway) shutdown() {
	drain := max(0, orDefault(g.options.DrainTime, DefaultDrainTime))
	if left := g.relay.Stats().Conns; left > 0 {
		g.log.Infof("ending: %d clients are connected, and reset in %s", left, drain)
	}
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-g.hurry:
			cancel()
		case <-ended:
		}
	}()
	// Its error says that clients were reset, which was announced.
	_ = g.relay.Shutdown(ctx)
}
