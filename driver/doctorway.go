package driver

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/cloud"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/doctor"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/tcp"
)

// dial connects to a mount target, in the way in which it is used if secured. The caller closes
// the connection.
func (e *examination) dial(ctx context.Context, t proxy.Target, p protection) (net.Conn, error) {
	conn, err := tcp.Dial(ctx, t.Addr)
	if err != nil || !p.TLS {
		return conn, err // never a nil *net.TCPConn without an error
	}
	secured, err := e.d.tls.make(e.f.spec, p, e.region).Secure(ctx, conn, t)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return secured, nil
}

// examinePort asks for the route and the port. A file system under TLS gets no byte in the clear.
func (e *examination) examinePort(ctx context.Context, t proxy.Target) (struct{}, doctor.Finding) {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	begun := time.Now()
	conn, err := e.dial(ctx, t, protection{})
	if err != nil {
		return struct{}{}, explainWay(t, err)
	}
	defer conn.Close()
	connected := time.Since(begun)
	text := fmt.Sprintf("connected within %v", shortly(connected))
	if !e.main.TLS {
		rtt, err := proxy.Null(ctx, conn)
		if err != nil {
			return struct{}{}, explainWay(t, err)
		}
		text += fmt.Sprintf(", NFSv4 answers within %v", shortly(rtt))
	}
	if from, err := localAddress(t.Addr); err == nil {
		text += fmt.Sprintf(", from %s", from)
	}
	return struct{}{}, doctor.Fine("%s", text)
}

func shortly(d time.Duration) time.Duration {
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}

// explainWay says why a mount target cannot be reached. The cases are those of a network: what
// answers wrongly, what refuses, what swallows.
func explainWay(t proxy.Target, err error) doctor.Finding {
	port := t.Addr.Port()
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return doctor.Fail(fmt.Sprintf("silent: nothing within %v", pingTimeout),
			"packets vanish on the way: a security group or network ACL drops them, or there is no way back",
			fmt.Sprintf("let TCP port %d in from this host in the mount target's security group, and out in this host's; check the network ACLs of both subnets and the routes between them", port))
	case errors.Is(err, syscall.ECONNREFUSED):
		return doctor.Fail("refused", fmt.Sprintf("%s is there, and nothing listens on port %d", t.Addr.Addr(), port),
			"check address and port: EFS_TARGETS, or the mount target's state in the console (it must be available); of a server of your own, that NFS runs")
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return doctor.Fail("unreachable", err.Error(), "check this host's routes: the mount target's network needs one (same VPC, peering, transit gateway or VPN), and a firewall may answer in its place")
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return doctor.Fail("forbidden by this host", err.Error(), fmt.Sprintf("let TCP to port %d out in this host's own firewall (nft list ruleset)", port))
	case errors.Is(err, proxy.ErrNotNFS), errors.Is(err, syscall.ECONNRESET):
		return doctor.Fail("something answers that is no NFSv4 server", err.Error(), "check address and port: EFS_TARGETS, EFS_FILESYSTEM; if the file system takes TLS only, set EFS_TLS=on")
	}
	return doctor.Fail("cannot be reached", err.Error(), cmp.Or(advice(err), "check address, route and port"))
}

// examineTLS shakes hands with one mount target under a protection, and asks NFS's NULL after
// it: only then a refusal is heard.
func (e *examination) examineTLS(ctx context.Context, t proxy.Target, p protection, needs ...doctor.Finding) (verdict, doctor.Finding) {
	check := e.check("TLS", handshakeLimit, needs...)
	check.Target = t.String()
	if p != e.main {
		check.Target += " " + p.String()
	}
	return doctor.Ask(ctx, e.run, check, func(ctx context.Context) (verdict, doctor.Finding) {
		// Made here if this is the first use: a small host takes seconds for that, which are
		// no silence of the mount target. What fails is told below.
		_, _ = e.d.tls.key.get()
		ctx, cancel := context.WithTimeout(ctx, pingTimeout)
		defer cancel()
		begun := time.Now()
		conn, err := e.dial(ctx, t, p)
		if err != nil {
			return verdictIn(err), e.explainTLS(t, p, err)
		}
		defer conn.Close()
		text := fmt.Sprintf("the certificate is that of %s; NFSv4 answers within %v of the first packet", efs.ServerName(e.f.spec.ID, e.region), shortly(time.Since(begun)))
		if secured, ok := conn.(interface{ ConnectionState() tls.ConnectionState }); ok {
			state := secured.ConnectionState()
			text = fmt.Sprintf("%s, %s; %s", tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite), text)
		}
		return verdict{}, doctor.Fine("%s", text)
	})
}

