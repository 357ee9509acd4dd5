package cloud_test

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/cloud"
)

// scope is where a signed question is asked: its region and service.
var scope = regexp.MustCompile(`Credential=[^/]+/\d+/([^/]*/[^/]*)/aws4_request`)

// Who says in which region this host is, or the file system, has AWS asked there: by roles, by the SDK's
// own use of AWS STS, and at the EFS API.
func TestTheRegionReachesAllClients(t *testing.T) {
	const role = "arn:aws:iam::123456789012:role/volumes"
	type env map[string]string
	for _, row := range []struct {
		name    string
		options cloud.Options
		env     env
		profile string // more of the default profile
		region  string // of the file system's DNS name
		sts     string // where STS is asked
		efs     string // where the EFS API is
	}{
		{"the settings", cloud.Options{Region: "eu-north-1"}, env{"AWS_REGION": "us-east-1"}, "", "", "eu-north-1", "eu-north-1"},
		{"the environment", cloud.Options{}, env{"AWS_REGION": "eu-north-1"}, "region=us-east-1", "", "eu-north-1", "eu-north-1"},
		{"the environment, as older tools know it", cloud.Options{}, env{"AWS_DEFAULT_REGION": "eu-north-1"}, "", "", "eu-north-1", "eu-north-1"},
		{"the profile", cloud.Options{}, nil, "region=eu-north-1", "", "eu-north-1", "eu-north-1"},
		{"the file system's name", cloud.Options{}, nil, "", "eu-north-1", "eu-north-1", "eu-north-1"},
		{"the metadata", cloud.Options{}, env{"AWS_EC2_METADATA_DISABLED": ""}, "", "", "eu-west-1", "eu-west-1"},
		{"the settings the host's, and the name the file system's", cloud.Options{Region: "eu-north-1"}, nil, "", "us-east-1", "eu-north-1", "us-east-1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			scopes := map[string]string{} // by the path, as one test asks one at a time
			a := newAPI(t, func(w http.ResponseWriter, r *http.Request) {
				if metadata(w, r, "eu-west-1b", "euw1-az3") {
					return
				}
				if found := scope.FindStringSubmatch(r.Header.Get("Authorization")); found != nil {
					scopes[r.URL.Path] = found[1]
				}
				if r.URL.Path == "/" {
					sts(w, r)
				} else {
					answer(w, map[string]any{"AccessPoints": []any{map[string]any{"AccessPointId": "fsap-0123456789abcdef0"}}})
				}
			})
			t.Setenv("AWS_REGION", "")
			t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", a.URL)
			t.Setenv("AWS_ENDPOINT_URL_STS", a.URL)
			for name, value := range row.env {
				t.Setenv(name, value)
			}
			f := cloud.FileSystem{ID: fileSystem, Region: row.region}
			ask := func(role, key string) {
				t.Helper()
				got, err := cloud.New(row.options).Credentials(t.Context(), f, role)
				if err != nil || got.AccessKeyID != key {
					t.Errorf("the keys of %q: %s, %v", role, got.AccessKeyID, err)
				}
			}
			configured := func(lines string) {
				t.Helper()
				path := filepath.Join(t.TempDir(), "config")
				if err := os.WriteFile(path, []byte("[default]\n"+row.profile+"\n"+lines), 0o600); err != nil {
					t.Fatal(err)
				}
				t.Setenv("AWS_CONFIG_FILE", path)
			}
			configured("")
			ask("", keyID)
			ask(role, "ASIAROLE")
			if got := scopes["/"]; got != row.sts+"/sts" {
				t.Errorf("for a role %q is asked", got)
			}
			c := cloud.New(row.options)
			for range 2 { // whichever comes first, a role's keys or the API
				if _, err := c.AccessPoint(t.Context(), f, role, "fsap-0123456789abcdef0"); err != nil {
					t.Error(err)
				}
				if got := scopes["/2015-02-01/access-points"]; got != row.efs+"/elasticfilesystem" || scopes["/"] != row.sts+"/sts" {
					t.Errorf("the API asked is %q, STS %q", got, scopes["/"])
				}
			}
			if region, err := c.Region(t.Context()); row.region == "" && (err != nil || region != row.sts) {
				t.Errorf("the region is %q, %v", region, err)
			}
			clear(scopes)
			for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} {
				t.Setenv(name, "")
			}
			configured("role_arn=" + role + "\nsource_profile=keys\n[profile keys]\naws_access_key_id=" + keyID + "\naws_secret_access_key=x\n")
			ask("", "ASIAROLE")
			if got := scopes["/"]; got != row.sts+"/sts" {
				t.Errorf("for the profile's role %q is asked", got)
			}
		})
	}
}

func TestPlaceIsTheProfilesRegion(t *testing.T) {
	withMetadata(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte("[profile volumes]\nregion=eu-north-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CONFIG_FILE", path)
	t.Setenv("AWS_PROFILE", "volumes")
	if p := cloud.New(cloud.Options{}).Place(t.Context()); p.Region != "eu-north-1" || p.RegionFrom != "AWS's configuration file" {
		t.Errorf("%q by %q", p.Region, p.RegionFrom)
	}
}
