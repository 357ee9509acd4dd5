package deploy_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/awslabs/goformation/v4/schema"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

const cloudFormation = "aws/cloudformation.yaml"

var update = flag.Bool("update", false, "write user-data.sh into the CloudFormation template")

// What stacks are made for in these tests.
const (
	account     = "123456789012"
	fileSystem  = "fs-0123456789abcdef0"
	arnOfFS     = "arn:aws:elasticfilesystem:" + region + ":" + account + ":file-system/" + fileSystem
	arnOfRole   = "arn:aws:iam::" + account + ":role/instances"
	arnOfBundle = "arn:aws:s3:::plugins.example.com/efs-amd64.tar.gz"
)

// What CloudFormation would put in for resources, where it matters; elsewhere the
// name of the resource does.
var made = map[string]string{
	"FileSystem": fileSystem, "FileSystem.Arn": arnOfFS, "Role.Arn": arnOfRole,
}

// whole is a stack of everything.
func whole() map[string]string {
	return map[string]string{
		"SubnetB": "subnet-b", "SubnetC": "subnet-c", "PluginSource": bundleOnS3, "AccessPoint": "fsap-0123456789abcdef0",
		"CreateAccessPoints": "true", "EcsCluster": "web", "Swarm": "true",
	}
}

// stack is a template with its parameters' values.
type stack struct {
	template   map[string]any
	parameters map[string]any
	used       map[string]bool // parameters, conditions
}

// plain turns YAML's short forms, as !Ref, into the long ones.
func plain(node *yaml.Node) (any, error) {
	var value any
	switch node.Kind {
	case yaml.DocumentNode:
		return plain(node.Content[0])
	case yaml.MappingNode:
		object := map[string]any{}
		for i := 0; i < len(node.Content); i += 2 {
			name := node.Content[i].Value
			one, err := plain(node.Content[i+1])
			if err != nil {
				return nil, err
			}
			if _, twice := object[name]; twice {
				return nil, fmt.Errorf("line %d: %s is there twice", node.Content[i].Line, name)
			}
			object[name] = one
		}
		value = object
	case yaml.SequenceNode:
		list := []any{}
		for _, item := range node.Content {
			one, err := plain(item)
			if err != nil {
				return nil, err
			}
			list = append(list, one)
		}
		value = list
	case yaml.ScalarNode:
		if strings.HasPrefix(node.Tag, "!!") {
			return value, node.Decode(&value)
		}
		value = node.Value
	default:
		return nil, fmt.Errorf("line %d: CloudFormation has no aliases", node.Line)
	}
	switch tag := node.Tag; {
	case strings.HasPrefix(tag, "!!"):
		return value, nil
	case tag == "!Ref", tag == "!Condition":
		return map[string]any{tag[1:]: value}, nil
	case tag == "!GetAtt":
		name, attribute, _ := strings.Cut(node.Value, ".")
		return map[string]any{"Fn::GetAtt": []any{name, attribute}}, nil
	default:
		return map[string]any{"Fn::" + tag[1:]: value}, nil
	}
}

// newStack reads a template; parameters that are not given have their defaults.
func newStack(text []byte, parameters map[string]string) (*stack, error) {
	var node yaml.Node
	if err := yaml.Unmarshal(text, &node); err != nil {
		return nil, err
	}
	template, err := plain(&node)
	if err != nil {
		return nil, err
	}
	s := &stack{template: template.(map[string]any), parameters: map[string]any{}, used: map[string]bool{}}
	for name, parameter := range s.section("Parameters") {
		s.parameters[name] = "value-of-" + name
		if value, given := parameters[name]; given {
			s.parameters[name] = value
		} else if value, has := parameter.(map[string]any)["Default"]; has {
			s.parameters[name] = fmt.Sprint(value)
		}
	}
	for name := range parameters {
		if _, known := s.parameters[name]; !known {
			return nil, fmt.Errorf("no parameter %s", name)
		}
	}
	return s, nil
}

func (s *stack) section(name string) map[string]any {
	section, _ := s.template[name].(map[string]any)
	return section
}

// resources are those that the stack has, without intrinsic functions.
func (s *stack) resources() (all map[string]any, err error) {
	defer caught(&err)
	all = map[string]any{}
	for name, resource := range s.section("Resources") {
		if s.exists(name) {
			one := maps.Clone(resource.(map[string]any))
			delete(one, "Condition")
			all[name] = s.value(one)
		}
	}
	s.value(s.section("Outputs"))
	return all, nil
}

// wrong carries an error out of the recursion.
type wrong struct{ error }

func caught(err *error) {
	switch thrown := recover().(type) {
	case nil:
	case wrong:
		*err = thrown.error
	default:
		panic(thrown)
	}
}

func throw(format string, args ...any) { panic(wrong{fmt.Errorf(format, args...)}) }

// schemas of resources come from AWS's own specification. It is of 2021: what is newer,
// cfn-lint knows (make provisioning).
func schemas() (*jsonschema.Compiler, error) {
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(schema.CloudformationSchema))
	if err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	return compiler, compiler.AddResource("cfn.json", document)
}

