package deploy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/docker/cli/cli/compose/schema"
	"go.yaml.in/yaml/v3"
)

// refuses ends every request: a task definition that is whole gets as far as this.
type refuses struct{}

var errSent = errors.New("sent")

func (refuses) Do(*http.Request) (*http.Response, error) { return nil, errSent }

// checkTask decodes a task definition as the AWS CLI does, and lets the SDK look at it.
func checkTask(t *testing.T, text []byte) error {
	var task ecs.RegisterTaskDefinitionInput
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&task); err != nil {
		return err
	}
	client := ecs.New(ecs.Options{Region: region, HTTPClient: refuses{}, RetryMaxAttempts: 1})
	if _, err := client.RegisterTaskDefinition(t.Context(), &task); !errors.Is(err, errSent) {
		return err
	}
	if err := enums(reflect.ValueOf(task)); err != nil {
		return err
	}
	drivers := map[string]string{}
	for _, volume := range task.Volumes {
		if volume.DockerVolumeConfiguration != nil {
			drivers[*volume.Name] = *volume.DockerVolumeConfiguration.Driver
		}
	}
	for _, container := range task.ContainerDefinitions {
		for _, mount := range container.MountPoints {
			if drivers[*mount.SourceVolume] != "efs" {
				return fmt.Errorf("no volume %s of driver efs", *mount.SourceVolume)
			}
		}
	}
	return nil
}

// enums looks whether texts that have a list of values are one of them.
func enums(value reflect.Value) error {
	switch value.Kind() {
	case reflect.String:
		if values := value.MethodByName("Values"); values.IsValid() && value.String() != "" {
			allowed := fmt.Sprint(values.Call(nil)[0].Interface())
			if !slices.Contains(strings.Fields(strings.Trim(allowed, "[]")), value.String()) {
				return fmt.Errorf("%s is none of %s", value, allowed)
			}
		}
	case reflect.Pointer:
		if !value.IsNil() {
			return enums(value.Elem())
		}
	case reflect.Slice:
		for i := range value.Len() {
			if err := enums(value.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Struct:
		for _, field := range value.Fields() {
			if err := enums(field); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestECSTakesTheTaskDefinition(t *testing.T) {
	text := string(read(t, "aws/ecs-task.json"))
	if err := checkTask(t, []byte(text)); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ name, old, new, want string }{
		{"a field that is none", "stopTimeout", "stopAfter", `unknown field "stopAfter"`},
		{"a value of another type", `"essential": true`, `"essential": "yes"`, "cannot unmarshal"},
		{"no family", `"family": "postgres",`, "", "Family"},
		{"no name of a secret", `"name": "POSTGRES_PASSWORD", `, "", "Secrets[0].Name"},
		{"a scope that is none", `"shared"`, `"share"`, "share is none of"},
		{"another driver", `"driver": "efs"`, `"driver": "local"`, "of driver efs"},
		{"a volume that is none", `"sourceVolume": "pgdata"`, `"sourceVolume": "data"`, "no volume data"},
	} {
		broken := strings.Replace(text, row.old, row.new, 1)
		if err := checkTask(t, []byte(broken)); broken == text || err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
	}
}

// checkStack holds a stack against the schema of docker stack deploy.
func checkStack(text []byte) error {
	var config map[string]any
	if err := yaml.Unmarshal(text, &config); err != nil {
		return err
	}
	if err := schema.Validate(config, schema.Version(config)); err != nil {
		return err
	}
	volumes, _ := config["volumes"].(map[string]any)
	secrets, _ := config["secrets"].(map[string]any)
	for name, service := range config["services"].(map[string]any) {
		service := service.(map[string]any)
		mounts, _ := service["volumes"].([]any)
		for _, mount := range mounts {
			source, _, _ := strings.Cut(mount.(string), ":")
			if volume, is := volumes[source].(map[string]any); !is || volume["driver"] != "efs" || volume["name"] != source {
				return fmt.Errorf("%s: no volume %s of driver efs that is called so in every stack", name, source)
			}
		}
		wanted, _ := service["secrets"].([]any)
		for _, secret := range wanted {
			if _, is := secrets[secret.(string)]; !is {
				return fmt.Errorf("%s: no secret %s", name, secret)
			}
		}
	}
	return nil
}

func TestSwarmTakesTheStack(t *testing.T) {
	text := string(read(t, "aws/stack.yaml"))
	if err := checkStack([]byte(text)); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ name, old, new, want string }{
		{"a key that is none", "stop_grace_period", "stop_grace", "stop_grace"},
		{"a value of another type", "replicas: 1", "replicas: one", "replicas"},
		{"a version that is none", `version: "3.8"`, `version: "4.0"`, "unsupported Compose file version"},
		{"another driver", "driver: efs", "driver: local", "of driver efs"},
		{"a name for each stack", "    name: pgdata\n", "", "of driver efs"},
		{"a volume that is none", `["pgdata:`, `["data:`, "no volume data"},
		{"a secret that is none", "secrets: [postgres-password]", "secrets: [password]", "no secret password"},
	} {
		broken := strings.Replace(text, row.old, row.new, 1)
		if err := checkStack([]byte(broken)); broken == text || err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
	}
}
