package main

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/gateway"
)

// relayFlags are the words of the command line.
type relayFlags struct {
	listen, targets, allow               []string
	peerListen, peerConnect, peerAllow   []string
	zone, fileSystem, goBack, http, data string
	files                                gateway.Files
	efs                                  efsFlags
	peerName, level                      string
	knobs                                proxy.Knobs
	drain                                time.Duration
	conns, perClient                     int
}

func (f *relayFlags) register(flags *pflag.FlagSet) {
	flags.StringArrayVar(&f.listen, "listen", nil, "listen for NFS clients on `ADDRESS:PORT` (repeatable)")
	flags.StringArrayVar(&f.targets, "target", nil, "a mount target, `ZONE=ADDRESS[:PORT][,backup]` (repeatable)")
	flags.StringVar(&f.zone, "zone", "", "the home `ZONE`, whose target comes first")
	flags.StringArrayVar(&f.allow, "allow", nil, "a `NETWORK` of clients, such as 10.0.0.0/8 (repeatable; default: this machine only)")
	flags.StringVar(&f.goBack, "return", "sticky", "after a move: `sticky` stays, home goes back when the home zone was up for 10 minutes")
	millis(flags, &f.knobs.Inter, "inter", "5s", "time between two checks of a target that answers")
	millis(flags, &f.knobs.FastInter, "fastinter", "500ms", "the same while there is doubt")
	millis(flags, &f.knobs.DownInter, "downinter", "5s", "the same while it is down")
	millis(flags, &f.knobs.Timeout, "timeout", "3s", "how long a check may take")
	flags.Var(&countValue{&f.knobs.Rise}, "rise", "checks in a row that bring a target up (default 2)")
	flags.Var(&countValue{&f.knobs.Fall}, "fall", "failed checks in a row that bring it down (default 3)")
	flags.IntVar(&f.conns, "max-connections", gateway.DefaultMaxConns, "clients that may be connected; more are refused")
	flags.IntVar(&f.perClient, "max-per-client", gateway.DefaultMaxPerClient, "connections of one address; 0: any number")
	flags.DurationVar(&f.drain, "drain", gateway.DefaultDrainTime, "how long clients may go on after SIGTERM")
	flags.StringVar(&f.http, "http", "", "metrics, health check and status page on `ADDRESS:PORT`")
	flags.StringVar(&f.data, "data", "", "`DIRECTORY` for the socket of status and drain (default: none)")
	flags.StringVar(&f.fileSystem, "filesystem", "", "`NAME` of the file system in logs and the status (default nfs), or its id")
	flags.StringVar(&f.level, "log-level", "info", "`LEVEL`: debug, info, warn, error")
	flags.StringArrayVar(&f.peerListen, "peer-listen", nil, "listen for peer gateways on `ADDRESS:PORT`, mutual TLS (repeatable)")
	flags.StringArrayVar(&f.peerConnect, "peer-connect", nil, "instead of --target: a peer gateway, `[ZONE=]ADDRESS:PORT[,backup]` (repeatable)")
	flags.StringArrayVar(&f.peerAllow, "peer-allow", nil, "a `NETWORK` of peers (repeatable; default: any, their certificate decides)")
	flags.StringVar(&f.peerName, "peer-name", "", "`NAME` in the peer's certificate (default: the address connected to)")
	flags.StringVar(&f.files.Cert, "cert", "", "this gateway's certificate, a PEM `FILE`")
	flags.StringVar(&f.files.Key, "key", "", "its private key, a PEM `FILE`")
	f.efs.register(flags)
	flags.StringVar(&f.files.CA, "peer-ca", "", "authorities of the peer's certificate, a PEM `FILE`")
}

// relayPlan is what the words mean.
type relayPlan struct {
	options            gateway.Options
	listen, peerListen []netip.AddrPort
	http               netip.AddrPort // invalid: none
	data               string
	files              *gateway.Files              // nil: no TLS
	efs                func() (*efs.Client, error) // nil: mount targets are reached in the clear
	peerName           string
	level              logrus.Level
}

