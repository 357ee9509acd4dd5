package deploy_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/tryfunc"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/hashicorp/terraform-config-inspect/tfconfig"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

const terraform = "aws/terraform"

// module is the Terraform module as its language sees it. What the provider's resources
// take, terraform validate knows (make provisioning).
type module struct {
	config *tfconfig.Module
	bodies []*hclsyntax.Body
}

func load(dir string) (*module, error) {
	config, problems := tfconfig.LoadModule(dir)
	if problems.HasErrors() {
		return nil, problems
	}
	m := &module{config: config}
	files, err := filepath.Glob(filepath.Join(dir, "*.tf"))
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		file, problems := hclsyntax.ParseConfig(text, filepath.Base(name), hcl.InitialPos)
		if problems.HasErrors() {
			return nil, problems
		}
		m.bodies = append(m.bodies, file.Body.(*hclsyntax.Body))
		if string(hclwrite.Format(text)) != string(text) {
			return nil, fmt.Errorf("%s is not as terraform fmt has it", name)
		}
	}
	return m, nil
}

// locals are the module's local values, not yet evaluated.
func (m *module) locals() map[string]hclsyntax.Expression {
	all := map[string]hclsyntax.Expression{}
	for _, body := range m.bodies {
		for _, block := range body.Blocks {
			if block.Type == "locals" {
				for name, attribute := range block.Body.Attributes {
					all[name] = attribute.Expr
				}
			}
		}
	}
	return all
}

// references looks whether everything that is named is there, and everything that is
// there is named.
func (m *module) references() error {
	locals := m.locals()
	unused := map[string]bool{}
	for name := range m.config.Variables {
		unused["var."+name] = true
	}
	for name := range locals {
		unused["local."+name] = true
	}
	var all []error
	for _, body := range m.bodies {
		problems := hclsyntax.VisitAll(body, func(node hclsyntax.Node) hcl.Diagnostics {
			expression, is := node.(*hclsyntax.ScopeTraversalExpr)
			if !is {
				return nil
			}
			words := []string{expression.Traversal.RootName()}
			for _, step := range expression.Traversal[1:] {
				if attribute, is := step.(hcl.TraverseAttr); is {
					words = append(words, attribute.Name)
				}
			}
			name := strings.Join(words[:min(2, len(words))], ".")
			known := false
			switch words[0] {
			case "var":
				_, known = m.config.Variables[words[1]]
			case "local":
				_, known = locals[words[1]]
			case "data":
				name = strings.Join(words[:3], ".")
				_, known = m.config.DataResources[name]
			case "each", "path":
				known = true
			default:
				_, known = m.config.ManagedResources[name]
			}
			// A for expression's own names, and the keywords of validation blocks.
			if !known && strings.HasPrefix(words[0], "aws_") || !known && slices.Contains([]string{"var", "local", "data"}, words[0]) {
				all = append(all, fmt.Errorf("%s: nothing is called %s", expression.Range(), name))
			}
			delete(unused, name)
			return nil
		})
		if problems.HasErrors() {
			all = append(all, problems)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(unused)) {
		all = append(all, fmt.Errorf("%s is not used", name))
	}
	return errors.Join(all...)
}

func TestTerraformsLanguageTakesTheModule(t *testing.T) {
	check := func(dir string) error {
		m, err := load(dir)
		if err != nil {
			return err
		}
		return m.references()
	}
	if err := check(terraform); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ name, file, old, new, want string }{
		{"a brace is missing", "instances.tf", "resource \"aws_iam_instance_profile\" \"instances\" {", "resource \"aws_iam_instance_profile\" \"instances\"", "Invalid block definition"},
		{"a variable that is none", "instances.tf", "var.instance_type", "var.instance_kind", "nothing is called var.instance_kind"},
		{"a variable that nobody uses", "instances.tf", "var.instance_type", `"t3.small"`, "var.instance_type is not used"},
		{"a local value that is none", "file-system.tf", "local.file_system_policy", "local.policy", "nothing is called local.policy"},
		{"a resource that is none", "file-system.tf", "aws_security_group.instances.id", "aws_security_group.instance.id", "nothing is called aws_security_group.instance"},
		{"a source of data that is none", "instances.tf", "data.aws_ssm_parameter.image", "data.aws_ssm_parameter.ami", "nothing is called data.aws_ssm_parameter.ami"},
		{"a resource twice", "instances.tf", `"aws_iam_role" "instances"`, `"aws_iam_instance_profile" "instances"`, "aws_iam_role.instances"},
		{"a resource without a name", "instances.tf", `"aws_iam_role" "instances"`, `"aws_iam_role"`, "Missing name for resource"},
		{"another form", "outputs.tf", "  value       =", "  value =", "terraform fmt"},
	} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(terraform)); err != nil {
			t.Fatal(err)
		}
		text := string(read(t, filepath.Join(dir, row.file)))
		broken := strings.Replace(text, row.old, row.new, 1)
		if err := os.WriteFile(filepath.Join(dir, row.file), []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := check(dir); broken == text || err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
	}
}

