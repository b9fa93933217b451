package config

import (
	"fmt"
	"strings"

	"github.com/dramnode/dramnode"
)

// MaxSecretsBytes limits a file of secrets.
const MaxSecretsBytes = 1 << 20

// Secrets are values that are never shown, such as NAME:SECRET, separated by commas; a pflag.SliceValue.
// What stands before the first colon is shown.
type Secrets []string

// Type implements pflag.Value.
func (s *Secrets) Type() string { return "secrets" }

// String implements pflag.Value.
func (s *Secrets) String() string { return strings.Join(s.GetSlice(), ",") }

// Set implements pflag.Value.
func (s *Secrets) Set(text string) error {
	for secret := range strings.SplitSeq(text, ",") {
		if err := s.Append(secret); err != nil {
			return err
		}
	}
	return nil
}

// Append implements pflag.SliceValue.
func (s *Secrets) Append(secret string) error {
	if strings.TrimSpace(secret) == "" {
		return fmt.Errorf("a secret is empty")
	}
	*s = append(*s, strings.TrimSpace(secret))
	return nil
}

// Replace implements pflag.SliceValue.
func (s *Secrets) Replace(secrets []string) error {
	*s = nil
	for _, secret := range secrets {
		if err := s.Append(secret); err != nil {
			return err
		}
	}
	return nil
}

// GetSlice implements pflag.SliceValue, and shows no secret.
func (s *Secrets) GetSlice() []string {
	shown := make([]string, len(*s))
	for i, secret := range *s {
		if name, _, ok := strings.Cut(secret, ":"); ok {
			shown[i] = name + ":"
		}
		shown[i] += "***"
	}
	return shown
}

// ReadSecrets adds the lines of a file, "" for none; empty lines and those that begin with # do not count.
func (s *Secrets) ReadSecrets(file string) error {
	if file == "" {
		return nil
	}
	text, err := readLimited(file, MaxSecretsBytes)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			*s = append(*s, line)
		}
	}
	return nil
}

// Pairs splits secrets of the form NAME:SECRET. The error names the flag and no secret.
func (s *Secrets) Pairs(flag string) (map[string]string, error) {
	pairs := make(map[string]string, len(*s))
	for i, secret := range *s {
		name, value, ok := strings.Cut(secret, ":")
		if !ok || name == "" || value == "" {
			return nil, fmt.Errorf("%w: --%s: entry %d is not of the form NAME:SECRET", dramnode.ErrInvalid, flag, i+1)
		}
		if _, again := pairs[name]; again { // which of the two would hold is nothing to guess
			return nil, fmt.Errorf("%w: --%s: entry %d has the name of an earlier one", dramnode.ErrInvalid, flag, i+1)
		}
		pairs[name] = value
	}
	return pairs, nil
}
