package cloud_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/cloud"
)

const (
	fileSystem = "fs-0123456789abcdef0"
	keyID      = "AKIDEXAMPLE"
	secretKey  = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY" //nolint:gosec // AWS's documentation has it
	token      = "IQoJtoken"
)

// api plays AWS's services: the answer to each path, and what was asked.
type api struct {
	*httptest.Server

	mu    sync.Mutex // guards the following fields
	asked []string
	says  func(w http.ResponseWriter, r *http.Request)
}

func newAPI(t *testing.T, says func(w http.ResponseWriter, r *http.Request)) *api {
	t.Helper()
	a := &api{says: says}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.asked = append(a.asked, r.Method+" "+r.URL.Path)
		says := a.says
		a.mu.Unlock()
		says(w, r)
	}))
	t.Cleanup(a.Close)
	t.Setenv("AWS_ENDPOINT_URL", a.URL)
	t.Setenv("AWS_ACCESS_KEY_ID", keyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
	t.Setenv("AWS_SESSION_TOKEN", token)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_REGION", "eu-west-1")
	return a
}

func (a *api) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.asked)
}

// refuse answers as the EFS API does when it refuses.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("X-Amzn-Errortype", code)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"ErrorCode":%q,"Message":%q}`, code, message)
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}

// mountTarget is one as the API tells it.
type mountTarget struct {
	State string `json:"LifeCycleState"`
	IPv4  string `json:"IpAddress,omitempty"`
	IPv6  string `json:"Ipv6Address,omitempty"`
	Zone  string `json:"AvailabilityZoneName,omitempty"`
	ID    string `json:"AvailabilityZoneId,omitempty"`
}

func mt(zone, id, state, ip string) mountTarget {
	return mountTarget{State: state, IPv4: ip, Zone: zone, ID: id}
}