// functions are those of Terraform that the module uses.
func functions(dir string) map[string]function.Function {
	text := func(name string, do func(string) (string, error)) function.Function {
		return function.New(&function.Spec{
			Params: []function.Parameter{{Name: name, Type: cty.String}},
			Type:   function.StaticReturnType(cty.String),
			Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
				value, err := do(args[0].AsString())
				return cty.StringVal(value), err
			},
		})
	}
	return map[string]function.Function{
		"can": tryfunc.CanFunc, "concat": stdlib.ConcatFunc, "join": stdlib.JoinFunc, "jsonencode": stdlib.JSONEncodeFunc, "keys": stdlib.KeysFunc,
		"length": stdlib.LengthFunc, "merge": stdlib.MergeFunc, "regex": stdlib.RegexFunc, "setintersection": stdlib.SetIntersectionFunc, "split": stdlib.SplitFunc,
		"file": text("path", func(name string) (string, error) {
			content, err := os.ReadFile(strings.Replace(name, "MODULE", dir, 1))
			return string(content), err
		}),
		"startswith": function.New(&function.Spec{
			Params: []function.Parameter{{Name: "text", Type: cty.String}, {Name: "prefix", Type: cty.String}},
			Type:   function.StaticReturnType(cty.Bool),
			Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
				return cty.BoolVal(strings.HasPrefix(args[0].AsString(), args[1].AsString())), nil
			},
		}),
		"alltrue": function.New(&function.Spec{
			Params: []function.Parameter{{Name: "list", Type: cty.List(cty.Bool)}},
			Type:   function.StaticReturnType(cty.Bool),
			Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
				for _, one := range args[0].AsValueSlice() {
					if one.False() {
						return cty.False, nil
					}
				}
				return cty.True, nil
			},
		}),
	}
}

// values turns what a test gives into Terraform's values.
func values(given map[string]any) map[string]cty.Value {
	all := map[string]cty.Value{}
	for name, value := range given {
		switch value := value.(type) {
		case string:
			all[name] = cty.StringVal(value)
		case bool:
			all[name] = cty.BoolVal(value)
		case map[string]string:
			all[name] = cty.MapValEmpty(cty.String)
			if len(value) > 0 {
				texts := map[string]cty.Value{}
				for key, text := range value {
					texts[key] = cty.StringVal(text)
				}
				all[name] = cty.MapVal(texts)
			}
		case map[string]any:
			all[name] = cty.ObjectVal(values(value))
		}
	}
	return all
}

func scope(variables map[string]any) *hcl.EvalContext {
	all := map[string]any{
		"name": "volumes", "plugin_source": "registry.example.com/efs:1", "plugin_sha256": "", "settings": map[string]string{},
		"ecs_cluster": "", "create_access_points": false, "swarm": false, "subnets": map[string]string{"eu-central-1a": "subnet-a"},
	}
	maps.Copy(all, variables)
	return &hcl.EvalContext{
		Functions: functions(terraform),
		Variables: values(map[string]any{
			"var": all, "local": map[string]any{}, "path": map[string]any{"module": "MODULE"},
			"aws_efs_file_system": map[string]any{"this": map[string]any{"id": fileSystem, "arn": arnOfFS}},
			"aws_iam_role":        map[string]any{"instances": map[string]any{"arn": arnOfRole}},
			"data": map[string]any{
				"aws_partition":       map[string]any{"current": map[string]any{"partition": "aws"}},
				"aws_region":          map[string]any{"current": map[string]any{"id": region}},
				"aws_caller_identity": map[string]any{"current": map[string]any{"account_id": account}},
			},
		}),
	}
}

// evaluate gives the module's local values that are text.
func evaluate(t *testing.T, variables map[string]any) map[string]string {
	t.Helper()
	m, err := load(terraform)
	if err != nil {
		t.Fatal(err)
	}
	in := scope(variables)
	todo, done := m.locals(), map[string]cty.Value{}
	for len(todo) > 0 {
		before, last := len(todo), error(nil)
		for name, expression := range todo {
			value, problems := expression.Value(in)
			if problems.HasErrors() {
				last = problems // perhaps another one must come first
				continue
			}
			done[name] = value
			delete(todo, name)
			in.Variables["local"] = cty.ObjectVal(done)
		}
		if len(todo) == before {
			t.Fatal(last)
		}
	}
	texts := map[string]string{}
	for name, value := range done {
		if value.Type() == cty.String {
			texts[name] = value.AsString()
		}
	}
	return texts
}

func TestTerraformRefusesVariablesThatWouldNotWork(t *testing.T) {
	m, err := load(terraform)
	if err != nil {
		t.Fatal(err)
	}
	// refused tells whether a validation of the variable says no.
	refused := func(name string, value any) bool {
		for _, body := range m.bodies {
			for _, block := range body.Blocks {
				if block.Type != "variable" || block.Labels[0] != name {
					continue
				}
				for _, rule := range block.Body.Blocks {
					holds, problems := rule.Body.Attributes["condition"].Expr.Value(scope(map[string]any{name: value}))
					if problems.HasErrors() {
						t.Fatal(problems)
					}
					if holds.False() {
						return true
					}
				}
			}
		}
		return false
	}
	for _, row := range []struct {
		name  string
		value any
		want  bool
	}{
		{"plugin_source", bundleOnS3, false},
		{"plugin_source", "x'; reboot; '", true},
		{"plugin_source", "", true},
		{"plugin_sha256", strings.Repeat("0f", 32), false},
		{"plugin_sha256", "0f", true},
		{"ecs_cluster", "web", false},
		{"ecs_cluster", "web'", true},
		{"subnets", map[string]string{}, true},
		{"settings", map[string]string{"EFS_REMOVE": "keep", "EFS_ROOT": "/prod"}, false},
		{"settings", map[string]string{"EFS_REMOVE": "keep'"}, true},
		{"settings", map[string]string{"PATH": "/tmp"}, true},
		{"settings", map[string]string{"EFS_TLS": "off"}, true},
	} {
		if got := refused(row.name, row.value); got != row.want {
			t.Errorf("%s = %q: refused %v", row.name, row.value, got)
		}
	}
}
