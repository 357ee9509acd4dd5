package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
)

// place is where this host is; what is not known is empty.
type place struct {
	region string
	zone   string // its name
	zoneID string
}

const (
	// metadataLimit is for one question. The service is on the same machine and takes
	// 10 ms; from a container behind one hop too many it never answers.
	metadataLimit    = time.Second
	metadataAttempts = 2
	// metadataSoon is how soon a host whose metadata did not answer asks again, twice as
	// late each time up to metadataAgain: its network may only just be coming up.
	metadataSoon, metadataAgain = time.Second, 10 * time.Minute
	maxMetadata                 = 64 << 10
)

// Region is the region that was set, by the operator or as the SDK's tools know it, or the
// one that the host's metadata tell.
func (c *Cloud) Region(ctx context.Context) (string, error) {
	if region, _ := c.set(ctx); region != "" {
		return region, nil
	}
	if region := c.here(ctx).region; region != "" {
		return region, nil
	}
	return "", errNoRegion
}

// set is the region that was set, and where; "" if it was not.
func (c *Cloud) set(ctx context.Context) (region, from string) {
	for _, one := range []struct{ from, region string }{
		{"AWS_REGION", c.options.Region}, {"AWS_REGION", c.getenv("AWS_REGION")}, {"AWS_DEFAULT_REGION", c.getenv("AWS_DEFAULT_REGION")},
	} {
		if one.region != "" {
			return one.region, one.from
		}
	}
	// Why the files cannot be read is told when credentials are needed.
	if loaded, err := c.load(ctx, ""); err == nil && loaded.Region != "" {
		return loaded.Region, "AWS's configuration file"
	}
	return "", ""
}

// HomeZone is the zone that was set, or the one that the host's metadata tell; "" if
// neither is known, as on a machine outside AWS.
func (c *Cloud) HomeZone(ctx context.Context) string {
	if c.options.Zone != "" {
		return c.options.Zone
	}
	return c.here(ctx).zone
}

// home is the zone with its id. One that was set is one of the two.
func (c *Cloud) home(ctx context.Context) (name, id string) {
	switch set := c.options.Zone; {
	case set == "":
		here := c.here(ctx)
		return here.zone, here.zoneID
	case efs.IsZoneID(set):
		return set, set
	default:
		// The metadata know the id of that name, if this is where the host is.
		if here := c.here(ctx); here.zone == set {
			id = here.zoneID
		}
		return set, id
	}
}

func (c *Cloud) getenv(name string) string {
	if c.options.Getenv != nil {
		return c.options.Getenv(name)
	}
	return os.Getenv(name)
}

// here asks the metadata, once if they answer.
func (c *Cloud) here(ctx context.Context) place {
	c.mu.Lock()
	known, settled := c.place, c.placed || time.Now().Before(c.again)
	c.mu.Unlock()
	if settled {
		return known
	}
	found, err := c.askMetadata(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.place, c.placed = found, true
	case ctx.Err() == nil && time.Now().After(c.again): // not one of several that asked at once
		c.pause = min(max(2*c.pause, metadataSoon), metadataAgain)
		c.again = time.Now().Add(c.pause)
	}
	return c.place
}

// askMetadata asks the task's metadata in a container of ECS, where the instance's may be
// out of reach, else the instance's.
func (c *Cloud) askMetadata(ctx context.Context) (place, error) {
	if base := c.getenv("ECS_CONTAINER_METADATA_URI_V4"); base != "" {
		if found, err := c.askTask(ctx, base); err == nil {
			return found, nil
		}
	}
	return c.askInstance(ctx)
}

// metadataClient asks this host itself, so never by a proxy: another machine's metadata
// would be believed.
func (c *Cloud) metadataClient() *http.Client {
	return &http.Client{Timeout: metadataLimit, Transport: &http.Transport{DialContext: c.options.DialMetadata, DisableKeepAlives: true}}
}

// askTask asks ECS
// (docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4-response.html).
func (c *Cloud) askTask(ctx context.Context, base string) (place, error) {
	ctx, cancel := context.WithTimeout(ctx, metadataLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+"/task", nil)
	if err != nil {
		return place{}, err
	}
	response, err := c.metadataClient().Do(request)
	if err != nil {
		return place{}, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return place{}, fmt.Errorf("task metadata: %s", response.Status)
	}
	var task struct{ AvailabilityZone, TaskARN string }
	if err := json.NewDecoder(io.LimitReader(response.Body, maxMetadata)).Decode(&task); err != nil {
		return place{}, fmt.Errorf("task metadata: %w", err)
	}
	found := place{zone: task.AvailabilityZone}
	// arn:PARTITION:ecs:REGION:ACCOUNT:task/…
	if fields := strings.Split(task.TaskARN, ":"); len(fields) > 3 {
		found.region = fields[3]
	}
	if found.region == "" {
		return place{}, errors.New("task metadata tell no region")
	}
	return found, nil
}

// askInstance asks the instance metadata service, version 2 only
// (docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-metadata.html).
func (c *Cloud) askInstance(ctx context.Context) (place, error) {
	if strings.EqualFold(c.getenv("AWS_EC2_METADATA_DISABLED"), "true") {
		return place{}, errors.New("the instance metadata service is switched off (AWS_EC2_METADATA_DISABLED)")
	}
	const modeName = "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE"
	var mode imds.EndpointModeState
	if err := mode.SetFromString(c.getenv(modeName)); err != nil {
		return place{}, fmt.Errorf("setting %s=%q: allowed: IPv4, IPv6", modeName, c.getenv(modeName))
	}
	client := imds.New(imds.Options{
		Endpoint:       c.getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT"),
		EndpointMode:   mode,
		EnableFallback: aws.FalseTernary,
		HTTPClient:     c.metadataClient(),
	}, func(o *imds.Options) { o.Retryer = aws.NopRetryer{} })
	var found place
	for _, one := range []struct {
		path string
		into *string
	}{
		{"placement/region", &found.region},
		{"placement/availability-zone", &found.zone},
		{"placement/availability-zone-id", &found.zoneID},
	} {
		text, err := askPath(ctx, client, one.path)
		if err != nil {
			return place{}, err
		}
		*one.into = text
	}
	return found, nil
}

func askPath(ctx context.Context, client *imds.Client, path string) (string, error) {
	var failed error
	for range metadataAttempts {
		limited, cancel := context.WithTimeout(ctx, metadataLimit)
		answer, err := client.GetMetadata(limited, &imds.GetMetadataInput{Path: path})
		if err == nil {
			var text []byte
			text, err = io.ReadAll(io.LimitReader(answer.Content, maxMetadata))
			err = errors.Join(err, answer.Content.Close())
			if err == nil {
				cancel()
				return strings.TrimSpace(string(text)), nil
			}
		}
		cancel()
		failed = fmt.Errorf("instance metadata: %w", err)
	}
	return "", failed
}
