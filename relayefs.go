package main

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/cloud"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
)

// efsFlags are how a gateway shows EFS who it is.
type efsFlags struct {
	tls, iam                          bool
	role, accessPoint, region, caFile string
}

// regionLimit is how long the gateway asks for its region before it says that it needs one.
const regionLimit = 5 * time.Second

func (f *efsFlags) register(flags *pflag.FlagSet) {
	flags.BoolVar(&f.tls, "tls", false, "reach the mount targets by TLS; takes --filesystem fs-…")
	flags.BoolVar(&f.iam, "iam", false, "prove an IAM identity, by the AWS SDK's credentials; implies --tls")
	flags.StringVar(&f.role, "role", "", "the IAM role that is assumed for that, an `ARN`; implies --iam")
	flags.StringVar(&f.accessPoint, "access-point", "", "give clients what the access point `ID` shows; implies --tls")
	flags.StringVar(&f.region, "region", "", "the file system's `REGION` (default: that of its DNS name, else AWS_REGION or the AWS profile's, else what the metadata tell)")
	flags.StringVar(&f.caFile, "ca-file", "", "authorities of the mount targets' certificates, a PEM `FILE` (default: Amazon's)")
}

func (f *efsFlags) any() bool {
	return f.tls || f.iam || f.role != "" || f.accessPoint != "" || f.caFile != ""
}

// planEFS looks at the words. Files and the region, which may be there a moment later, are
// for when the client is made.
func (f *relayFlags) planEFS(p *relayPlan) error {
	if !f.efs.any() {
		return nil
	}
	spec, err := filesystem.Parse(f.fileSystem)
	switch {
	case err != nil || spec.Kind != filesystem.EFS:
		return fmt.Errorf("--filesystem %q: TLS, IAM and access points are for EFS: write the file system's id, fs-…", f.fileSystem)
	case p.options.Peers:
		return errors.New("--peer-connect: the gateway at the other end reaches the mount targets: give --tls, --iam, --role, --access-point and --ca-file there")
	}
	if _, err := driver.Role(f.efs.role); err != nil {
		return fmt.Errorf("--role %q: %w", f.efs.role, err)
	}
	if _, err := driver.AccessPoint(f.efs.accessPoint); err != nil {
		return fmt.Errorf("--access-point %q: %w", f.efs.accessPoint, err)
	}
	p.efs = func() (*efs.Client, error) { return f.efsClient(spec) }
	return nil
}

// efsClient makes the client that shows the gateway's identity.
func (f *relayFlags) efsClient(spec filesystem.Spec) (*efs.Client, error) {
	client := &efs.Client{Identity: efs.Identity{FileSystem: spec.ID, AccessPoint: f.efs.accessPoint, Region: efs.RegionOf(spec.Host)}}
	var err error
	if f.efs.caFile != "" {
		if client.Roots, err = efs.LoadRoots(f.efs.caFile); err != nil {
			return nil, fmt.Errorf("--ca-file: %w", err)
		}
	}
	if client.Host, err = os.Hostname(); err != nil {
		return nil, err
	}
	client.Key = f.hostKey()
	cloud.TrustAWS()
	asks := cloud.New(cloud.Options{Region: f.efs.region, Zone: f.zone})
	if f.efs.iam || f.efs.role != "" {
		client.Credentials = func(ctx context.Context) (efs.Credentials, error) {
			return asks.Credentials(ctx, cloud.FileSystem{ID: spec.ID, Region: client.Region}, f.efs.role)
		}
	}
	if client.Region == "" {
		ctx, cancel := context.WithTimeout(context.Background(), regionLimit)
		defer cancel()
		if client.Region, err = asks.Region(ctx); err != nil {
			return nil, fmt.Errorf("--region: %w", err)
		}
	}
	return client, nil
}

// hostKey keeps the key where there is a directory for it.
func (f *relayFlags) hostKey() func() (*rsa.PrivateKey, error) {
	return sync.OnceValues(func() (*rsa.PrivateKey, error) {
		if f.data == "" {
			return efs.NewKey()
		}
		return efs.LoadKey(filepath.Join(f.data, "key.pem"))
	})
}
