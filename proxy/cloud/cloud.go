package cloud

import (
	"context"
	"crypto/x509"
	_ "embed" // the authority of AWS's services
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/efs"
	"github.com/sirupsen/logrus"

	identity "github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
)

// Options describe a [Cloud]. The zero value works.
type Options struct {
	// Region and Zone are what the operator says; empty means that the host's
	// metadata are asked. Zone is a name or an id.
	Region, Zone string
	// Resolver looks names up; nil: the host's.
	Resolver *net.Resolver
	// Log hears what is wrong and does not show yet; nil: nobody.
	Log logrus.FieldLogger
	// Getenv, Routed and DialMetadata are for tests; nil: the environment, this host's
	// routes, a connection.
	Getenv       func(string) string
	Routed       func(netip.Addr) bool
	DialMetadata func(ctx context.Context, network, address string) (net.Conn, error)
}

// Cloud is what AWS tells. Make one with [New].
type Cloud struct {
	options Options

	mu      sync.Mutex            // guards the following fields; never held over a call to the outside
	configs map[string]aws.Config // by the region that was given
	place   place
	placed  bool      // place is what the metadata say
	again   time.Time // when they are asked again, after they did not answer
	pause   time.Duration
	roles   map[string]aws.CredentialsProvider
}

// New makes a Cloud and asks nothing.
func New(options Options) *Cloud {
	if options.Resolver == nil {
		options.Resolver = net.DefaultResolver
	}
	return &Cloud{options: options, configs: map[string]aws.Config{}, roles: map[string]aws.CredentialsProvider{}}
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

// sdk returns the SDK's configuration, with the region in which its clients ask: the one that was set, in
// the settings or as the SDK's tools know it, else the file system's, else what the host's metadata tell.
func (c *Cloud) sdk(ctx context.Context, f FileSystem) (aws.Config, error) {
	loaded, err := c.load(ctx, c.options.Region)
	if err != nil || loaded.Region != "" {
		return loaded, err
	}
	region, err := c.region(ctx, f)
	if err != nil {
		return aws.Config{}, err
	}
	return c.load(ctx, region)
}

// load has the SDK read its files and the environment, once for each region; "" is the one that it finds
// there itself. It is given first: a profile's role and a web identity ask AWS STS by clients that the SDK
// makes meanwhile.
func (c *Cloud) load(ctx context.Context, region string) (aws.Config, error) {
	c.mu.Lock()
	known, ok := c.configs[region]
	c.mu.Unlock()
	if ok {
		return known, nil
	}
	client := awshttp.NewBuildableClient().WithTimeout(attemptLimit).
		WithDialerOptions(func(d *net.Dialer) { d.Timeout = dialLimit }).
		WithTransportOptions(func(t *http.Transport) { t.MaxIdleConnsPerHost = 2 })
	loaded, err := config.LoadDefaultConfig(ctx, config.WithRegion(region),
		config.WithHTTPClient(client), config.WithRetryMaxAttempts(attempts), config.WithAppID("docker-volume-efs"),
		config.WithCredentialsCacheOptions(func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = expiryWindow }))
	if err != nil {
		return aws.Config{}, explain("read AWS's configuration", "", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, ok := c.configs[region]; ok {
		return known, nil // another call was faster, and has its credentials
	}
	c.configs[region] = loaded
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
	loaded, err := c.sdk(ctx, f)
	if err != nil {
		return nil, err
	}
	if role != "" {
		loaded.Credentials = c.assumed(loaded, role)
	}
	if f.Region != "" {
		loaded.Region = f.Region
	}
	return efs.NewFromConfig(loaded), nil
}

// errNoRegion reports that nobody said in which region this host is.
var errNoRegion = errors.New("the region is not known: set AWS_REGION, or give the file system's DNS name")