// verdict is a mount target's on whom it was shown.
type verdict struct{ refusal error }

// verdictIn takes an error for a refusal if it is one of a mount target that serves, though not
// this client.
func verdictIn(err error) verdict {
	if errors.Is(err, proxy.ErrRefused) || errors.Is(err, proxy.ErrNotNFS) || errors.Is(err, syscall.ECONNRESET) {
		return verdict{err}
	}
	return verdict{}
}

func (e *examination) explainTLS(t proxy.Target, p protection, err error) doctor.Finding {
	var name x509.HostnameError
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &name):
		return doctor.Fail("the certificate is another server's", fmt.Sprintf("it is for %s, and this file system's is %s", strings.Join(name.Certificate.DNSNames, ", "), name.Host),
			fmt.Sprintf("%s is not a mount target of %s: check EFS_TARGETS, EFS_FILESYSTEM and AWS_REGION", t.Addr.Addr(), e.f.spec.ID))
	case errors.As(err, &authority):
		return doctor.Fail("nobody known has signed the certificate", "something on the way opens the connection and reads what passes, or the server's authority is one of your own",
			"find out who answers at "+t.Addr.String()+"; if the authority is yours, give its certificates in EFS_CA_FILE")
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return doctor.Fail("the certificate is not valid now", fmt.Sprintf("it is from %s to %s, and this host has %s", invalid.Cert.NotBefore.UTC().Format(time.RFC3339), invalid.Cert.NotAfter.UTC().Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339)),
			"set this host's clock (chronyc tracking, timedatectl); if it is right, the server needs a new certificate")
	case errors.Is(err, proxy.ErrRefused):
		return doctor.Fail("the mount target refuses this host's certificate", err.Error(), e.afterRefusal(p))
	case errors.Is(err, proxy.ErrIdentity):
		why, do := cloud.Explanation(err)
		return doctor.Fail("this host cannot show who it is", why, cmp.Or(do, "see the identity below"))
	case errors.As(err, &record):
		return doctor.Fail("the server speaks no TLS", err.Error(), "mount targets of EFS do: check address and port (EFS_TARGETS); for a server of your own use nfs:// without EFS_TLS")
	case errors.Is(err, proxy.ErrNotNFS), errors.Is(err, syscall.ECONNRESET):
		return doctor.Fail("the connection is closed after the handshake", "the mount target does not take this identity, or the access point is not this file system's: "+err.Error(),
			e.afterRefusal(p))
	}
	return explainWay(t, err)
}

// afterRefusal says what to do about one. That of the catalogue's protection comes with "access",
// when it is known who was refused.
func (e *examination) afterRefusal(p protection) string {
	if p == e.main {
		return "see identity, access and clock below"
	}
	return e.allow(p, clientMount, clientWrite, clientRoot)
}

// The actions of EFS that a client needs
// (docs.aws.amazon.com/efs/latest/ug/iam-access-control-nfs-efs.html).
const (
	clientMount = "elasticfilesystem:ClientMount"
	clientWrite = "elasticfilesystem:ClientWrite"
	clientRoot  = "elasticfilesystem:ClientRootAccess"
)

// allow says which actions a policy must allow, on what, to whom and by which access point.
func (e *examination) allow(p protection, actions ...string) string {
	last := len(actions) - 1
	list := actions[last]
	if last > 0 {
		list = strings.Join(actions[:last], ", ") + " and " + list
	}
	who := e.who[p.Role]
	account := cmp.Or(accountOf(who.ARN), "ACCOUNT")
	resource := fmt.Sprintf("arn:%s:elasticfilesystem:%s:%s:", efs.Partition(e.region), cmp.Or(e.region, "REGION"), account)
	text := fmt.Sprintf("allow %s on %sfile-system/%s", list, resource, e.f.spec.ID)
	if p.AccessPoint != "" {
		text += fmt.Sprintf(" where elasticfilesystem:AccessPointArn is %saccess-point/%s", resource, p.AccessPoint)
	}
	switch {
	case !p.IAM:
		return text + " to everyone (\"AWS\": \"*\") in the file system's policy, or set EFS_IAM=on, so that this host shows who it is"
	case p.Role != "" && who.ARN == "":
		return text + " to " + p.Role + ", in the file system's policy or the role's"
	case who.ARN == "":
		return text + " to this host's identity, in the file system's policy or the identity's"
	}
	return text + " to " + principalOf(who.ARN) + ", in the file system's policy or the identity's"
}

