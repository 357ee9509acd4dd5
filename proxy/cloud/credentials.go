package cloud

import (
	"context"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/sirupsen/logrus"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
)

// expiryWindow is how long before their end credentials are fetched anew.
const expiryWindow = 5 * time.Minute

// sessionName is what CloudTrail shows of a role that was assumed.
const sessionName = "docker-volume-efs"

// Credentials returns the keys of an identity for a file system: the host's own, by the SDK's chain (the
// environment, shared files, web identity, ECS and Pod Identity containers, the instance's
// role), or of a role that it assumes. They are kept until shortly before they end, so that
// asking again costs nothing.
func (c *Cloud) Credentials(ctx context.Context, f FileSystem, role string) (efs.Credentials, error) {
	loaded, err := c.sdk(ctx, f)
	if err != nil {
		return efs.Credentials{}, err
	}
	provider := loaded.Credentials
	if role != "" {
		provider = c.assumed(loaded, role)
	}
	keys, err := provider.Retrieve(ctx)
	if err != nil {
		return efs.Credentials{}, explain(getCredentials, role, err)
	}
	return efs.Credentials{AccessKeyID: keys.AccessKeyID, SecretAccessKey: keys.SecretAccessKey, SessionToken: keys.SessionToken}, nil
}

// assumed are the credentials of a role, one cache for each, and for each region where AWS STS is asked.
func (c *Cloud) assumed(loaded aws.Config, role string) aws.CredentialsProvider {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := role + " " + loaded.Region
	provider := c.roles[name]
	if provider == nil {
		provider = lasting(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(loaded), role, func(o *stscreds.AssumeRoleOptions) {
			o.RoleSessionName, o.Duration = sessionName, roleDuration
		}), role, c.options.Log)
		c.roles[name] = provider
	}
	return provider
}

const (
	// roleDuration is how long the keys of a role last. Every role allows that much, and one that is
	// assumed by another no more
	// (docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html).
	roleDuration = time.Hour
	// renewLimit is for new keys while the old ones are good: somebody waits for a connection.
	// renewAgain is when they are asked for again after that failed.
	renewLimit, renewAgain = 2 * time.Second, 30 * time.Second
)

// lastingKeys are a role's, used to their last moment where new ones are not to be had. They are shown
// when a connection is made, by a certificate that is made then; one that is made lasts.
type lastingKeys struct {
	from aws.CredentialsProvider
	role string
	log  logrus.FieldLogger

	mu   sync.Mutex // guards the following fields
	keys aws.Credentials
	told bool // that they could not be renewed
}

// lasting keeps the keys of a role. Those that are returned expire when they are to be asked for again.
func lasting(from aws.CredentialsProvider, role string, log logrus.FieldLogger) *aws.CredentialsCache {
	return aws.NewCredentialsCache(&lastingKeys{from: from, role: role, log: log})
}

// Retrieve is called by the cache, one call at a time.
func (l *lastingKeys) Retrieve(ctx context.Context) (aws.Credentials, error) {
	l.mu.Lock()
	old := l.keys
	l.mu.Unlock()
	if time.Now().Before(old.Expires) {
		limited, cancel := context.WithTimeout(ctx, renewLimit)
		defer cancel()
		ctx = limited
	}
	fetched, err := l.from.Retrieve(ctx)
	if err == nil {
		l.renewed(fetched)
		fetched.Expires = fetched.Expires.Add(-expiryWindow)
		return fetched, nil
	}
	now := time.Now()
	if !now.Before(old.Expires) {
		return aws.Credentials{}, err
	}
	l.warn(old.Expires, err)
	if again := now.Add(renewAgain); again.Before(old.Expires) {
		old.Expires = again
	}
	return old, nil
}

func (l *lastingKeys) renewed(keys aws.Credentials) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keys, l.told = keys, false
}

// warn says once, until they are renewed, how long the old keys still serve.
func (l *lastingKeys) warn(end time.Time, err error) {
	l.mu.Lock()
	told := l.told
	l.told = true
	l.mu.Unlock()
	if !told && l.log != nil {
		l.log.Warnf("the credentials of a role could not be renewed and serve until %s: %v", end.UTC().Format(time.RFC3339), explain(getCredentials, l.role, err))
	}
}
