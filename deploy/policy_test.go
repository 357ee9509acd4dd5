package deploy_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/efs"
)

// document is an IAM policy: what is not in here, the project's policies do not need.
type document struct {
	Version   string
	Statement []statement
}

type statement struct {
	Sid, Effect      string
	Principal        map[string]string
	Action, Resource words
	Condition        map[string]map[string]string
}

// words are one or a list.
type words []string

func (w *words) UnmarshalJSON(text []byte) error {
	var one string
	if err := json.Unmarshal(text, &one); err == nil {
		*w = words{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(w))
}

// request is what EFS, or another service, asks IAM about.
type request struct {
	who, action, resource string
	tls, mountTarget      bool
	tagged                bool // the access point has the plugin's tag
}

func (s statement) matches(ask request) bool {
	known := map[string]string{
		"aws:SecureTransport":                      truth(ask.tls),
		"elasticfilesystem:AccessedViaMountTarget": truth(ask.mountTarget),
		ownTag: truth(!ask.tagged), // by Null
	}
	for _, conditions := range s.Condition {
		for name, want := range conditions {
			if known[name] != want {
				return false
			}
		}
	}
	who, named := s.Principal["AWS"]
	return (!named || who == "*" || who == ask.who) &&
		(slices.Contains(s.Action, "*") || slices.Contains(s.Action, ask.action)) &&
		(s.Resource == nil || slices.ContainsFunc(s.Resource, func(resource string) bool {
			prefix, all := strings.CutSuffix(resource, "*")
			return resource == ask.resource || all && strings.HasPrefix(ask.resource, prefix)
		}))
}

func truth(is bool) string {
	if is {
		return "true"
	}
	return "false"
}

// policies are a file system's and its instances'.
type policies struct{ fileSystem, instances document }

// allow is IAM's rule within one account: a denial wins, else one permission is enough.
func (p policies) allow(ask request) bool {
	statements := p.fileSystem.Statement
	if ask.resource != arnOfFS {
		statements = nil
	}
	if ask.who == arnOfRole {
		statements = append(slices.Clone(statements), p.instances.Statement...)
	}
	allowed := false
	for _, one := range statements {
		if one.matches(ask) {
			if one.Effect == "Deny" {
				return false
			}
			allowed = true
		}
	}
	return allowed
}

// ownTag is on what the plugin made.
const ownTag = "aws:ResourceTag/docker-volume-efs"

// dataPlane are the actions that are asked about at a mount and are no calls.
var dataPlane = []string{"ClientMount", "ClientWrite", "ClientRootAccess"}

// decode reads a policy and looks at its words.
func decode(t *testing.T, tree any) document {
	t.Helper()
	text, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	return decodeText(t, text)
}

func decodeText(t *testing.T, text []byte) document {
	t.Helper()
	var policy document
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&policy); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, complaint := range complaints(policy) {
		t.Error(complaint)
	}
	return policy
}

func complaints(policy document) (all []string) {
	if policy.Version != "2012-10-17" || len(policy.Statement) == 0 {
		all = append(all, "no policy of the language of 2012")
	}
	calls := reflect.TypeFor[*efs.Client]()
	for _, one := range policy.Statement {
		say := func(what string) { all = append(all, one.Sid+": "+what) }
		if one.Effect != "Allow" && one.Effect != "Deny" {
			say("effect " + one.Effect)
		}
		if !regexp.MustCompile(`^[A-Za-z0-9]+$`).MatchString(one.Sid) {
			say("a Sid is letters and digits")
		}
		for _, action := range one.Action {
			name, ofEFS := strings.CutPrefix(action, "elasticfilesystem:")
			_, call := calls.MethodByName(name)
			if !(ofEFS && (call || slices.Contains(dataPlane, name))) && action != "s3:GetObject" && !(action == "*" && one.Effect == "Deny") {
				say("no action " + action)
			}
		}
		for operator, conditions := range one.Condition {
			if _, tag := conditions[ownTag]; !slices.Contains([]string{"Bool", "StringEquals", "Null"}, operator) || tag != (operator == "Null") {
				say("these tests do not know " + operator)
			}
			for name := range conditions {
				if !slices.Contains([]string{"aws:SecureTransport", "elasticfilesystem:AccessedViaMountTarget", "elasticfilesystem:CreateAction", ownTag}, name) {
					say("no condition key " + name)
				}
			}
		}
	}
	return all
}

func ofCloudFormation(t *testing.T, parameters map[string]string) policies {
	t.Helper()
	s, err := newStack(read(t, cloudFormation), parameters)
	if err != nil {
		t.Fatal(err)
	}
	resources, err := s.resources()
	if err != nil {
		t.Fatal(err)
	}
	return policies{
		decode(t, at(t, resources, "FileSystem", "Properties", "FileSystemPolicy")),
		decode(t, at(t, resources, "VolumePolicy", "Properties", "PolicyDocument")),
	}
}

func ofTerraform(t *testing.T, variables map[string]any) policies {
	t.Helper()
	locals := evaluate(t, variables)
	return policies{decodeText(t, []byte(locals["file_system_policy"])), decodeText(t, []byte(locals["volume_policy"]))}
}

