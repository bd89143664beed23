package schema

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
)

// Decode decodes a JSON object that passed Check into the struct that into
// points to, by the config tags. It reports what only the Go type knows, such as
// a fraction where an integer is wanted. A block that is absent leaves a pointer
// nil; a struct gets its defaults.
func Decode(config []byte, into any) Diagnostics {
	target := reflect.ValueOf(into)
	if target.Kind() != reflect.Pointer || target.IsNil() || target.Elem().Kind() != reflect.Struct {
		return Diagnostics{Errorf(nil, "decoding into %T: want a pointer to a struct", into)}
	}
	value, err := parse(config)
	if err != nil {
		return Diagnostics{Errorf(nil, "the configuration is not JSON: %v", err)}
	}
	object, ok := value.(map[string]any)
	if !ok {
		return Diagnostics{Errorf(nil, "want an object, have %s", nameOf(value))}
	}
	d := decoder{}
	d.body(nil, object, target.Elem())
	return d.diagnostics
}

type decoder struct{ diagnostics Diagnostics }

func (d *decoder) body(at Path, object map[string]any, into reflect.Value) {
	fields, err := fieldsOf(into.Type())
	if err != nil {
		d.diagnostics = append(d.diagnostics, Errorf(at, "%v", err))
		return
	}
	for _, f := range fields {
		value, target, path := object[f.name], into.FieldByIndex(f.index), at.Attribute(f.name)
		if f.block != nil {
			d.block(path, f, value, target)
			continue
		}
		if value == nil {
			value = d.defaultOf(path, f)
		}
		if value != nil {
			d.set(path, value, target)
		}
	}
}

// defaultOf is for absent blocks, which Check does not fill.
func (d *decoder) defaultOf(at Path, f field) any {
	text, ok := f.tag.Lookup("default")
	if !ok {
		return nil
	}
	expression, k, _, err := typeOf(f.typ)
	if err == nil {
		var encoded []byte
		if encoded, err = defaultJSON(text, expression, k); err == nil {
			var value any
			if value, err = parse(encoded); err == nil {
				return value
			}
		}
	}
	d.diagnostics = append(d.diagnostics, Errorf(at, "default: %v", err))
	return nil
}

func (d *decoder) block(at Path, f field, value any, target reflect.Value) {
	if f.repeated {
		list, _ := value.([]any)
		slice := reflect.MakeSlice(target.Type(), len(list), len(list))
		for i, one := range list {
			object, _ := one.(map[string]any)
			d.body(at.Index(i), object, deref(slice.Index(i)))
		}
		if value != nil {
			target.Set(slice)
		}
		return
	}
	object, given := value.(map[string]any)
	if !given && target.Kind() == reflect.Pointer {
		return
	}
	d.body(at, object, deref(target))
}

// deref makes what a pointer points to.
func deref(v reflect.Value) reflect.Value {
	if v.Kind() != reflect.Pointer {
		return v
	}
	v.Set(reflect.New(v.Type().Elem()))
	return v.Elem()
}

func (d *decoder) set(at Path, value any, target reflect.Value) {
	switch target.Kind() {
	case reflect.Pointer:
		d.set(at, value, deref(target))
	case reflect.Slice:
		list, ok := value.([]any)
		if !ok {
			d.wrong(at, value, target)
			return
		}
		slice := reflect.MakeSlice(target.Type(), len(list), len(list))
		for i, element := range list {
			d.set(at.Index(i), element, slice.Index(i))
		}
		target.Set(slice)
	case reflect.Map:
		object, ok := value.(map[string]any)
		if !ok {
			d.wrong(at, value, target)
			return
		}
		result := reflect.MakeMapWithSize(target.Type(), len(object))
		for _, key := range slices.Sorted(maps.Keys(object)) {
			element := reflect.New(target.Type().Elem()).Elem()
			d.set(at.Key(key), object[key], element)
			result.SetMapIndex(reflect.ValueOf(key).Convert(target.Type().Key()), element)
		}
		target.Set(result)
	default:
		d.scalar(at, value, target)
	}
}

func (d *decoder) scalar(at Path, value any, target reflect.Value) {
	switch v := value.(type) {
	case string:
		d.text(at, v, target)
	case bool:
		if target.Kind() == reflect.Bool {
			target.SetBool(v)
			return
		}
		d.wrong(at, value, target)
	case json.Number:
		if err := setNumber(v.String(), target); err != nil {
			d.diagnostics = append(d.diagnostics, Errorf(at, "%v", err))
		}
	default:
		d.wrong(at, value, target)
	}
}

func (d *decoder) text(at Path, text string, target reflect.Value) {
	var n int64
	var err error
	switch {
	case isDuration(target.Type()):
		duration, parseErr := ParseDuration(text)
		n, err = int64(duration), parseErr
	case isSize(target.Type()):
		size, parseErr := ParseSize(text)
		n, err = int64(size), parseErr
	default:
		if target.Kind() != reflect.String {
			d.wrong(at, text, target)
			return
		}
		target.SetString(text)
		return
	}
	if err != nil {
		d.diagnostics = append(d.diagnostics, Errorf(at, "%v", err))
		return
	}
	target.SetInt(n)
}

func (d *decoder) wrong(at Path, value any, target reflect.Value) {
	d.diagnostics = append(d.diagnostics, Errorf(at, "want %s, have %s", target.Type(), nameOf(value)))
}

// setNumber sets an integer or float field; 1e3 and 2.0 are integers too.
func setNumber(text string, target reflect.Value) error {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return fmt.Errorf("the number is out of range")
	}
	switch {
	case target.CanFloat():
		target.SetFloat(f)
		return nil
	case target.CanInt() && !isDuration(target.Type()):
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			n = int64(f)
			if math.Trunc(f) != f || math.Abs(f) > 1<<53 {
				return fmt.Errorf("want a whole number")
			}
		}
		if target.OverflowInt(n) {
			return fmt.Errorf("the number is out of range")
		}
		target.SetInt(n)
		return nil
	case target.CanUint():
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			n = uint64(max(f, 0))
			if math.Trunc(f) != f || f < 0 || f > 1<<53 {
				return fmt.Errorf("want a whole number that is not negative")
			}
		}
		if target.OverflowUint(n) {
			return fmt.Errorf("the number is out of range")
		}
		target.SetUint(n)
		return nil
	default:
		return fmt.Errorf("want %s, have a number", target.Type())
	}
}
