package cloud

import (
	"context"
	"crypto/x509"
	_ "embed" // the authority of AWS's services
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/efs"

	identity "github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
)

// Options describe a [Cloud]. The zero value works.
type Options struct {
	// Region and Zone are what the operator says; empty means that the host's
	// metadata are asked. Zone is a name or an id.
	Region, Zone string
	// Resolver looks names up; nil: the host's.
	Resolver *net.Resolver
	// Getenv is for tests; nil: the environment.
	Getenv func(string) string
}

// Cloud is what AWS tells. Make one with [New].
type Cloud struct {
	options Options

	mu     sync.Mutex // guards the following fields; never held over a call to the outside
	config *aws.Config
	place  place
	placed bool      // place is what the metadata say
	again  time.Time // when they are asked again, after they did not answer
	pause  time.Duration
	roles  map[string]aws.CredentialsProvider
}

// New makes a Cloud and asks nothing.
func New(options Options) *Cloud {
	if options.Resolver == nil {
		options.Resolver = net.DefaultResolver
	}
	return &Cloud{options: options, roles: map[string]aws.CredentialsProvider{}}
}

// starfield signs some services' certificates where Amazon's own roots do not (Starfield
// Services Root Certificate Authority - G2, www.amazontrust.com/repository).
//
//go:embed starfield.pem
var starfield []byte

// TrustAWS has AWS's services believed on a machine without authorities of its own, such as
// a plugin's root file system. It is called before any connection is made.
//
//nolint:gochecknoglobals // a process has one set of authorities
var TrustAWS = sync.OnceFunc(func() {
	pool := identity.AmazonRoots().Clone()
	pool.AppendCertsFromPEM(starfield)
	x509.SetFallbackRoots(pool)
})

const (
	// attempts and attemptLimit bound one call: AWS answers within a second or, when it
	// throttles, not at all.
	attempts     = 3
	attemptLimit = 5 * time.Second
	dialLimit    = 3 * time.Second
)

// sdk returns the SDK's configuration, which reads files and the environment, once.
func (c *Cloud) sdk(ctx context.Context) (aws.Config, error) {
	c.mu.Lock()
	known := c.config
	c.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	client := awshttp.NewBuildableClient().WithTimeout(attemptLimit).
		WithDialerOptions(func(d *net.Dialer) { d.Timeout = dialLimit }).
		WithTransportOptions(func(t *http.Transport) { t.MaxIdleConnsPerHost = 2 })
	loaded, err := config.LoadDefaultConfig(ctx,
		config.WithHTTPClient(client), config.WithRetryMaxAttempts(attempts), config.WithAppID("docker-volume-efs"),
		config.WithCredentialsCacheOptions(func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = expiryWindow }))
	if err != nil {
		return aws.Config{}, explain("read AWS's configuration", "", err)
	}
	if region, err := c.Region(ctx); err == nil {
		loaded.Region = region // else the one of the profile
	} else if loaded.Region == "" {
		return aws.Config{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.config = &loaded
	return loaded, nil
}

// FileSystem is an EFS file system.
type FileSystem struct {
	ID string // fs-…
	// Region is where it is; empty: in the host's own region.
	Region string
}

// region completes a file system's.
func (c *Cloud) region(ctx context.Context, f FileSystem) (string, error) {
	if f.Region != "" {
		return f.Region, nil
	}
	return c.Region(ctx)
}

func (c *Cloud) efs(ctx context.Context, f FileSystem, role string) (*efs.Client, error) {
	region, err := c.region(ctx, f)
	if err != nil {
		return nil, err
	}
	loaded, err := c.sdk(ctx)
	if err != nil {
		return nil, err
	}
	loaded.Region = region
	if role != "" {
		loaded.Credentials = c.assumed(loaded, role)
	}
	return efs.NewFromConfig(loaded), nil
}

// errNoRegion reports that nobody said in which region this host is.
var errNoRegion = errors.New("the region is not known: set AWS_REGION, or give the file system's DNS name")