func TestPoliciesLetInWhoTheyShould(t *testing.T) {
	const (
		stranger = "arn:aws:iam::123456789012:role/other"
		point    = "arn:aws:elasticfilesystem:eu-central-1:123456789012:access-point/fsap-1"
	)
	plain := map[string]policies{
		"CloudFormation": ofCloudFormation(t, map[string]string{"PluginSource": bundleOnS3}),
		"Terraform":      ofTerraform(t, map[string]any{"plugin_source": bundleOnS3}),
	}
	creating := map[string]policies{
		"CloudFormation": ofCloudFormation(t, whole()),
		"Terraform":      ofTerraform(t, map[string]any{"plugin_source": bundleOnS3, "create_access_points": true}),
	}
	for _, row := range []struct {
		name string
		of   map[string]policies
		ask  request
		want bool
	}{
		{"an instance mounts through TLS", plain, request{arnOfRole, "elasticfilesystem:ClientMount", arnOfFS, true, true, false}, true},
		{"an instance writes", plain, request{arnOfRole, "elasticfilesystem:ClientWrite", arnOfFS, true, true, false}, true},
		{"an instance is root", plain, request{arnOfRole, "elasticfilesystem:ClientRootAccess", arnOfFS, true, true, false}, true},
		{"an instance does not mount in the clear", plain, request{arnOfRole, "elasticfilesystem:ClientMount", arnOfFS, false, true, false}, false},
		{"an instance does not come by another way than a mount target", plain, request{arnOfRole, "elasticfilesystem:ClientMount", arnOfFS, true, false, false}, false},
		{"a client without IAM does not mount, also through TLS", plain, request{"", "elasticfilesystem:ClientMount", arnOfFS, true, true, false}, false},
		{"another role does not mount", plain, request{stranger, "elasticfilesystem:ClientMount", arnOfFS, true, true, false}, false},
		{"an instance asks for mount targets", plain, request{arnOfRole, "elasticfilesystem:DescribeMountTargets", arnOfFS, true, false, false}, true},
		{"an instance does not delete the file system", plain, request{arnOfRole, "elasticfilesystem:DeleteFileSystem", arnOfFS, true, false, false}, false},
		{"an instance does not change the policy", plain, request{arnOfRole, "elasticfilesystem:PutFileSystemPolicy", arnOfFS, true, false, false}, false},
		{"an instance fetches the bundle", plain, request{arnOfRole, "s3:GetObject", arnOfBundle, true, false, false}, true},
		{"an instance fetches nothing else", plain, request{arnOfRole, "s3:GetObject", arnOfBundle + ".bak", true, false, false}, false},
		{"an instance makes no access points", plain, request{arnOfRole, "elasticfilesystem:CreateAccessPoint", arnOfFS, true, false, false}, false},
		{"unless it was told to", creating, request{arnOfRole, "elasticfilesystem:CreateAccessPoint", arnOfFS, true, false, false}, true},
		{"and removes them", creating, request{arnOfRole, "elasticfilesystem:DeleteAccessPoint", point, true, false, true}, true},
		{"but not those that others have made", creating, request{arnOfRole, "elasticfilesystem:DeleteAccessPoint", point, true, false, false}, false},
	} {
		for template, policy := range row.of {
			if got := policy.allow(row.ask); got != row.want {
				t.Errorf("%s: %s: %v", template, row.name, got)
			}
		}
	}
	for _, row := range []map[string]policies{plain, creating} {
		if !reflect.DeepEqual(row["CloudFormation"], row["Terraform"]) {
			t.Errorf("the templates differ:\n%+v\n%+v", row["CloudFormation"], row["Terraform"])
		}
	}
	// The page shows what instances need, with and without access points of their own.
	for page, want := range map[string]document{"FindMountTargets": plain["Terraform"].instances, "MakeAccessPoints": creating["Terraform"].instances, "NothingInTheClear": plain["Terraform"].fileSystem} {
		shown := decodeText(t, []byte(block(t, "../docs/aws.md", page)))
		for _, one := range shown.Statement {
			if !slices.ContainsFunc(want.Statement, func(have statement) bool { return reflect.DeepEqual(have, one) }) {
				t.Errorf("docs/aws.md shows %+v, which the templates have not", one)
			}
		}
	}
}

func TestPoliciesAreLookedAt(t *testing.T) {
	good := statement{Sid: "Good", Effect: "Allow", Action: words{"elasticfilesystem:ClientMount"}}
	for _, row := range []struct {
		name string
		ruin func(*document)
	}{
		{"an action that is none", func(d *document) { d.Statement[0].Action = words{"elasticfilesystem:ClientRoot"} }},
		{"everything allowed", func(d *document) { d.Statement[0].Action = words{"*"} }},
		{"an effect that is none", func(d *document) { d.Statement[0].Effect = "allow" }},
		{"another language", func(d *document) { d.Version = "2008-10-17" }},
		{"a condition key that is none", func(d *document) {
			d.Statement[0].Condition = map[string]map[string]string{"Bool": {"aws:SecureTransports": "true"}}
		}},
	} {
		policy := document{"2012-10-17", []statement{good}}
		if all := complaints(policy); all != nil {
			t.Fatal(all)
		}
		if row.ruin(&policy); complaints(policy) == nil {
			t.Errorf("%s: not seen", row.name)
		}
	}
}

// block is a page's code block that contains a text.
func block(t *testing.T, page, contains string) string {
	t.Helper()
	for _, found := range regexp.MustCompile("(?ms)^```[a-z]*\n(.*?)^```$").FindAllStringSubmatch(string(read(t, page)), -1) {
		if strings.Contains(found[1], contains) {
			return found[1]
		}
	}
	t.Fatalf("%s has no block with %s", page, contains)
	return ""
}
