package deploy_test

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// argument is a resource's argument in the Terraform module, as it stands there.
func argument(t *testing.T, path string) string {
	t.Helper()
	m, err := load(terraform)
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Split(path, ".")
	for _, file := range m.bodies {
		for _, block := range file.Blocks {
			if block.Type != "resource" || !slices.Equal(block.Labels, words[:2]) {
				continue
			}
			body := block.Body
			for _, name := range words[2 : len(words)-1] {
				inner := slices.IndexFunc(body.Blocks, func(b *hclsyntax.Block) bool { return b.Type == name })
				if inner < 0 {
					t.Fatalf("no %s in %s", name, path)
				}
				body = body.Blocks[inner].Body
			}
			if found, has := body.Attributes[words[len(words)-1]]; has {
				place := found.Expr.Range()
				return strings.Trim(string(place.SliceBytes(read(t, terraform+"/"+place.Filename))), `"`)
			}
		}
	}
	t.Fatalf("no %s", path)
	return ""
}

func TestNothingIsOpenThatNeedNotBe(t *testing.T) {
	s, err := newStack(read(t, cloudFormation), map[string]string{"PluginSource": bundleOnS3})
	if err != nil {
		t.Fatal(err)
	}
	resources, err := s.resources()
	if err != nil {
		t.Fatal(err)
	}
	instances := []string{"LaunchTemplate", "Properties", "LaunchTemplateData"}
	for _, row := range []struct {
		name string
		path []string
		want any
	}{
		{"mount targets are reached by instances on NFS's port", []string{"MountTargetGroup", "Properties", "SecurityGroupIngress"}, []any{
			map[string]any{"Description": "NFS", "IpProtocol": "tcp", "FromPort": 2049, "ToPort": 2049, "SourceSecurityGroupId": "InstanceGroup"},
		}},
		{"data is encrypted where it lies", []string{"FileSystem", "Properties", "Encrypted"}, true},
		{"data outlives the stack", []string{"FileSystem", "DeletionPolicy"}, "Retain"},
		{"metadata wants a token", append(instances, "MetadataOptions", "HttpTokens"), "required"},
		{"metadata goes one hop", append(instances, "MetadataOptions", "HttpPutResponseHopLimit"), 1},
	} {
		if got := at(t, resources, row.path...); !reflect.DeepEqual(got, row.want) {
			t.Errorf("CloudFormation: %s: %v", row.name, got)
		}
	}
	for name := range resources {
		if strings.HasPrefix(name, "Swarm") {
			t.Errorf("CloudFormation: %s is there and nobody asked for it", name)
		}
	}
	for _, row := range []struct{ name, path, want string }{
		{"mount targets are reached on NFS's port", "aws_vpc_security_group_ingress_rule.nfs.from_port", "2049"},
		{"and on no other", "aws_vpc_security_group_ingress_rule.nfs.to_port", "2049"},
		{"by TCP", "aws_vpc_security_group_ingress_rule.nfs.ip_protocol", "tcp"},
		{"by instances", "aws_vpc_security_group_ingress_rule.nfs.referenced_security_group_id", "aws_security_group.instances.id"},
		{"data is encrypted where it lies", "aws_efs_file_system.this.encrypted", "true"},
		{"data outlives the module", "aws_efs_file_system.this.lifecycle.prevent_destroy", "true"},
		{"the policy is the file system's", "aws_efs_file_system_policy.this.policy", "local.file_system_policy"},
		{"the role has the other one", "aws_iam_role_policy.volumes.policy", "local.volume_policy"},
		{"instances get the user data", "aws_launch_template.instances.user_data", "base64encode(local.user_data)"},
		{"metadata wants a token", "aws_launch_template.instances.metadata_options.http_tokens", "required"},
		{"metadata goes one hop", "aws_launch_template.instances.metadata_options.http_put_response_hop_limit", "1"},
	} {
		if got := argument(t, row.path); got != row.want {
			t.Errorf("Terraform: %s: %s", row.name, got)
		}
	}
}

// Both templates give instances what they were told.
func TestUserDataOfTheTemplates(t *testing.T) {
	s, err := newStack(read(t, cloudFormation), whole())
	if err != nil {
		t.Fatal(err)
	}
	resources, err := s.resources()
	if err != nil {
		t.Fatal(err)
	}
	const sets = "docker plugin set efs EFS_FILESYSTEM=fs-0123456789abcdef0 EFS_TLS=on EFS_IAM=on EFS_ACCESS_POINT=fsap-0123456789abcdef0 AWS_REGION=eu-central-1\n"
	for template, text := range map[string]string{
		"CloudFormation": at(t, resources, "LaunchTemplate", "Properties", "LaunchTemplateData", "UserData").(string),
		"Terraform": evaluate(t, map[string]any{
			"plugin_source": bundleOnS3, "ecs_cluster": "web", "settings": map[string]string{"EFS_ACCESS_POINT": "fsap-0123456789abcdef0"},
		})["user_data"],
	} {
		if !strings.HasPrefix(text, "#!/bin/sh\n") || !strings.HasSuffix(text, string(read(t, userData))) {
			t.Errorf("%s: it is not a script that ends with %s", template, userData)
		}
		// EC2's limit, before base64.
		if len(text) > 16<<10 {
			t.Errorf("%s: %d bytes are too many", template, len(text))
		}
		i := newInstance(t, map[string]string{"engine": "", "bundle": bundle(t, "config.json", "rootfs/docker-volume-efs"), "user-data": text})
		out, well := i.run(filepath.Join(i.state, "user-data"))
		if !well || !strings.Contains(i.has("calls"), sets) || !strings.Contains(i.has("calls"), bundleOnS3) || i.has("ecs.config") != "ECS_CLUSTER=web\n" {
			t.Errorf("%s:\n%s\n%s", template, out, i.has("calls"))
		}
	}
}