// fields are those of an ARN: arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE.
func fields(arn string) []string {
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) < 6 {
		return make([]string, 6)
	}
	return parts
}

func accountOf(arn string) string { return fields(arn)[4] }

// principalOf is what a policy names: of a session of a role, the role.
func principalOf(arn string) string {
	parts := fields(arn)
	session, assumed := strings.CutPrefix(parts[5], "assumed-role/")
	if !assumed {
		return arn
	}
	role, _, _ := strings.Cut(session, "/")
	return fmt.Sprintf("arn:%s:iam::%s:role/%s", parts[1], parts[4], role)
}

// examineIdentities tells as whom AWS and the file system see this host.
func (e *examination) examineIdentities(ctx context.Context) {
	roles := []string{""}
	for _, p := range e.protections() {
		if p.IAM && !slices.Contains(roles, p.Role) {
			roles = append(roles, p.Role)
		}
	}
	for _, role := range roles {
		needed := slices.ContainsFunc(e.protections(), func(p protection) bool { return p.IAM && p.Role == role })
		check := e.check("identity", toldLimit)
		check.Target = role
		who, found := doctor.Ask(ctx, e.run, check, func(ctx context.Context) (cloud.Identity, doctor.Finding) {
			return e.examineIdentity(ctx, role, needed)
		})
		if found.Usable() {
			e.who[role] = who
		}
	}
}

func (e *examination) examineIdentity(ctx context.Context, role string, needed bool) (cloud.Identity, doctor.Finding) {
	const anonymous = "none to the file system (EFS_IAM=off); to AWS's API "
	if e.d.options.Cloud == nil {
		return cloud.Identity{}, doctor.Fine("none to the file system, and AWS is not asked")
	}
	who, err := e.d.options.Cloud.Identity(ctx, e.f.inCloud(), role)
	switch {
	case err != nil && !needed:
		said, _ := cloud.Explanation(err)
		return who, doctor.Fine("%snone either: %s", anonymous, said)
	case err != nil:
		why, do := cloud.Explanation(err)
		return who, doctor.Fail("no credentials", why, cmp.Or(do, "give the host an IAM role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"))
	}
	text := fmt.Sprintf("key %s of %s", doctor.KeyID(who.KeyID), cmp.Or(who.From, "the SDK's chain"))
	if !who.Expires.IsZero() {
		text += ", until " + who.Expires.UTC().Format(time.RFC3339)
	}
	text = cmp.Or(who.ARN, "an identity whose name is not known") + ", " + text
	if !needed {
		text = anonymous + text
	}
	switch {
	case !who.Expires.IsZero() && who.Expires.Before(time.Now()):
		return who, doctor.Fail(text, "the credentials have expired, and no new ones are to be had", "see why the role's credentials are not renewed: instance metadata, the web identity's token, the container's endpoint")
	case who.Unnamed != nil && needed:
		why, do := cloud.Explanation(who.Unnamed)
		return who, doctor.Warn(text, why, cmp.Or(do, "mounts do not need AWS STS; to be told the name here, let this host reach it"))
	}
	return who, doctor.Fine("%s", text)
}

// denied is what changes that a file system lets nobody in, or does not let them do that.
func (e *examination) denied(actions ...string) string {
	switch {
	case e.f.spec.Kind == filesystem.EFS && e.main.TLS:
		return e.allow(e.main, actions...)
	case e.f.spec.Kind == filesystem.EFS:
		return "its policy may ask for encryption or for an identity: set EFS_TLS=on and EFS_IAM=on; else " + e.allow(e.main, actions...)
	case e.f.spec.Kind == filesystem.NFS:
		return "on the server, export the directory to this host with rw,no_root_squash (exports(5))"
	}
	return "give root on this host the right to write to the directory"
}
