package driver_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/mount/mounttest"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/cloud"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/proxytest"
)

const (
	fsID       = "fs-0123456789abcdef0"
	fsName     = fsID + ".efs.eu-west-1.amazonaws.com"
	someAP     = "fsap-0123456789abcdef0"
	someSecret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY" //nolint:gosec // AWS's documentation has it
)

// aws is a Cloud in memory.
type aws struct {
	mu     sync.Mutex // guards the following fields
	told   cloud.Told
	down   error // what all questions are answered with, if not nil
	calls  map[string]int
	points map[string]cloud.AccessPoint
	made   int
	// what happens while AWS is at it; nil: nothing
	creating func()
	deleting func(context.Context)
	fails    error // what CreateAccessPoint ends with after that

	who     cloud.Identity
	nobody  error // what Identity fails with
	place   cloud.Place
	dns     []proxy.Target // none: names lead nowhere
	ahead   time.Duration
	noClock error
	given   int   // how often credentials were asked for
	denied  error // why there are none
	silent  bool  // they take until the context of who asks ends
	hangs   bool  // all questions of Doctor take until their context ends
}

var _ driver.Cloud = (*aws)(nil)

func (a *aws) ask(what string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.calls == nil {
		a.calls = map[string]int{}
	}
	a.calls[what]++
	return a.down
}

func (a *aws) set(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
}

func (a *aws) asked() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, count := range a.calls {
		n += count
	}
	return n
}

func (a *aws) Region(context.Context) (string, error) { return "eu-west-1", a.ask("Region") }

func (a *aws) HomeZone(context.Context) string {
	_ = a.ask("HomeZone")
	return "a"
}

func (a *aws) Targets(context.Context, cloud.FileSystem) (cloud.Told, error) {
	err := a.ask("Targets")
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.told, err
}

// Credentials come from a cache: asking for them is no question to AWS.
func (a *aws) Credentials(ctx context.Context, _ cloud.FileSystem, role string) (efs.Credentials, error) {
	a.mu.Lock()
	silent := a.silent
	a.mu.Unlock()
	if silent {
		<-ctx.Done()
		return efs.Credentials{}, ctx.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.given++
	return efs.Credentials{AccessKeyID: "AKID" + role, SecretAccessKey: someSecret}, cmp.Or(a.down, a.denied)
}

func (a *aws) AccessPoint(_ context.Context, _ cloud.FileSystem, _, id string) (cloud.AccessPoint, error) {
	err := a.ask("AccessPoint")
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.points[id], err
}

func (a *aws) CreateAccessPoint(_ context.Context, _ string, wanted cloud.AccessPoint) (cloud.AccessPoint, error) {
	if err := a.ask("CreateAccessPoint"); err != nil {
		return cloud.AccessPoint{}, err
	}
	a.mu.Lock()
	creating := a.creating
	a.mu.Unlock()
	if creating != nil {
		creating()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if creating != nil && a.fails != nil {
		return cloud.AccessPoint{}, a.fails
	}
	for _, there := range a.points {
		if there.Owner == wanted.Owner && there.Volume == wanted.Volume {
			return there, nil
		}
	}
	if a.points == nil {
		a.points = map[string]cloud.AccessPoint{}
	}
	a.made++
	wanted.ID = fmt.Sprintf("fsap-%017x", a.made)
	a.points[wanted.ID] = wanted
	return wanted, nil
}

func (a *aws) DeleteAccessPoint(ctx context.Context, _ string, made cloud.AccessPoint) error {
	if err := a.ask("DeleteAccessPoint"); err != nil {
		return err
	}
	a.mu.Lock()
	deleting := a.deleting
	a.mu.Unlock()
	if deleting != nil {
		deleting(ctx)
		return ctx.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, there := range a.points {
		own := there.Owner == made.Owner && there.Volume == made.Volume
		switch {
		case id == made.ID && !own:
			return cloud.ErrNotOwn
		case id == made.ID, made.ID == "" && own:
			delete(a.points, id)
		}
	}
	return nil
}

// examined waits as long as AWS is to hang.
func (a *aws) examined(ctx context.Context) error {
	a.mu.Lock()
	hangs := a.hangs
	a.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (a *aws) Place(ctx context.Context) cloud.Place {
	_ = a.examined(ctx)
	return a.place
}

func (a *aws) Identity(ctx context.Context, _ cloud.FileSystem, _ string) (cloud.Identity, error) {
	return a.who, errors.Join(a.examined(ctx), a.nobody)
}

func (a *aws) Names(ctx context.Context, _ cloud.FileSystem) ([]proxy.Target, error) {
	if err := a.examined(ctx); err != nil || len(a.dns) == 0 {
		return nil, errors.Join(err, errors.New("no such host"))
	}
	return a.dns, nil
}

func (a *aws) Clock(ctx context.Context, _ string) (time.Duration, error) {
	return a.ahead, errors.Join(a.examined(ctx), a.noClock)
}

func (a *aws) accessPoints() map[string]cloud.AccessPoint {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.points)
}

// efsHost is a host on an EFS file system whose mount targets speak TLS, or NFS in the clear. It has its
// key: on a busy machine it takes longer to make one than a mount may.
type efsHost struct {
	*testHost
	*aws
	k      *faults
	export string

	mu    sync.Mutex // guards the following field
	shown []tls.ConnectionState
}

func newEFSHost(t *testing.T, change ...func(*driver.Options)) *efsHost {
	t.Helper()
	mounttest.Loopback(t)
	authority := proxytest.NewAuthority(t)
	e := &efsHost{aws: &aws{}, export: t.TempDir()}
	config := &tls.Config{Certificates: []tls.Certificate{authority.Sign(t, fsName, time.Now().Add(time.Hour))}, ClientAuth: tls.RequireAnyClientCert}
	secured := proxytest.ServeTLS(t, config, func(state tls.ConnectionState) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.shown = append(e.shown, state)
	})
	e.k = &faults{export: e.export}
	e.testHost = newHost(t, "", append([]func(*driver.Options){func(o *driver.Options) {
		putKey(t, o.Data)
		o.Kernel, o.Host, o.Cloud, o.Roots, o.Zone = e.k, "web", e.aws, authority.Roots(), "a"
		o.FileSystem = filesystem.Spec{Kind: filesystem.EFS, ID: fsID, Port: filesystem.NFSPort, Export: "/"}
		o.Targets = []proxy.Target{{Zone: "a", Addr: secured.Addr}}
		o.Volume.TLS = true
	}}, change...)...)
	return e
}

// certificates are what the mount targets were shown, as text.
func (e *efsHost) certificates() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []byte
	for _, state := range e.shown {
		all = append(all, state.PeerCertificates[0].Raw...)
	}
	return string(all)
}
