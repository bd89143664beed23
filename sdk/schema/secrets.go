package schema

import (
	"encoding/json"
	"fmt"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

// Redacted stands for the value of a secret attribute.
const Redacted = "[redacted]"

// SecretPaths lists the secret attributes of s, for people: "secret",
// "auth.password", "target[*].token".
func SecretPaths(s *transportv1.ConfigSchema) []string { return secretPaths("", s) }

func secretPaths(prefix string, s *transportv1.ConfigSchema) (paths []string) {
	for _, a := range s.GetAttributes() {
		if a.GetSecret() {
			paths = append(paths, prefix+a.GetName())
		}
	}
	for _, b := range s.GetBlocks() {
		inner := prefix + b.GetType() + "."
		if b.GetMax() > 1 {
			inner = prefix + b.GetType() + "[*]."
		}
		paths = append(paths, secretPaths(inner, b.GetBody())...)
	}
	return paths
}

// MapSecrets replaces the value of each secret attribute in config by what
// replace makes of it: to encrypt, decrypt or redact. Values are JSON. An error
// of replace ends the walk and is returned with its path.
func MapSecrets(s *transportv1.ConfigSchema, config []byte, replace func(Path, json.RawMessage) (json.RawMessage, error)) ([]byte, error) {
	value, err := parse(config)
	if err != nil {
		return nil, fmt.Errorf("the configuration is not JSON: %w", err)
	}
	if err := mapSecrets(nil, s, value, replace); err != nil {
		return nil, err
	}
	return json.Marshal(value)
}

func mapSecrets(at Path, s *transportv1.ConfigSchema, value any, replace func(Path, json.RawMessage) (json.RawMessage, error)) error {
	object, ok := value.(map[string]any)
	if !ok {
		return nil
	}
	for _, a := range s.GetAttributes() {
		old, given := object[a.GetName()]
		if !a.GetSecret() || !given || old == nil {
			continue
		}
		path := at.Attribute(a.GetName())
		encoded, err := json.Marshal(old)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		changed, err := replace(path, encoded)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		object[a.GetName()] = changed
	}
	for _, b := range s.GetBlocks() {
		path, inner := at.Attribute(b.GetType()), object[b.GetType()]
		list, repeated := inner.([]any)
		if !repeated {
			list = []any{inner}
		}
		for i, one := range list {
			where := path
			if repeated {
				where = path.Index(i)
			}
			if err := mapSecrets(where, b.GetBody(), one, replace); err != nil {
				return err
			}
		}
	}
	return nil
}

// Redact replaces every secret in config by Redacted.
func Redact(s *transportv1.ConfigSchema, config []byte) ([]byte, error) {
	return MapSecrets(s, config, func(Path, json.RawMessage) (json.RawMessage, error) {
		return json.RawMessage(`"` + Redacted + `"`), nil
	})
}

// SecretValues lists the secret strings of config, those inside lists and maps
// included: what a log filter must look for.
func SecretValues(s *transportv1.ConfigSchema, config []byte) (values []string, err error) {
	_, err = MapSecrets(s, config, func(_ Path, value json.RawMessage) (json.RawMessage, error) {
		parsed, err := parse(value)
		if err == nil {
			values = appendStrings(values, parsed)
		}
		return value, err
	})
	return values, err
}

func appendStrings(values []string, value any) []string {
	switch v := value.(type) {
	case string:
		if v != "" {
			values = append(values, v)
		}
	case []any:
		for _, element := range v {
			values = appendStrings(values, element)
		}
	case map[string]any:
		for _, element := range v {
			values = appendStrings(values, element)
		}
	}
	return values
}