// plan reads all words and says what is wrong with the first that is. It looks at nothing
// else: what it says does not get better by trying again.
func (f *relayFlags) plan() (p relayPlan, err error) {
	p.options = gateway.Options{FileSystem: f.fileSystem, Home: f.zone, Knobs: f.knobs, MaxConns: f.conns, Version: version}
	if p.listen, err = each("--listen", f.listen, gateway.ParseListen); err != nil {
		return p, err
	}
	if p.peerListen, err = each("--peer-listen", f.peerListen, gateway.ParseListen); err != nil {
		return p, err
	}
	if p.options.Allow, err = each("--allow", f.allow, gateway.ParseNetwork); err != nil {
		return p, err
	}
	if p.options.PeerAllow, err = each("--peer-allow", f.peerAllow, gateway.ParseNetwork); err != nil {
		return p, err
	}
	if f.http != "" {
		if p.http, err = gateway.ParseListen(f.http); err != nil {
			return p, fmt.Errorf("--http: %w", err)
		}
	}
	if p.level, err = logrus.ParseLevel(f.level); err != nil {
		return p, fmt.Errorf("--log-level %q: write debug, info, warn or error", f.level)
	}
	if f.data != "" {
		p.data = filepath.Join(f.data, controlSocket)
	}
	for _, part := range []func(*relayPlan) error{f.planTargets, f.planLimits, f.planPeers, f.planEFS} {
		if err := part(&p); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (f *relayFlags) planTargets(p *relayPlan) (err error) {
	switch {
	case len(f.targets) > 0 && len(f.peerConnect) > 0:
		return errors.New("--target and --peer-connect: a gateway has one of the two, mount targets or peers that have them")
	case len(f.peerConnect) > 0:
		p.options.Peers = true
		p.options.Targets, err = each("--peer-connect", f.peerConnect, gateway.ParsePeer)
	default:
		p.options.Targets, err = each("--target", f.targets, proxy.ParseTarget)
	}
	if err != nil {
		return err
	}
	switch f.goBack {
	case "sticky":
	case "home":
		p.options.Return = proxy.ReturnHome
	default:
		return fmt.Errorf("--return %q: write sticky or home", f.goBack)
	}
	return p.options.CheckTargets()
}

// planLimits: what is zero here means none, and a default there.
func (f *relayFlags) planLimits(p *relayPlan) error {
	switch {
	case f.conns < 1:
		return fmt.Errorf("--max-connections %d: write 1 or more", f.conns)
	case f.perClient < 0:
		return fmt.Errorf("--max-per-client %d: write 1 or more, or 0 for any number", f.perClient)
	case f.drain < 0:
		return fmt.Errorf("--drain %s: write 0 or more", f.drain)
	}
	p.options.MaxPerClient, p.options.DrainTime = f.perClient, f.drain
	if f.perClient == 0 {
		p.options.MaxPerClient = -1
	}
	if f.drain == 0 {
		p.options.DrainTime = -1
	}
	return nil
}

func (f *relayFlags) planPeers(p *relayPlan) error {
	files := []string{f.files.Cert, f.files.Key, f.files.CA}
	switch given := slices.DeleteFunc(files, func(name string) bool { return name == "" }); {
	case len(given) == 3:
		p.files, p.peerName = &f.files, f.peerName
	case len(given) > 0 || len(f.peerListen)+len(f.peerConnect) > 0:
		return errors.New("mutual TLS takes --cert, --key and --peer-ca, all three")
	case f.peerName != "" || len(f.peerAllow) > 0:
		return errors.New("--peer-name and --peer-allow are for --peer-listen or --peer-connect, and neither is given")
	}
	return nil
}

// each reads the values of a flag.
func each[T any](flag string, texts []string, parse func(string) (T, error)) ([]T, error) {
	var all []T
	for _, text := range texts {
		value, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
		all = append(all, value)
	}
	return all, nil
}

// millisValue is a time as HAProxy has it: with a unit, or in milliseconds.
type millisValue struct{ *time.Duration }

// longestTime is beyond what anybody waits for a check.
const longestTime = 24 * time.Hour

func millis(flags *pflag.FlagSet, value *time.Duration, name, usual, usage string) {
	flags.Var(millisValue{value}, name, usage+" (default "+usual+")")
}

func (v millisValue) Set(text string) error {
	parsed, err := time.ParseDuration(text)
	if text != "" && strings.Trim(text, "0123456789") == "" {
		parsed, err = time.ParseDuration(text + "ms")
	}
	if err != nil || parsed <= 0 || parsed > longestTime {
		return errors.New("write a time such as 5s or 500ms, at most 24h")
	}
	*v.Duration = parsed
	return nil
}

func (v millisValue) String() string { return "" }
func (v millisValue) Type() string   { return "TIME" }

// countValue is a number of checks.
type countValue struct{ *int }

func (v *countValue) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 1000 {
		return errors.New("write a number from 1 to 1000")
	}
	*v.int = n
	return nil
}

func (v *countValue) String() string { return "" }
func (v *countValue) Type() string   { return "N" }
