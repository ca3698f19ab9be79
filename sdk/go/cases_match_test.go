package agentrouter

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// texts are the variables of a scenario.
type texts map[string]string

var variable = regexp.MustCompile(`\$\{([^}]*)\}`)

// resolve puts the variables into a JSON value and makes the texts that `$` objects describe.
func (v texts) resolve(value any) (any, error) {
	switch value := value.(type) {
	case string:
		var unknown error
		text := variable.ReplaceAllStringFunc(value, func(name string) string {
			text, ok := v[name[2:len(name)-1]]
			if !ok {
				unknown = fmt.Errorf("there is no variable %s", name)
			}
			return text
		})
		return text, unknown
	case []any:
		out := make([]any, len(value))
		for i, element := range value {
			var err error
			if out[i], err = v.resolve(element); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		return v.resolveObject(value)
	}
	return value, nil
}

func (v texts) resolveObject(object map[string]any) (any, error) {
	out := map[string]any{}
	for key, element := range object {
		resolved, err := v.resolve(element)
		if err != nil {
			return nil, err
		}
		out[key] = resolved
	}
	text, made := "", false
	if pair, ok := out["$repeat"].([]any); ok && len(pair) == 2 {
		part, isText := pair[0].(string)
		count, isNumber := pair[1].(float64)
		if !isText || !isNumber {
			return nil, fmt.Errorf("$repeat takes a text and a number")
		}
		text, made = strings.Repeat(part, int(count)), true
		delete(out, "$repeat")
	}
	if parts, ok := out["$concat"].([]any); ok {
		for _, part := range parts {
			part, isText := part.(string)
			if !isText {
				return nil, fmt.Errorf("$concat takes texts")
			}
			text += part
		}
		made = true
		delete(out, "$concat")
	}
	switch {
	case made && len(out) == 0:
		return text, nil
	case made:
		// In a pattern, a text may have rules beside it.
		out["$exact"] = text
	}
	return out, nil
}

// match tells how value differs from pattern; nil if it does not.
func match(path string, pattern, value any) error {
	switch pattern := pattern.(type) {
	case map[string]any:
		rules, err := matchRules(path, pattern, value)
		if rules || err != nil {
			return err
		}
		object, ok := value.(map[string]any)
		if !ok {
			return fmt.Errorf("%s: not an object", path)
		}
		for _, key := range slices.Sorted(maps.Keys(pattern)) {
			if err := match(path+"."+key, pattern[key], object[key]); err != nil {
				return err
			}
		}
		return nil
	case []any:
		array, ok := value.([]any)
		if !ok || len(array) != len(pattern) {
			return fmt.Errorf("%s: %d elements, not %d", path, len(array), len(pattern))
		}
		for i := range pattern {
			if err := match(fmt.Sprintf("%s[%d]", path, i), pattern[i], array[i]); err != nil {
				return err
			}
		}
		return nil
	}
	if !reflect.DeepEqual(pattern, value) {
		return fmt.Errorf("%s: %.80q, not %.80q", path, fmt.Sprint(value), fmt.Sprint(pattern))
	}
	return nil
}

// matchRules applies the `$` rules of a pattern; whether it has any.
func matchRules(path string, pattern map[string]any, value any) (found bool, err error) {
	for key, rule := range pattern {
		if !strings.HasPrefix(key, "$") {
			continue
		}
		found = true
		holds := false
		switch key {
		case "$absent":
			holds = value == nil
		case "$exact":
			holds = reflect.DeepEqual(rule, value)
		case "$matches":
			text, ok := value.(string)
			holds = ok && regexp.MustCompile("^(?:"+rule.(string)+")$").MatchString(text)
		case "$length":
			switch value := value.(type) {
			case string:
				holds = float64(len(value)) == rule
			case []any:
				holds = float64(len(value)) == rule
			}
		case "$each":
			array, ok := value.([]any)
			for i, element := range array {
				if err := match(fmt.Sprintf("%s[%d]", path, i), rule, element); err != nil {
					return true, err
				}
			}
			holds = ok
		}
		if !holds {
			return true, fmt.Errorf("%s: %.80q breaks or does not know %s %.80q", path, fmt.Sprint(value), key, fmt.Sprint(rule))
		}
	}
	if found && slices.ContainsFunc(slices.Collect(maps.Keys(pattern)), func(key string) bool { return !strings.HasPrefix(key, "$") }) {
		return true, fmt.Errorf("%s: rules and keys in one object", path)
	}
	return found, nil
}

func TestTheRulesOfTheCasesCanFail(t *testing.T) {
	type object = map[string]any
	value := object{"a": "xyz", "list": []any{object{"n": 1.0}, object{"n": 2.0}}, "tags": object{"k": "v"}, "nothing": nil}
	for _, pattern := range []any{
		object{}, object{"a": "xyz"}, object{"a": object{"$length": 3.0, "$matches": "x.z"}}, object{"b": object{"$absent": true}},
		object{"nothing": object{"$absent": true}}, object{"list": []any{object{}, object{"n": 2.0}}}, object{"tags": object{}},
		object{"list": object{"$length": 2.0, "$each": object{"n": object{"$matches": "."}}}}, object{"tags": object{"$exact": object{"k": "v"}}},
	} {
		err := match("value", pattern, value)
		if fmt.Sprint(pattern) == fmt.Sprint(object{"list": object{"$length": 2.0, "$each": object{"n": object{"$matches": "."}}}}) {
			if err == nil {
				t.Error("a number matches as a text")
			}
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", pattern, err)
		}
	}
	for _, pattern := range []any{
		object{"a": "xy"}, object{"b": "x"}, object{"a": object{"$absent": true}}, object{"a": object{"$matches": "x"}}, object{"list": []any{}},
		object{"a": object{"$length": 4.0}}, object{"list": object{"$each": object{"n": 1.0}}}, object{"tags": object{"$exact": object{}}},
		object{"a": object{"$nonsense": true}}, object{"tags": object{"$length": 1.0, "k": "v"}}, "xyz",
	} {
		if match("value", pattern, value) == nil {
			t.Errorf("%v matches", pattern)
		}
	}
	if _, err := (texts{"run": "r"}).resolve(object{"a": "${run}-${other}"}); err == nil {
		t.Error("an unknown variable is passed over")
	}
	made, err := (texts{"run": "r"}).resolve(object{"$concat": []any{"${run}", object{"$repeat": []any{"ab", 2.0}}}})
	if err != nil || made != "rabab" {
		t.Errorf("%v, %v", made, err)
	}
}
