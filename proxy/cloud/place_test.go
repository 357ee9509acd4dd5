package cloud_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/cloud"
)

// metadata answers as EC2's instance metadata service does, and reports whether the question
// was one to it.
func metadata(w http.ResponseWriter, r *http.Request, zone, id string) bool {
	const metadataToken = "a token"
	if r.URL.Path == "/latest/api/token" && r.Method == http.MethodPut {
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
		fmt.Fprint(w, metadataToken)
		return true
	}
	path, ours := strings.CutPrefix(r.URL.Path, "/latest/meta-data/placement/")
	if !ours {
		return false
	}
	text, known := map[string]string{"region": "eu-west-1", "availability-zone": zone, "availability-zone-id": id}[path]
	switch {
	case r.Header.Get("X-Aws-Ec2-Metadata-Token") != metadataToken:
		w.WriteHeader(http.StatusUnauthorized)
	case !known:
		w.WriteHeader(http.StatusNotFound)
	default:
		fmt.Fprint(w, text)
	}
	return true
}

// withMetadata is a host that has no region set and metadata that answer so.
func withMetadata(t *testing.T, says func(w http.ResponseWriter, r *http.Request)) *api {
	t.Helper()
	a := newAPI(t, says)
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", a.URL)
	return a
}

func TestPlaceIsTheInstances(t *testing.T) {
	a := withMetadata(t, func(w http.ResponseWriter, r *http.Request) { metadata(w, r, "eu-west-1b", "euw1-az3") })
	c := cloud.New(cloud.Options{})
	// On a busy machine the first answers may come too late, and are asked for again a second later.
	for deadline := time.Now().Add(30 * time.Second); c.HomeZone(t.Context()) == "" && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	asked := a.count()
	for range 3 {
		region, err := c.Region(t.Context())
		if zone := c.HomeZone(t.Context()); err != nil || region != "eu-west-1" || zone != "eu-west-1b" {
			t.Errorf("%s %s, %v", region, zone, err)
		}
	}
	if n := a.count(); n < 4 || n != asked {
		t.Errorf("for a token and three things the metadata were asked %d times, and when they had answered %d times more", asked, n-asked)
	}
}

func TestPlaceThatIsSetIsNotAsked(t *testing.T) {
	a := withMetadata(t, func(w http.ResponseWriter, r *http.Request) { metadata(w, r, "eu-west-1b", "euw1-az3") })
	t.Setenv("AWS_REGION", "us-east-1")
	c := cloud.New(cloud.Options{Zone: "us-east-1a"})
	if region, err := c.Region(t.Context()); err != nil || region != "us-east-1" || c.HomeZone(t.Context()) != "us-east-1a" || a.count() != 0 {
		t.Errorf("%s, %v, %d questions", region, err, a.count())
	}
}

func TestPlaceOfATaskOfECS(t *testing.T) {
	for _, row := range []struct{ name, says, region, zone string }{
		{"is its own", `{"AvailabilityZone":"eu-west-1c","TaskARN":"arn:aws:ecs:eu-west-1:123456789012:task/default/1"}`, "eu-west-1", "eu-west-1c"},
		{"is the instance's if it does not say", `{"Cluster":"default"}`, "eu-west-1", "eu-west-1b"},
		{"is the instance's if it says nonsense", `<html>`, "eu-west-1", "eu-west-1b"},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := withMetadata(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v4/id/task" {
					fmt.Fprint(w, row.says)
				} else {
					metadata(w, r, "eu-west-1b", "euw1-az3")
				}
			})
			t.Setenv("ECS_CONTAINER_METADATA_URI_V4", a.URL+"/v4/id")
			c := cloud.New(cloud.Options{})
			if region, err := c.Region(t.Context()); err != nil || region != row.region || c.HomeZone(t.Context()) != row.zone {
				t.Errorf("%s %s, %v", region, c.HomeZone(t.Context()), err)
			}
		})
	}
}

// Without metadata a host is outside AWS: that is known soon, and not asked each time.
func TestPlaceWithoutMetadata(t *testing.T) {
	for _, row := range []struct {
		name string
		says func(w http.ResponseWriter, r *http.Request)
	}{
		{"that refuse", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }},
		{"that know version 1 only", func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			fmt.Fprint(w, "eu-west-1")
		}},
		{"that never answer, as from behind one hop too many", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := withMetadata(t, row.says)
			c := cloud.New(cloud.Options{})
			begun := time.Now()
			if zone := c.HomeZone(t.Context()); zone != "" {
				t.Errorf("zone %q", zone)
			}
			if took := time.Since(begun); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
			asked := a.count()
			if _, err := c.Region(t.Context()); err == nil || !strings.Contains(err.Error(), "set AWS_REGION") {
				t.Errorf("error %v", err)
			}
			if a.count() != asked {
				t.Error("the metadata are asked again at once")
			}
		})
	}
}

func TestPlaceIsAskedAtTheAddressOfItsFamily(t *testing.T) {
	for _, row := range []struct{ mode, dialled, says string }{
		{"", "169.254.169.254:80", "no way there"},
		{"IPv4", "169.254.169.254:80", "no way there"},
		{"ipv6", "[fd00:ec2::254]:80", "no way there"},
		{"IPv9", "", `AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE="IPv9": allowed: IPv4, IPv6`},
	} {
		t.Run(row.mode, func(t *testing.T) {
			withMetadata(t, nil)
			t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "")
			t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", row.mode)
			var dialled string
			p := cloud.New(cloud.Options{DialMetadata: func(_ context.Context, _, address string) (net.Conn, error) {
				dialled = address
				return nil, errors.New("no way there")
			}}).Place(t.Context())
			if dialled != row.dialled || p.Metadata == nil || !strings.Contains(p.Metadata.Error(), row.says) {
				t.Errorf("dialled %q: %v", dialled, p.Metadata)
			}
		})
	}
}

// A proxy would answer with the metadata of the machine that it runs on. Go reads the
// setting once, hence a process of its own.
func TestPlaceIsNotAskedByAProxy(t *testing.T) {
	const address, behindAProxy = "metadata.example:80", "CLOUD_TEST_BEHIND_A_PROXY"
	if os.Getenv(behindAProxy) == "" {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
		child.Env = append(os.Environ(), behindAProxy+"=1", "HTTP_PROXY=http://proxy.example:80", "NO_PROXY=", "no_proxy=")
		if said, err := child.CombinedOutput(); err != nil || !strings.Contains(string(said), "--- PASS: "+t.Name()) {
			t.Errorf("%v: %s", err, said)
		}
		return
	}
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://"+address)
	var dialled string
	p := cloud.New(cloud.Options{DialMetadata: func(_ context.Context, _, address string) (net.Conn, error) {
		dialled = address
		return nil, errors.New("no way there")
	}}).Place(t.Context())
	if dialled != address || p.Metadata == nil {
		t.Errorf("dialled %s: %v", dialled, p.Metadata)
	}
}

// A caller in a hurry says nothing about the metadata.
func TestPlaceIsAskedAgainAfterAContextEnded(t *testing.T) {
	withMetadata(t, func(w http.ResponseWriter, r *http.Request) { metadata(w, r, "eu-west-1b", "euw1-az3") })
	c := cloud.New(cloud.Options{})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if zone := c.HomeZone(ended); zone != "" {
		t.Errorf("zone %q", zone)
	}
	if zone := c.HomeZone(t.Context()); zone != "eu-west-1b" {
		t.Errorf("zone %q", zone)
	}
}