// check is what CloudFormation would say about a template.
func check(compiler *jsonschema.Compiler, text []byte, parameters map[string]string) error {
	s, err := newStack(text, parameters)
	if err != nil {
		return err
	}
	resources, err := s.resources()
	if err != nil {
		return err
	}
	var all []error
	for name := range s.template {
		if !slices.Contains([]string{"AWSTemplateFormatVersion", "Description", "Parameters", "Conditions", "Resources", "Outputs"}, name) {
			all = append(all, fmt.Errorf("no section %s", name))
		}
	}
	for name, resource := range resources {
		kind := fmt.Sprint(resource.(map[string]any)["Type"])
		rules, err := compiler.Compile("cfn.json#/definitions/" + kind)
		if err != nil {
			all = append(all, fmt.Errorf("%s: no such type: %s", name, kind))
		} else if err := rules.Validate(resource); err != nil {
			all = append(all, fmt.Errorf("%s: %w", name, err))
		}
	}
	for _, section := range []string{"Parameters", "Conditions"} {
		for name := range s.section(section) {
			if !s.used[name] {
				all = append(all, fmt.Errorf("%s is not used", name))
			}
		}
	}
	return errors.Join(all...)
}

func TestCloudFormationTakesTheTemplate(t *testing.T) {
	text := read(t, cloudFormation)
	compiler, err := schemas()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name       string
		parameters map[string]string
	}{
		{"one zone, from a registry", map[string]string{"PluginSource": "registry.example.com/efs:1"}},
		{"everything", whole()},
	} {
		if err := check(compiler, text, row.parameters); err != nil {
			t.Errorf("%s: %v", row.name, err)
		}
	}
	for _, row := range []struct{ name, old, new, want string }{
		{"a property that is none", "Encrypted: true", "Encryption: true", "'Encryption' not allowed"},
		{"a value of another type", "Encrypted: true", "Encrypted: [1]", "want boolean"},
		{"a required property is missing", "      SubnetId: !Ref SubnetA\n", "", "missing property 'SubnetId'"},
		{"a type that is none", "AWS::EFS::MountTarget", "AWS::EFS::MountTargets", "no such type"},
		{"a reference to nothing", "!GetAtt Role.Arn", "!GetAtt Roles.Arn", "Roles"},
		{"a reference to what this stack has not", "Value: !Ref MountTargetGroup", "Value: !Ref MountTargetB", "MountTargetB"},
		{"a condition that is none", "Condition: HasSubnetB", "Condition: HasSubnetD", "HasSubnetD"},
		{"a function that is none", "!Sub ec2", "!Subst ec2", "Fn::Subst"},
		{"a variable that is none", "${EcsCluster}", "${Cluster}", "Cluster"},
		{"a parameter that nobody uses", "Parameters:\n", "Parameters:\n  Unused:\n    Type: String\n", "Unused is not used"},
		{"a section that is none", "Outputs:\n", "Output:\n", "no section Output"},
		{"a dependency on nothing", "DependsOn: [MountTargetA", "DependsOn: [MountTarget", "MountTarget"},
		{"a key twice", "    Type: AWS::EC2::VPC::Id\n", "    Type: AWS::EC2::VPC::Id\n    Type: String\n", "Type is there twice"},
	} {
		broken := strings.Replace(string(text), row.old, row.new, 1)
		err := check(compiler, []byte(broken), map[string]string{"PluginSource": "registry.example.com/efs:1"})
		if broken == string(text) || err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
	}
}

// The user data is one file. CloudFormation cannot read it in, so it is written in.
func TestCloudFormationHasTheUserDataOfTheFile(t *testing.T) {
	script := string(read(t, userData))
	var block strings.Builder
	for line := range strings.Lines(script) {
		if line != "\n" {
			block.WriteString(strings.Repeat(" ", 18))
		}
		block.WriteString(line)
	}
	text := string(read(t, cloudFormation))
	const before, after = "                - |\n", "\nOutputs:\n"
	start, end := strings.LastIndex(text, before)+len(before), strings.Index(text, after)
	if start < len(before) || end < start {
		t.Fatalf("%s has no place for it", cloudFormation)
	}
	if text[start:end] == block.String() {
		return
	}
	if !*update {
		t.Fatalf("%s has another text than %s: go test ./deploy -update", cloudFormation, userData)
	}
	if err := os.WriteFile(cloudFormation, []byte(text[:start]+block.String()+text[end:]), 0o600); err != nil {
		t.Fatal(err)
	}
}

// at finds a value in what resources gives.
func at(t *testing.T, tree any, path ...string) any {
	t.Helper()
	for _, name := range path {
		object, is := tree.(map[string]any)
		if tree = object[name]; !is || tree == nil {
			t.Fatalf("no %s in %s", name, strings.Join(path, "."))
		}
	}
	return tree
}