func TestTargets(t *testing.T) {
	all := []mountTarget{
		mt("eu-west-1c", "euw1-az2", "available", "10.0.3.1"), mt("eu-west-1a", "euw1-az3", "available", "10.0.1.1"),
		mt("eu-west-1b", "euw1-az1", "available", "10.0.2.1"),
	}
	regional := fileSystem + ".efs.eu-west-1.amazonaws.com."
	for _, row := range []struct {
		name    string
		zone    string
		targets []mountTarget // nil: the API refuses
		dns     map[string]string
		want    string
		source  string
		says    string // of the API's error, or of the error
	}{
		{"home zone first", "eu-west-1b", all, nil, "[eu-west-1b=10.0.2.1:2049 eu-west-1a=10.0.1.1:2049 eu-west-1c=10.0.3.1:2049]", "EFS API", ""},
		{"in the order of zones without a home", "", all, nil, "[eu-west-1a=10.0.1.1:2049 eu-west-1b=10.0.2.1:2049 eu-west-1c=10.0.3.1:2049]", "EFS API", ""},
		{"the home zone by its id", "euw1-az2", all, nil, "[euw1-az2=10.0.3.1:2049 eu-west-1a=10.0.1.1:2049 eu-west-1b=10.0.2.1:2049]", "EFS API", ""},
		{
			"without those that do not serve", "",
			[]mountTarget{
				mt("eu-west-1a", "euw1-az3", "creating", "10.0.1.1"), mt("eu-west-1b", "euw1-az1", "available", "10.0.2.1"),
				mt("eu-west-1c", "", "deleting", "10.0.3.1"), mt("eu-west-1d", "", "available", ""),
			},
			nil, "[eu-west-1b=10.0.2.1:2049]", "EFS API", "",
		},
		{
			"by IPv6 where there is nothing else", "",
			[]mountTarget{{State: "available", IPv6: "2001:db8::1", Zone: "eu-west-1a"}},
			nil, "[eu-west-1a=[2001:db8::1]:2049]", "EFS API", "",
		},
		{
			"from DNS where the API refuses", "eu-west-1b", nil,
			map[string]string{"eu-west-1a." + regional: "10.0.1.1", "eu-west-1b." + regional: "10.0.2.1", regional: "10.0.2.1"},
			"[eu-west-1b=10.0.2.1:2049 eu-west-1a=10.0.1.1:2049]", "DNS", "allow the action elasticfilesystem:DescribeMountTargets",
		},
		{"from the file system's own name, which leads to the home zone", "eu-west-1b", nil, map[string]string{regional: "10.0.2.1"}, "[eu-west-1b=10.0.2.1:2049]", "DNS", "AccessDenied"},
		{"from the name of a zone's id, as in another account", "euw1-az2", nil, map[string]string{"euw1-az2." + regional: "10.0.9.1"}, "[euw1-az2=10.0.9.1:2049]", "DNS", "AccessDenied"},
		{"from DNS where no mount target serves", "", []mountTarget{mt("eu-west-1a", "", "creating", "10.0.1.1")}, map[string]string{regional: "10.0.1.1"}, "[10.0.1.1:2049]", "DNS", "no mount target that is available"},
		{"of which nothing is known", "", nil, nil, "", "", "no mount target of " + fileSystem + " is known: elasticfilesystem:DescribeMountTargets"},
	} {
		t.Run(row.name, func(t *testing.T) {
			newAPI(t, func(w http.ResponseWriter, _ *http.Request) {
				if row.targets == nil {
					refuse(w, http.StatusForbidden, "AccessDeniedException", "User: x is not authorized")
					return
				}
				answer(w, map[string]any{"MountTargets": row.targets})
			})
			c := cloud.New(cloud.Options{Zone: row.zone, Resolver: names(t, row.dns)})
			told, err := c.Targets(t.Context(), cloud.FileSystem{ID: fileSystem})
			if row.want == "" {
				if err == nil || !strings.Contains(err.Error(), row.says) || strings.Contains(err.Error(), "\n") {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(told.Targets); got != row.want || told.Source != row.source {
				t.Errorf("got  %s from %s\nwant %s from %s", got, told.Source, row.want, row.source)
			}
			if row.says != "" && (told.APIError == nil || !strings.Contains(told.APIError.Error(), row.says)) {
				t.Errorf("the API's error: %v", told.APIError)
			}
		})
	}
}

func TestTargetsOfBothFamilies(t *testing.T) {
	const four, six = "[a=10.0.1.1:2049]", "[a=[2001:db8::1]:2049]"
	for _, row := range []struct {
		name      string
		four, six bool
		want      string
	}{
		{"are taken by IPv4 where both have a route", true, true, four},
		{"are taken by IPv4 where it alone has", true, false, four},
		{"are taken by IPv6 where it alone has", false, true, six},
		{"are taken by IPv4 where the network is not up yet", false, false, four},
	} {
		t.Run(row.name, func(t *testing.T) {
			newAPI(t, func(w http.ResponseWriter, _ *http.Request) {
				answer(w, map[string]any{"MountTargets": []mountTarget{{State: "available", IPv4: "10.0.1.1", IPv6: "2001:db8::1", Zone: "a"}}})
			})
			routed := func(addr netip.Addr) bool { return addr.Is4() && row.four || addr.Is6() && row.six }
			told, err := cloud.New(cloud.Options{Resolver: names(t, nil), Routed: routed}).Targets(t.Context(), cloud.FileSystem{ID: fileSystem})
			if got := fmt.Sprint(told.Targets); err != nil || got != row.want {
				t.Errorf("%s, %v, want %s", got, err, row.want)
			}
		})
	}
	t.Run("are looked at by this host's own routes", func(t *testing.T) {
		newAPI(t, func(w http.ResponseWriter, _ *http.Request) {
			answer(w, map[string]any{"MountTargets": []mountTarget{{State: "available", IPv4: "127.0.0.1", IPv6: "::1", Zone: "a"}}})
		})
		told, err := cloud.New(cloud.Options{Resolver: names(t, nil)}).Targets(t.Context(), cloud.FileSystem{ID: fileSystem})
		if got := fmt.Sprint(told.Targets); err != nil || got != "[a=127.0.0.1:2049]" {
			t.Errorf("%s, %v", got, err)
		}
	})
}

func TestTargetsOnSeveralPages(t *testing.T) {
	newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("Marker") == "" {
			answer(w, map[string]any{"MountTargets": []mountTarget{mt("a", "", "available", "10.0.1.1")}, "NextMarker": "more"})
			return
		}
		answer(w, map[string]any{"MountTargets": []mountTarget{mt("b", "", "available", "10.0.2.1")}})
	})
	told, err := cloud.New(cloud.Options{Resolver: names(t, nil)}).Targets(t.Context(), cloud.FileSystem{ID: fileSystem})
	if err != nil || len(told.Targets) != 2 {
		t.Errorf("%v, %v", told.Targets, err)
	}
}

// In another account the names of zones are mixed: its eu-west-1a is our eu-west-1b.
func TestTargetsOfAnotherAccount(t *testing.T) {
	withMetadata(t, func(w http.ResponseWriter, r *http.Request) {
		if metadata(w, r, "eu-west-1b", "euw1-az3") {
			return
		}
		answer(w, map[string]any{"MountTargets": []mountTarget{mt("eu-west-1a", "euw1-az3", "available", "10.0.1.1"), mt("eu-west-1b", "euw1-az1", "available", "10.0.2.1")}})
	})
	told, err := cloud.New(cloud.Options{Resolver: names(t, nil)}).Targets(t.Context(), cloud.FileSystem{ID: fileSystem})
	const want = "[eu-west-1b=10.0.1.1:2049 euw1-az1=10.0.2.1:2049]"
	if got := fmt.Sprint(told.Targets); err != nil || got != want || told.HomeZone != "eu-west-1b" {
		t.Errorf("got %s, home %s, %v; want %s", got, told.HomeZone, err, want)
	}
}

