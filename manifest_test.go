package main

import (
	"encoding/json"
	"os"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/plugin"
)

// manifest is config.json as docker plugin create reads it, with what this
// plugin does not ask for in Rest.
type manifest struct {
	Description   string
	Documentation string
	Entrypoint    []string
	WorkDir       string
	Interface     struct {
		Types  []string
		Socket string
	}
	Network         struct{ Type string }
	PropagatedMount string
	Linux           map[string]any
	Env             []struct {
		Name, Description string
		Value             *string
		Settable          []string
	}
}

func readManifest(t *testing.T) manifest {
	t.Helper()
	file, err := os.Open("config.json")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var m manifest
	decoder := json.NewDecoder(file)
	// Mounts, devices, IPC and PID of the host, args: each would be one more thing
	// to grant, or to break, at installation.
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&m); err != nil {
		t.Fatalf("config.json: %v", err)
	}
	return m
}

func TestManifestAsksForNothingButHostNetworkAndMounting(t *testing.T) {
	m := readManifest(t)
	if m.Network.Type != "host" {
		t.Errorf("network %q", m.Network.Type)
	}
	if want := map[string]any{"capabilities": []any{"CAP_SYS_ADMIN"}}; !reflect.DeepEqual(m.Linux, want) {
		t.Errorf("linux %v", m.Linux)
	}
	if !slices.Equal(m.Interface.Types, []string{"docker.volumedriver/1.0"}) {
		t.Errorf("interface %v", m.Interface.Types)
	}
	if m.Description == "" || m.Documentation == "" {
		t.Error("it does not say what it is")
	}
}

// The contract's settings (docs: the table of settings), those that the plugin
// reads, and those that docker plugin set knows are the same.
func TestManifestHasEverySetting(t *testing.T) {
	contract := []string{
		"EFS_FILESYSTEM", "EFS_ROOT", "EFS_VIA", "EFS_ZONE", "EFS_TARGETS", "EFS_RETURN", "EFS_TLS", "EFS_IAM", "EFS_ACCESS_POINT", "EFS_CA_FILE",
		"EFS_ACCESS", "EFS_REMOVE", "EFS_TRASH_KEEP", "EFS_HTTP", "EFS_LOG_LEVEL",
		"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
		// The SDK's own, which only reach it if Docker knows them.
		"AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
		"AWS_ENDPOINT_URL", "AWS_CA_BUNDLE", "AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT",
		"AWS_EC2_METADATA_DISABLED", "AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "ECS_CONTAINER_METADATA_URI_V4",
		"HTTPS_PROXY", "NO_PROXY", "GODEBUG",
	}
	var names []string
	for _, env := range readManifest(t).Env {
		names = append(names, env.Name)
		if !slices.Equal(env.Settable, []string{"value"}) {
			t.Errorf("%s cannot be set: settable is %v", env.Name, env.Settable)
		}
		if !strings.Contains(env.Description, "default") {
			t.Errorf("%s: the description does not tell the default: %q", env.Name, env.Description)
		}
	}
	if !slices.Equal(names, contract) {
		t.Errorf("config.json has the settings\n%v, want\n%v", names, contract)
	}
	plugin.ReadSettings(func(name string) string {
		if !slices.Contains(names, name) {
			t.Errorf("the plugin reads %s, which nobody can set", name)
		}
		return ""
	})
}

// After docker plugin upgrade Docker keeps the values of the old version: a
// default that stands in config.json would never change again, nor come at all.
func TestRule11ManifestHasNoDefaults(t *testing.T) {
	for _, env := range readManifest(t).Env {
		if env.Value == nil || *env.Value != "" {
			t.Errorf("%s has a value in config.json", env.Name)
		}
	}
}

// What is in the plugin's root file system is replaced by an upgrade; what is in
// the propagated mount survives that, and crashes.
func TestRule10StateIsInThePropagatedMount(t *testing.T) {
	status := 0
	flags := serveCommand(&status).Flags()
	m := readManifest(t)
	if got := flags.Lookup("data").DefValue; got != m.PropagatedMount {
		t.Errorf("serve keeps its state in %s, the propagated mount is %s", got, m.PropagatedMount)
	}
	if slices.Contains(m.Entrypoint, "--data") || strings.Contains(strings.Join(m.Entrypoint, " "), "--data=") {
		t.Errorf("the entrypoint overrides it: %v", m.Entrypoint)
	}
}

func TestManifestAndServeAgreeOnTheSocket(t *testing.T) {
	status := 0
	socket := serveCommand(&status).Flags().Lookup("socket").DefValue
	m := readManifest(t)
	// The Engine binds its own directory for the socket over this one.
	if path.Dir(socket) != "/run/docker/plugins" || path.Base(socket) != m.Interface.Socket {
		t.Errorf("serve listens on %s, the Engine looks for %s", socket, m.Interface.Socket)
	}
	// The Engine's path before the name takes 85 of 107 characters.
	if len(m.Interface.Socket) > 20 || strings.Contains(m.Interface.Socket, "/") {
		t.Errorf("socket %q", m.Interface.Socket)
	}
}

func TestManifestAndDockerfileAgree(t *testing.T) {
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	lines := func(word string) (values []string) {
		for _, m := range regexp.MustCompile(`(?m)^`+word+` (.*)$`).FindAllStringSubmatch(string(text), -1) {
			values = append(values, m[1])
		}
		return values
	}
	m := readManifest(t)
	var entrypoint []string
	if got := lines("ENTRYPOINT"); len(got) != 1 {
		t.Errorf("entrypoints %v", got)
	} else if err := json.Unmarshal([]byte(got[0]), &entrypoint); err != nil || !slices.Equal(entrypoint, m.Entrypoint) {
		t.Errorf("the Dockerfile's entrypoint is %v, %v, that of config.json %v", got[0], err, m.Entrypoint)
	}
	if got := lines("COPY"); len(got) != 1 || strings.Fields(got[0])[1] != m.Entrypoint[0] {
		t.Errorf("COPY %v puts nothing at %s", got, m.Entrypoint[0])
	}
	if got := lines("FROM"); !slices.Equal(got, []string{"scratch"}) {
		t.Errorf("FROM %v", got)
	}
	dirs := lines("WORKDIR")
	for _, want := range []string{m.PropagatedMount, "/run/docker/plugins", "/dev", "/etc", "/proc", "/sys"} {
		if !slices.Contains(dirs, want) {
			t.Errorf("the Dockerfile makes no %s", want)
		}
	}
	if len(dirs) == 0 || dirs[len(dirs)-1] != m.WorkDir {
		t.Errorf("the last WORKDIR of %v is not %s", dirs, m.WorkDir)
	}
}
