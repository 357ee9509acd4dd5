package deploy_test

import (
	"fmt"
	"regexp"
	"strings"
)

var pseudo = map[string]string{
	"AWS::Region": region, "AWS::AccountId": account, "AWS::Partition": "aws", "AWS::URLSuffix": "amazonaws.com", "AWS::StackName": "volumes",
}

// none is AWS::NoValue: the key or the item that has it is not there.
type none struct{}

// value is a part of the template with its intrinsic functions carried out.
func (s *stack) value(tree any) any {
	switch tree := tree.(type) {
	case map[string]any:
		for name, argument := range tree {
			if len(tree) == 1 && (name == "Ref" || name == "Condition" || strings.HasPrefix(name, "Fn::")) {
				return s.function(name, argument)
			}
		}
		object := map[string]any{}
		for name, one := range tree {
			if one = s.value(one); one != (none{}) {
				object[name] = one
			}
			if name == "DependsOn" {
				for _, on := range tree[name].([]any) {
					s.reference(on.(string))
				}
			}
		}
		return object
	case []any:
		list := []any{}
		for _, one := range tree {
			if one = s.value(one); one != (none{}) {
				list = append(list, one)
			}
		}
		return list
	}
	return tree
}

func (s *stack) function(name string, argument any) any {
	if name == "Fn::If" {
		// The other branch is not looked at, as it may refer to what is not there.
		branches := argument.([]any)
		if s.condition(branches[0].(string)) {
			return s.value(branches[1])
		}
		return s.value(branches[2])
	}
	argument = s.value(argument)
	list, _ := argument.([]any)
	switch name {
	case "Ref":
		return s.reference(argument.(string))
	case "Condition":
		return s.condition(argument.(string))
	case "Fn::GetAtt":
		s.reference(list[0].(string))
		return of(fmt.Sprintf("%s.%s", list[0], list[1]))
	case "Fn::Sub":
		return s.substitute(argument)
	case "Fn::Join":
		var words []string
		for _, word := range list[1].([]any) {
			words = append(words, word.(string))
		}
		return strings.Join(words, list[0].(string))
	case "Fn::Split":
		var words []any
		for word := range strings.SplitSeq(list[1].(string), list[0].(string)) {
			words = append(words, word)
		}
		return words
	case "Fn::Select":
		if words := list[1].([]any); list[0].(int) < len(words) {
			return words[list[0].(int)]
		}
		throw("Fn::Select: %v", argument)
	case "Fn::Equals":
		return list[0] == list[1]
	case "Fn::Not":
		return !list[0].(bool)
	case "Fn::Base64":
		return argument
	}
	throw("no function %s", name)
	return nil
}

func (s *stack) condition(name string) bool {
	condition, is := s.section("Conditions")[name]
	if !is {
		throw("no condition %s", name)
	}
	s.used[name] = true
	return s.value(condition).(bool)
}

// exists tells whether the stack has a resource.
func (s *stack) exists(name string) bool {
	resource, is := s.section("Resources")[name].(map[string]any)
	if !is {
		return false
	}
	condition, has := resource["Condition"]
	return !has || s.condition(condition.(string))
}

func (s *stack) reference(name string) any {
	if value, is := s.parameters[name]; is {
		s.used[name] = true
		return value
	}
	if value, is := pseudo[name]; is {
		return value
	}
	if name == "AWS::NoValue" {
		return none{}
	}
	if !s.exists(name) {
		throw("nothing is called %s in this stack", name)
	}
	return of(name)
}

func of(name string) string {
	if value, is := made[name]; is {
		return value
	}
	return name
}

var variable = regexp.MustCompile(`\$\{([^}!]+)\}`)

func (s *stack) substitute(argument any) string {
	own := map[string]any{}
	text, is := argument.(string)
	if !is {
		text, own = argument.([]any)[0].(string), argument.([]any)[1].(map[string]any)
	}
	return variable.ReplaceAllStringFunc(text, func(found string) string {
		name := found[2 : len(found)-1]
		if value, is := own[name]; is {
			return value.(string)
		}
		return s.reference(name).(string)
	})
}
