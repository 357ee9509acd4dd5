package cloud

import (
	"cmp"
	"context"
	"errors"
	"net"
	"regexp"
	"strings"

	"github.com/aws/smithy-go"
)

// secret is what no message may hold: a session token or a signature of a request, as the
// SDK's errors may quote them from a URL.
var secret = regexp.MustCompile(`(?i)(X-Amz-Security-Token|X-Amz-Signature|X-Amz-Credential|SessionToken|SecretAccessKey|WebIdentityToken)\s*[=:]\s*[^&\s"]*`)

// getCredentials is the call of those that need an identity's keys.
const getCredentials = "get credentials"

// explain makes one line of an error of the SDK's: what was asked, as whom, what AWS said,
// and what to do. The error still wraps what it was.
func explain(call, role string, err error) error {
	action, _, _ := strings.Cut(call, " ")
	if role != "" {
		call += " as " + role
	}
	said, advice := err.Error(), ""
	var api smithy.APIError
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
		said, advice = "no answer in time", "check the route to AWS's API, or a VPC endpoint for it"
		if role != "" && strings.HasPrefix(call, getCredentials) {
			advice = "check the route to AWS STS, or a VPC endpoint for it"
		}
	case errors.As(err, &api):
		said = strings.TrimSuffix(api.ErrorCode()+": "+api.ErrorMessage(), ".")
		advice = adviceFor(api.ErrorCode(), permission(err, action, role))
	case errors.As(err, &dns):
		said, advice = dns.Error(), "check DNS and AWS_REGION"
	case strings.Contains(said, "no EC2 IMDS role found"), strings.Contains(said, "failed to refresh cached credentials"):
		said, advice = lastOf(said), "give the host an IAM role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
	}
	said = secret.ReplaceAllString(strings.Join(strings.Fields(said), " "), "$1=…")
	return &explained{said: call + ": " + said, advice: advice, err: err}
}

// Explanation parts an error of this package into what happened and what to do about it, ""
// if nobody knows.
func Explanation(err error) (said, advice string) {
	if known, ok := errors.AsType[*explained](err); ok {
		return known.said, known.advice
	}
	return err.Error(), ""
}

// lastOf is the innermost part of a chain of errors as text.
func lastOf(text string) string {
	parts := strings.Split(text, ", ")
	return parts[len(parts)-1]
}

// permission is what must be allowed where AWS denied access. Credentials are part of every call: what
// was denied may be the role that was to be assumed for it.
func permission(err error, action, role string) string {
	role = cmp.Or(role, "the role")
	switch denied := operation(err); {
	case denied == "AssumeRole":
		return "allow sts:AssumeRole on " + role + " in the IAM policy of this host's identity, and to that identity in the trust policy of " + role
	case denied == "AssumeRoleWithWebIdentity":
		return "allow sts:AssumeRoleWithWebIdentity to this host's web identity in the role's trust policy"
	case strings.Contains(action, ":"):
		return "allow the action " + action + " in the identity's IAM policy"
	}
	return ""
}

// operation is the call that AWS answered: the innermost one.
func operation(err error) string {
	name := ""
	for {
		called, ok := errors.AsType[*smithy.OperationError](err)
		if !ok {
			return name
		}
		name, err = called.OperationName, called.Unwrap()
	}
}

func adviceFor(code, permission string) string {
	switch code {
	case "AccessDenied", "AccessDeniedException", "UnauthorizedOperation":
		return permission
	case "ExpiredToken", "ExpiredTokenException", "RequestExpired", "InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch", "RequestTimeTooSkewed":
		return "check the credentials and this host's clock"
	case "FileSystemNotFound":
		return "check the file system's id, the region and the account"
	case "AccessPointLimitExceeded":
		return "remove access points that are not needed, or have the quota raised (Service Quotas, Amazon EFS, access points per file system)"
	case "ThrottlingException", "Throttling", "TooManyRequestsException", "TooManyRequests", "RequestLimitExceeded":
		return "AWS limits how often it may be asked; try again in a minute"
	}
	return ""
}

// explained has a text of its own and wraps what it explains.
type explained struct {
	said, advice string
	err          error
}

func (e *explained) Error() string {
	if e.advice == "" {
		return e.said
	}
	return e.said + ": " + e.advice
}

func (e *explained) Unwrap() error { return e.err }
