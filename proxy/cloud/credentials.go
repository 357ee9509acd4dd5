package cloud

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"

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
		provider = aws.NewCredentialsCache(
			stscreds.NewAssumeRoleProvider(sts.NewFromConfig(loaded), role, func(o *stscreds.AssumeRoleOptions) { o.RoleSessionName = sessionName }),
			func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = expiryWindow })
		c.roles[name] = provider
	}
	return provider
}
