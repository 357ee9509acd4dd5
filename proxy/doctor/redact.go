package doctor

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/terminal"
)

// open are the variables of the AWS SDK whose values may be shown: they say where and how AWS
// is asked, not as whom. quiet are names of things: whether they are set is told, and they may
// well be words that other texts have.
//
//nolint:gochecknoglobals // tables
var (
	open = []string{
		"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_DEFAULTS_MODE", "AWS_EC2_METADATA_DISABLED", "AWS_EC2_METADATA_V1_DISABLED",
		"AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT",
		"AWS_STS_REGIONAL_ENDPOINTS", "AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE", "AWS_SDK_LOAD_CONFIG",
	}
	quiet = []string{
		"AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CA_BUNDLE", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME",
		"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
	}
)

const (
	awsPrefix = "AWS_"
	// endpointPrefix is of where a service is, such as AWS_ENDPOINT_URL_STS.
	endpointPrefix = "AWS_ENDPOINT_URL"
	// proxySuffix is of where a proxy is, such as HTTPS_PROXY.
	proxySuffix = "_PROXY"
	gone        = "[redacted]"
	// leastSecret is the length from which a value is looked for in other texts: a shorter one
	// is part of words.
	leastSecret = 6
)

// patterns are secrets by their form, wherever they come from. The first group stays, and the
// third.
//
//nolint:gochecknoglobals // a compiled table
var patterns = []*regexp.Regexp{
	regexp.MustCompile(`(://)([^/@\s"']*)(@)`),
	regexp.MustCompile(`(?i)((?:X-Amz-Security-Token|X-Amz-Signature|X-Amz-Credential|SessionToken|SecretAccessKey|WebIdentityToken|aws_secret_access_key|aws_session_token)["'\\]*\s*[=:]\s*["'\\]*)([^&\s"'\\]+)()`),
	regexp.MustCompile(`(?i)(Authorization["'\\]*\s*[=:]\s*["'\\]*(?:Bearer|Basic|AWS4-HMAC-SHA256)\s+)([^\r\n"'\\]+)()`),
	regexp.MustCompile(`(-----BEGIN [A-Z ]*PRIVATE KEY-----)([\s\S]*?)(-----END [A-Z ]*PRIVATE KEY-----|$)`),
}

// keyID is an access key's, which is no secret and names its owner: what is left tells it from
// others.
var keyID = regexp.MustCompile(`\b(AKIA|ASIA)[A-Z0-9]{8,}([A-Z0-9]{4})\b`)

// KeyID shortens an access key's id so that it tells one from another and is nobody's key.
func KeyID(id string) string {
	const shown = 4
	if len(id) <= 2*shown {
		return id
	}
	return id[:shown] + "…" + id[len(id)-shown:]
}

// Redactor takes secrets out of texts: those of a process's environment, and what has the form
// of one.
type Redactor struct{ secrets []string }

// NewRedactor makes the one of an environment, "NAME=value" each, as [os.Environ] has it.
func NewRedactor(environ []string) *Redactor {
	r := &Redactor{}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if secret := secretIn(name, value); len(secret) >= leastSecret {
			r.secrets = append(r.secrets, secret)
		}
	}
	// The longest first: a secret may begin with another one.
	slices.SortFunc(r.secrets, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return r
}

// secretIn is what of a variable's value must not stand in any text; "" if all may.
func secretIn(name, value string) string {
	switch {
	case strings.HasSuffix(strings.ToUpper(name), proxySuffix):
		// A user and a password, before an address that may come without "http://".
		_, rest, found := strings.Cut(value, "://")
		if !found {
			rest = value
		}
		return rest[:max(strings.LastIndex(rest, "@"), 0)]
	case secretName(name) && !slices.Contains(quiet, name):
		return value
	}
	return ""
}

// secretName tells whether a variable's value is not shown.
func secretName(name string) bool {
	return strings.HasPrefix(name, awsPrefix) && !strings.HasPrefix(name, endpointPrefix) && !slices.Contains(open, name)
}

// Text is the text without secrets.
func (r *Redactor) Text(text string) string {
	for _, secret := range r.secrets {
		text = strings.ReplaceAll(text, secret, gone)
	}
	for _, pattern := range patterns {
		text = pattern.ReplaceAllString(text, "${1}"+gone+"${3}")
	}
	return keyID.ReplaceAllString(text, "${1}…${2}")
}

// Finding is the finding without secrets.
func (r *Redactor) Finding(f Finding) Finding {
	f.FileSystem, f.Found, f.Why, f.Do = r.Text(f.FileSystem), r.Text(f.Found), r.Text(f.Why), r.Text(f.Do)
	return f
}

// Settings are the variables of an environment that begin with one of the prefixes, a line
// each; of a secret it says only whether it is set.
func (r *Redactor) Settings(environ []string, prefixes ...string) string {
	var lines []string
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if !slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			continue
		}
		switch {
		case value == "":
			value = "not set"
		case secretName(name):
			value = "set"
		default:
			value = "= " + terminal.Plain(r.Text(value))
		}
		lines = append(lines, name+" "+value+"\n")
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}
