package driver

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/cloud"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
)

// Cloud is what the Driver asks of AWS; a *cloud.Cloud is one. It is asked in the
// background, and by Create and Remove of volumes with access points of their own; never by
// Mount, Get or List.
type Cloud interface {
	// Region and HomeZone are this host's.
	Region(ctx context.Context) (string, error)
	HomeZone(ctx context.Context) string
	Targets(ctx context.Context, f cloud.FileSystem) (cloud.Told, error)
	Credentials(ctx context.Context, f cloud.FileSystem, role string) (efs.Credentials, error)
	AccessPoint(ctx context.Context, f cloud.FileSystem, role, id string) (cloud.AccessPoint, error)
	CreateAccessPoint(ctx context.Context, role string, wanted cloud.AccessPoint) (cloud.AccessPoint, error)
	DeleteAccessPoint(ctx context.Context, role string, made cloud.AccessPoint) error
	Examined
}

// Examined is what Doctor asks of AWS, and nothing else does.
type Examined interface {
	Place(ctx context.Context) cloud.Place
	Identity(ctx context.Context, f cloud.FileSystem, role string) (cloud.Identity, error)
	Names(ctx context.Context, f cloud.FileSystem) ([]proxy.Target, error)
	Clock(ctx context.Context, region string) (ahead time.Duration, err error)
}

// protection is how a transport's bytes are protected on their way, and as whom it comes.
// The zero value is none: plain NFS, as this host.
type protection struct {
	TLS         bool   `json:"tls,omitempty"`
	IAM         bool   `json:"iam,omitempty"`
	Role        string `json:"role,omitempty"`
	AccessPoint string `json:"accesspoint,omitempty"`
}

// Complete completes settings that follow from others, and tells which contradict each
// other.
func (o *Options) Complete() error {
	asked := o.Volume.TLS || o.Volume.IAM || o.AccessPoint != ""
	o.Volume.TLS = o.Volume.TLS || o.Volume.IAM
	switch {
	case !asked:
		return nil
	case o.FileSystem.Kind != filesystem.EFS:
		return fmt.Errorf("settings EFS_TLS, EFS_IAM and EFS_ACCESS_POINT are for EFS file systems, and EFS_FILESYSTEM=%s is none", o.FileSystem)
	case o.Volume.Via == viaDirect:
		return errors.New("settings EFS_TLS, EFS_IAM and EFS_ACCESS_POINT need the relay: set EFS_VIA=auto")
	}
	return nil
}

// String tells it in the words of the options; "" is none.
func (p protection) String() string {
	var words []string
	if p.TLS {
		words = append(words, "tls")
	}
	if p.IAM {
		words = append(words, "iam")
	}
	if p.Role != "" {
		words = append(words, "role="+p.Role)
	}
	if p.AccessPoint != "" {
		words = append(words, "accesspoint="+p.AccessPoint)
	}
	return strings.Join(words, " ")
}

// settingsProtection is what the settings ask for on a file system.
func (f *fileSystem) settingsProtection() protection {
	if f.spec.Kind != filesystem.EFS {
		return protection{}
	}
	p := protection{TLS: f.d.options.Volume.TLS, IAM: f.d.options.Volume.IAM, Role: f.d.options.Volume.Role}
	if f.spec == f.d.options.FileSystem && f.d.options.AccessPoint != "" {
		p.AccessPoint, p.TLS = f.d.options.AccessPoint, true
	}
	return p
}

// protectionFor is that of a volume on this file system. One without an access point of its
// own comes by the catalogue's, where its path is.
func (f *fileSystem) protectionFor(r catalog.Record) protection {
	o := r.Options
	p := protection{TLS: o.TLS, IAM: o.IAM, Role: o.Role, AccessPoint: o.AccessPoint}
	if p.AccessPoint == catalog.OwnAccessPoint {
		p.AccessPoint = r.AccessPointID
	}
	if main := f.settingsProtection(); p.AccessPoint == "" && main.AccessPoint != "" {
		p.AccessPoint, p.TLS = main.AccessPoint, true
	}
	return p
}

