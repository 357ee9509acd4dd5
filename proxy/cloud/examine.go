package cloud

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
)

// What is in this file is asked by people who look for a fault, and by nothing that runs.

// Place is where this host is, and who says so.
type Place struct {
	// Region and Zone are empty if nobody knows them; ZoneID is if the metadata were not asked.
	Region, RegionFrom     string
	Zone, ZoneFrom, ZoneID string
	// Metadata is why the metadata did not tell, if they were asked: on a machine outside AWS
	// there are none.
	Metadata error
}

const fromMetadata = "the host's metadata"

// Place asks again what the host's metadata say, unless the operator has said all.
func (c *Cloud) Place(ctx context.Context) Place {
	p := Place{Zone: c.options.Zone}
	if p.Zone != "" {
		p.ZoneFrom = "EFS_ZONE"
	}
	p.Region, p.RegionFrom = c.set(ctx)
	if p.Region != "" && p.Zone != "" {
		return p
	}
	here, err := c.askMetadata(ctx)
	if err != nil {
		p.Metadata = err
		return p
	}
	c.mu.Lock()
	c.place, c.placed = here, true
	c.mu.Unlock()
	if p.Region == "" {
		p.Region, p.RegionFrom = here.region, fromMetadata
	}
	if p.Zone == "" && here.zone != "" {
		p.Zone, p.ZoneFrom, p.ZoneID = here.zone, fromMetadata, here.zoneID
	}
	return p
}

// Identity is as whom AWS is asked and file systems are used under IAM. It holds no secret.
type Identity struct {
	// KeyID is the access key's, From the part of the SDK's chain that had it.
	KeyID, From string
	// Expires is when it is fetched anew; zero: it does not expire.
	Expires time.Time
	// ARN is who that is, empty if AWS STS did not say, which Unnamed explains.
	ARN     string
	Unnamed error
}

// Identity finds out who this host is to AWS where a file system is, or a role that it assumes. It fails if there are
// no credentials.
func (c *Cloud) Identity(ctx context.Context, f FileSystem, role string) (Identity, error) {
	loaded, err := c.sdk(ctx, f)
	if err != nil {
		return Identity{}, err
	}
	if role != "" {
		loaded.Credentials = c.assumed(loaded, role)
	}
	keys, err := loaded.Credentials.Retrieve(ctx)
	if err != nil {
		return Identity{}, explain(getCredentials, role, err)
	}
	who := Identity{KeyID: keys.AccessKeyID, From: keys.Source}
	if keys.CanExpire {
		who.Expires = keys.Expires
	}
	said, err := sts.NewFromConfig(loaded).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		who.Unnamed = explain("sts:GetCallerIdentity", role, err)
		return who, nil //nolint:nilerr // the credentials are there, and may be good for a file system all the same
	}
	who.ARN = aws.ToString(said.Arn)
	return who, nil
}

// Names looks a file system's names up in DNS, which mounts need only if the EFS API does not
// answer.
func (c *Cloud) Names(ctx context.Context, f FileSystem) ([]proxy.Target, error) {
	found := c.lookUp(ctx, f)
	return found.targets, found.err
}

// Clock returns by how much this host's clock is ahead of AWS's, to half a second, by the date
// on an answer of the EFS API in a region. The answer itself may be a refusal.
func (c *Cloud) Clock(ctx context.Context, region string) (ahead time.Duration, err error) {
	endpoint := cmp.Or(c.getenv("AWS_ENDPOINT_URL_EFS"), c.getenv("AWS_ENDPOINT_URL"), "https://elasticfilesystem."+region+"."+efs.DNSSuffix(region))
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, strings.TrimSuffix(endpoint, "/")+"/", nil)
	if err != nil {
		return 0, fmt.Errorf("AWS's clock: %w", err)
	}
	client := http.Client{
		Timeout:       attemptLimit,
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: dialLimit}).DialContext},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	asked := time.Now()
	response, err := client.Do(request)
	if err != nil {
		return 0, explain("AWS's clock", "", err)
	}
	defer response.Body.Close()
	took := time.Since(asked)
	said, err := http.ParseTime(response.Header.Get("Date"))
	if err != nil {
		return 0, errors.New("AWS's clock: its answer has no date")
	}
	// The header has whole seconds, rounded down, of a moment between question and answer.
	return asked.Add(took / 2).Sub(said.Add(time.Second / 2)), nil
}