func TestTargetsWhenTheAPIIsSlow(t *testing.T) {
	release := make(chan struct{})
	newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		answer(w, map[string]any{"MountTargets": []mountTarget{mt("a", "", "available", "10.0.1.1")}})
	})
	regional := fileSystem + ".efs.eu-west-1.amazonaws.com."
	t.Run("DNS's answer is taken", func(t *testing.T) {
		begun := time.Now()
		told, err := cloud.New(cloud.Options{Resolver: names(t, map[string]string{regional: "10.0.2.1"})}).Targets(t.Context(), cloud.FileSystem{ID: fileSystem})
		if err != nil || told.Source != cloud.SourceDNS || told.APIError == nil || !strings.Contains(told.APIError.Error(), "not answered") {
			t.Errorf("%+v, %v", told, err)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
	})
	t.Run("a context that ends, ends it", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := cloud.New(cloud.Options{Resolver: names(t, nil)}).Targets(ctx, cloud.FileSystem{ID: fileSystem}); err == nil {
			t.Error("no error")
		}
	})
	t.Run("it is waited for if DNS has none", func(t *testing.T) {
		time.AfterFunc(3500*time.Millisecond, func() { close(release) })
		told, err := cloud.New(cloud.Options{Resolver: names(t, nil)}).Targets(t.Context(), cloud.FileSystem{ID: fileSystem})
		if err != nil || told.Source != cloud.SourceAPI {
			t.Errorf("%+v, %v", told, err)
		}
	})
}

func TestErrorsSayWhatToDoAndNoSecret(t *testing.T) {
	for _, row := range []struct {
		code, message, says string
		status              int
	}{
		{"AccessDeniedException", "User: arn:aws:sts::1:assumed-role/x is not authorized to perform: elasticfilesystem:DescribeMountTargets", "allow the action elasticfilesystem:DescribeMountTargets", http.StatusForbidden},
		{"ExpiredTokenException", "The security token included in the request is expired", "this host's clock", http.StatusForbidden},
		{"UnrecognizedClientException", "The security token included in the request is invalid", "check the credentials", http.StatusForbidden},
		{"FileSystemNotFound", "File system does not exist.", "check the file system's id, the region and the account", http.StatusNotFound},
		{"ThrottlingException", "Rate exceeded\nslow down", "AWS limits how often", http.StatusTooManyRequests},
		{"ValidationException", "bad X-Amz-Security-Token=" + token + "&X-Amz-Signature=abcdef", "X-Amz-Security-Token=…", http.StatusBadRequest},
	} {
		t.Run(row.code, func(t *testing.T) {
			newAPI(t, func(w http.ResponseWriter, _ *http.Request) { refuse(w, row.status, row.code, row.message) })
			_, err := cloud.New(cloud.Options{Resolver: names(t, nil)}).Targets(t.Context(), cloud.FileSystem{ID: fileSystem})
			if err == nil {
				t.Fatal("no error")
			}
			text := err.Error()
			if !strings.Contains(text, row.code) || !strings.Contains(text, row.says) {
				t.Errorf("%s does not say %q", text, row.says)
			}
			for _, secret := range []string{secretKey, token, "abcdef", "\n"} {
				if strings.Contains(strings.ReplaceAll(text, fileSystem, ""), secret) {
					t.Errorf("%q has %q", text, secret)
				}
			}
		})
	}
}