// pathOn is where a volume's directory is on its transport.
func pathOn(r catalog.Record) string {
	if r.AccessPointID != "" {
		return "/" // the access point's root is the volume
	}
	return r.Path
}

// allows tells why a file system cannot be mounted in that way.
func (p protection) allows(spec filesystem.Spec, via string) error {
	switch {
	case !p.TLS:
		return nil
	case spec.Kind != filesystem.EFS:
		return invalid{fmt.Errorf("tls, iam and accesspoint are for EFS file systems, and %s is none: create the volume with -o tls=off -o iam=off", spec)}
	case via == viaDirect:
		return invalid{errNeedsRelay}
	}
	return nil
}

var errNeedsRelay = errors.New("tls, iam and accesspoint need the relay: create the volume with -o via=relay")

// keyFile is the host's private key, in the state directory.
const keyFile = "key.pem"

// hostKey is made when it is first needed, and read again after each start.
type hostKey struct {
	path string

	mu  sync.Mutex // guards key; held while it is made, so that it is made once
	key *rsa.PrivateKey
}

func (k *hostKey) get() (*rsa.PrivateKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.key != nil {
		return k.key, nil
	}
	key, err := efs.LoadKey(k.path)
	if err == nil {
		k.key = key
	}
	return key, err
}

// tlsClients are the clients of this host's protected transports.
type tlsClients struct {
	d   *Driver
	key hostKey

	mu  sync.Mutex // guards all
	all map[tlsClient]*efs.Client
}

// tlsClient is what tells one from another.
type tlsClient struct {
	fileSystem string
	protection
	region string
}

func newTLSClients(d *Driver) *tlsClients {
	return &tlsClients{d: d, key: hostKey{path: filepath.Join(d.options.Data, stateDir, keyFile)}, all: map[tlsClient]*efs.Client{}}
}

// of returns the client of a file system under a protection: the same one always, so that
// its certificates are counted.
func (c *tlsClients) of(spec filesystem.Spec, p protection, region string) *efs.Client {
	which := tlsClient{spec.String(), p, region}
	c.mu.Lock()
	defer c.mu.Unlock()
	client := c.all[which]
	if client == nil {
		client = c.make(spec, p, region)
		c.all[which] = client
	}
	return client
}

// drop forgets the clients of a protection that nobody uses any more.
func (c *tlsClients) drop(spec filesystem.Spec, p protection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.all, func(which tlsClient, _ *efs.Client) bool {
		return which.fileSystem == spec.String() && which.protection == p
	})
}

// make makes one that nobody else uses.
func (c *tlsClients) make(spec filesystem.Spec, p protection, region string) *efs.Client {
	client := &efs.Client{
		Identity: efs.Identity{FileSystem: spec.ID, AccessPoint: p.AccessPoint, Region: region},
		Key:      c.key.get, Host: c.d.host.name, Roots: c.d.options.Roots,
	}
	if p.IAM {
		where := cloud.FileSystem{ID: spec.ID, Region: region}
		client.Credentials = func(ctx context.Context) (efs.Credentials, error) {
			return c.d.options.Cloud.Credentials(ctx, where, p.Role)
		}
	}
	return client
}

// regionOf is a file system's region: of its DNS name, else this host's.
func (d *Driver) regionOf(ctx context.Context, spec filesystem.Spec) (string, error) {
	if region := efs.RegionOf(spec.Host); region != "" {
		return region, nil
	}
	if d.options.Region != "" || d.options.Cloud == nil {
		return d.options.Region, nil
	}
	if kept, ok := d.targets.Get(spec.String()); ok && kept.Region != "" {
		return kept.Region, nil
	}
	return d.options.Cloud.Region(ctx)
}
