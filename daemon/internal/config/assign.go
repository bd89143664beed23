package config

import (
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/deliveryd/deliveryd/daemon/internal/secret"
	"github.com/deliveryd/deliveryd/daemon/internal/setting"
)

// assign stores a known value without marks in the setting at pointer. Its
// errors never quote the value of a secret setting.
func (l *loader) assign(a *attribute, pointer any, value cty.Value, dir string) error {
	switch a.kind {
	case kindSecret, kindKey, kindKeys:
		return l.assignSecret(a, pointer, value)
	case kindBool:
		converted, err := convert.Convert(value, cty.Bool)
		if err != nil {
			return fmt.Errorf("%s must be true or false", a.name)
		}
		*pointer.(*bool) = converted.True()
		return nil
	case kindInt, kindFloat:
		return assignNumber(a, pointer, value)
	case kindDuration, kindSize:
		return assignQuantity(a, pointer, value)
	case kindStrings:
		list, err := stringList(a, value)
		if err != nil {
			return err
		}
		var errs []error
		for i, text := range list {
			if err := a.checkText(text); err != nil {
				errs = append(errs, &elementError{i, err})
			}
		}
		if len(errs) > 0 {
			return errors.Join(errs...) // and is not found wrong a second time as a part of the whole
		}
		*pointer.(*[]string) = list
		return nil
	default:
		text, err := stringOf(a, value)
		if err != nil {
			return err
		}
		if err := a.checkText(text); err != nil {
			return err
		}
		if a.path {
			if text, err = absolute(dir, text); err != nil {
				return err
			}
		}
		reflect.ValueOf(pointer).Elem().SetString(text)
		return nil
	}
}

func absolute(dir, path string) (string, error) {
	if path == "" {
		return "", errors.New("the path is empty")
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("finding the absolute path: %w", err)
	}
	return absolute, nil
}

func (a *attribute) checkText(text string) error {
	if len(a.oneOf) > 0 && !slices.Contains(a.oneOf, text) {
		return fmt.Errorf("%s is not a %s; want one of %s.%s", shown(text), a.name, strings.Join(a.oneOf, ", "), didYouMean(text, a.oneOf))
	}
	if a.check != nil {
		return a.check(text)
	}
	return nil
}

func (l *loader) assignSecret(a *attribute, pointer any, value cty.Value) error {
	if a.kind == kindKeys {
		list, err := stringList(a, value)
		if err != nil {
			return err
		}
		keys := make([]secret.Key, len(list))
		for i, text := range list {
			l.keepSecret(text)
			if keys[i], err = secret.ParseKey(text); err != nil {
				return &elementError{i, err}
			}
		}
		*pointer.(*[]secret.Key) = keys
		return nil
	}
	text, err := stringOf(a, value)
	if err != nil {
		return err
	}
	l.keepSecret(text)
	if a.kind == kindKey {
		key, err := secret.ParseKey(text)
		if err != nil {
			return err
		}
		*pointer.(*secret.Key) = key
		return nil
	}
	if err := a.checkText(text); err != nil {
		return err
	}
	*pointer.(*secret.Value) = secret.New(text)
	return nil
}

func stringOf(a *attribute, value cty.Value) (string, error) {
	converted, err := convert.Convert(value, cty.String)
	if err != nil {
		return "", fmt.Errorf("%s must be text in quotes, not %s", a.name, value.Type().FriendlyName())
	}
	return converted.AsString(), nil
}

func stringList(a *attribute, value cty.Value) ([]string, error) {
	if value.Type() == cty.String {
		return nil, fmt.Errorf("%s must be a list: [\"...\"]", a.name)
	}
	converted, err := convert.Convert(value, cty.List(cty.String))
	if err != nil {
		return nil, fmt.Errorf("%s must be a list of texts: [\"...\", \"...\"]", a.name)
	}
	list := make([]string, 0, converted.LengthInt())
	for _, element := range converted.AsValueSlice() {
		if element.IsNull() {
			return nil, &elementError{len(list), fmt.Errorf("an element of %s must not be null", a.name)}
		}
		list = append(list, element.AsString())
	}
	return list, nil
}

func assignNumber(a *attribute, pointer any, value cty.Value) error {
	converted, err := convert.Convert(value, cty.Number)
	if err != nil {
		return fmt.Errorf("%s must be a number, not %s", a.name, value.Type().FriendlyName())
	}
	number := converted.AsBigFloat()
	if a.kind == kindFloat {
		f, _ := number.Float64()
		if err := a.inRange(f, shownNumber(number)); err != nil {
			return err
		}
		*pointer.(*float64) = f
		return nil
	}
	n, accuracy := number.Int64()
	if accuracy != big.Exact {
		return fmt.Errorf("%s is %s; it must be a whole number%s", a.name, shownNumber(number), a.rangeText(" from "))
	}
	if n == 0 && a.hasZero {
		*pointer.(*int) = a.zero
		return nil
	}
	if err := a.inRange(float64(n), shownNumber(number)); err != nil {
		return err
	}
	*pointer.(*int) = int(n)
	return nil
}

// shownNumber is a number for an error. One with a huge exponent would take
// minutes to convert.
func shownNumber(n *big.Float) string {
	if exponent := n.MantExp(nil); n.IsInf() || exponent > maxExponent || exponent < -maxExponent {
		return "far out of range"
	}
	return n.Text('g', 10)
}

// assignQuantity stores a duration or a size.
func assignQuantity(a *attribute, pointer any, value cty.Value) error {
	example := map[kind]string{kindDuration: `"30s"`, kindSize: `"10MiB"`}[a.kind]
	if value.Type() != cty.String {
		return fmt.Errorf("%s must be text with a unit, such as %s", a.name, example)
	}
	text := value.AsString()
	var n int64
	if a.kind == kindDuration {
		d, err := ParseDuration(text)
		if err != nil {
			return err
		}
		n = int64(d)
	} else {
		s, err := ParseSize(text)
		if err != nil {
			return err
		}
		n = int64(s)
	}
	if !a.hasZero || n != 0 {
		if err := a.inRange(float64(n), shown(text)); err != nil {
			return err
		}
	}
	if a.hasZero && n == 0 {
		n = int64(a.zero)
	}
	return setQuantity(pointer, n)
}

func setQuantity(pointer any, n int64) error {
	switch pointer := pointer.(type) {
	case *time.Duration:
		*pointer = time.Duration(n)
	case *setting.Duration:
		*pointer = setting.Duration(n)
	case *Size:
		*pointer = Size(n)
	case *int64:
		*pointer = n
	default:
		return fmt.Errorf("a %T is no quantity", pointer)
	}
	return nil
}

func (a *attribute) inRange(n float64, shown string) error {
	if !a.bounded || n >= a.least && n <= a.most {
		return nil
	}
	return fmt.Errorf("%s is %s; it must be%s", a.name, shown, a.rangeText(" "))
}

// rangeText returns the range for people, or "" when there is none.
func (a *attribute) rangeText(before string) string {
	if !a.bounded {
		return ""
	}
	text := fmt.Sprintf("%s%s to %s", before, a.quantity(a.least), a.quantity(a.most))
	if a.hasZero {
		text += fmt.Sprintf(", or 0 for %s", a.zeroDoc)
	}
	return text
}

func (a *attribute) quantity(n float64) string {
	switch a.kind {
	case kindDuration:
		return `"` + formatDuration(time.Duration(n)) + `"`
	case kindSize:
		return `"` + Size(n).String() + `"`
	default:
		return fmt.Sprintf("%v", big.NewFloat(n).Text('f', -1))
	}
}