func TestCredentialsAreAskedOnce(t *testing.T) {
	a := newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.FormValue("DurationSeconds"); got != "3600" {
			t.Errorf("they are asked for %s seconds", got)
		}
		w.Header().Set("Content-Type", "text/xml")
		fmt.Fprintf(w, `<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey>`+
			`<SessionToken>t</SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	})
	c := cloud.New(cloud.Options{})
	own, err := c.Credentials(t.Context(), cloud.FileSystem{}, "")
	if err != nil || own.AccessKeyID != keyID || own.SessionToken != token {
		t.Errorf("own: %v, %v", own, err)
	}
	for range 3 {
		role, err := c.Credentials(t.Context(), cloud.FileSystem{}, "arn:aws:iam::123456789012:role/volumes")
		if err != nil || role.AccessKeyID != "ASIAROLE" {
			t.Errorf("the role's: %v, %v", role, err)
		}
	}
	if n := a.count(); n != 1 {
		t.Errorf("AWS was asked %d times", n)
	}
}

// refuseXML answers as AWS STS does when it refuses.
func refuseXML(w http.ResponseWriter, code, message string) {
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(http.StatusForbidden)
	fmt.Fprintf(w, `<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error></ErrorResponse>`, code, message)
}

// The commonest mistake with a role: who reads the line must know what to allow, and where.
func TestARoleThatMayNotBeAssumed(t *testing.T) {
	const role = "arn:aws:iam::123456789012:role/volumes"
	newAPI(t, func(w http.ResponseWriter, _ *http.Request) {
		refuseXML(w, "AccessDenied", "User: arn:aws:sts::123456789012:assumed-role/web/i-1 is not authorized to perform: sts:AssumeRole on resource: "+role)
	})
	c := cloud.New(cloud.Options{})
	for _, row := range []struct {
		name string
		ask  func() error
	}{
		{"for a connection", func() error { _, err := c.Credentials(t.Context(), cloud.FileSystem{}, role); return err }},
		{"for the doctor", func() error { _, err := c.Identity(t.Context(), cloud.FileSystem{}, role); return err }},
		{"for a call of the EFS API", func() error {
			_, err := c.AccessPoint(t.Context(), cloud.FileSystem{ID: fileSystem}, role, "fsap-0123456789abcdef0")
			return err
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := row.ask()
			if err == nil {
				t.Fatal("no error")
			}
			const want = "allow sts:AssumeRole on " + role + " in the IAM policy of this host's identity, and to that identity in the trust policy of " + role
			if said, advice := cloud.Explanation(err); advice != want || !strings.Contains(said, "AccessDenied: User: arn") {
				t.Errorf("%s\nadvice %q", said, advice)
			}
		})
	}
}

func TestARoleThatAWSSTSIsSilentOn(t *testing.T) {
	newAPI(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then the server hears that who asked has gone
		<-r.Context().Done()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := cloud.New(cloud.Options{}).Credentials(ctx, cloud.FileSystem{}, "arn:aws:iam::123456789012:role/volumes")
	const want = "get credentials as arn:aws:iam::123456789012:role/volumes: no answer in time: check the route to AWS STS, or a VPC endpoint for it"
	if err == nil || err.Error() != want || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

// A role of the profile's, or of a web identity, is assumed by the SDK itself.
func TestAnIdentityThatTheSDKMayNotAssume(t *testing.T) {
	dir := t.TempDir()
	for _, row := range []struct{ name, env, file, content, says string }{
		{
			"of a profile", "AWS_CONFIG_FILE", "config",
			"[default]\nrole_arn=arn:aws:iam::123456789012:role/x\nsource_profile=keys\n[profile keys]\naws_access_key_id=" + keyID + "\naws_secret_access_key=x\n",
			"allow sts:AssumeRole on the role in the IAM policy of this host's identity, and to that identity in the trust policy of the role",
		},
		{
			"of a web identity", "AWS_WEB_IDENTITY_TOKEN_FILE", "token", "a token",
			"allow sts:AssumeRoleWithWebIdentity to this host's web identity in the role's trust policy",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := newAPI(t, func(w http.ResponseWriter, _ *http.Request) { refuseXML(w, "AccessDenied", "Not authorized") })
			t.Setenv("AWS_ENDPOINT_URL_STS", a.URL) // the SDK reads the one of all services too late for its own use
			for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} {
				t.Setenv(name, "")
			}
			path := filepath.Join(dir, row.file)
			if err := os.WriteFile(path, []byte(row.content), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv(row.env, path)
			if row.file == "token" {
				t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/x")
			}
			_, err := cloud.New(cloud.Options{}).Credentials(t.Context(), cloud.FileSystem{}, "")
			if err == nil || !strings.HasSuffix(err.Error(), row.says) {
				t.Errorf("error %v, want %q", err, row.says)
			}
		})
	}
}

func TestCredentialsThatAreNotThere(t *testing.T) {
	newAPI(t, nil)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	_, err := cloud.New(cloud.Options{}).Credentials(t.Context(), cloud.FileSystem{}, "")
	if err == nil || !strings.Contains(err.Error(), "give the host an IAM role") || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v", err)
	}
}

func TestARegionThatNobodyKnows(t *testing.T) {
	newAPI(t, nil)
	t.Setenv("AWS_REGION", "")
	_, err := cloud.New(cloud.Options{}).Targets(t.Context(), cloud.FileSystem{ID: fileSystem})
	if err == nil || !strings.Contains(err.Error(), "set AWS_REGION") {
		t.Errorf("error %v", err)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		t.Error("it waited for nothing")
	}
}
