package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is a size that is written with a unit, such as 512MiB; it is a pflag.Value.
type Bytes int64

// unit returns the bytes of a lower-case unit: KiB and K are 1024, KB is 1000, and so on.
func unit(name string) (int64, bool) {
	switch name {
	case "", "b":
		return 1, true
	case "k", "kib":
		return 1 << 10, true
	case "m", "mib":
		return 1 << 20, true
	case "g", "gib":
		return 1 << 30, true
	case "t", "tib":
		return 1 << 40, true
	case "kb":
		return 1e3, true
	case "mb":
		return 1e6, true
	case "gb":
		return 1e9, true
	case "tb":
		return 1e12, true
	}
	return 0, false
}

// ParseBytes reads a whole number with a unit, such as 64MiB, 2GB, 1g or 4096. Its error is plain: only
// the caller knows where the text came from, and makes it a dramnode.ErrInvalid that says so.
func ParseBytes(text string) (Bytes, error) {
	digits := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	if digits < 0 {
		digits = len(text)
	}
	n, err := strconv.ParseInt(text[:digits], 10, 64)
	factor, ok := unit(strings.ToLower(strings.TrimLeft(text[digits:], " ")))
	if err != nil || !ok {
		return 0, fmt.Errorf("size %q, want a whole number with a unit, such as 512MiB, 2GB or 1g", text)
	}
	if n > math.MaxInt64/factor {
		return 0, fmt.Errorf("size %q is beyond 8 EiB", text)
	}
	return Bytes(n * factor), nil
}

// String is exact, in the largest unit of 1024s that divides b: ParseBytes reads it back.
func (b Bytes) String() string {
	for _, u := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if factor, _ := unit(strings.ToLower(u)); b != 0 && int64(b)%factor == 0 {
			return strconv.FormatInt(int64(b)/factor, 10) + u
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// Human is b with two or three digits, for tables.
func (b Bytes) Human() string {
	value, units := float64(b), []string{" B", " KiB", " MiB", " GiB", " TiB"}
	for value >= 999.5 && len(units) > 1 {
		value, units = value/1024, units[1:]
	}
	decimals := 0
	if units[0] != " B" && value < 99.95 {
		decimals = 1
	}
	return strconv.FormatFloat(value, 'f', decimals, 64) + units[0]
}

// Set is for pflag.
func (b *Bytes) Set(text string) (err error) {
	*b, err = ParseBytes(text)
	return err
}

// Type is for pflag.
func (*Bytes) Type() string { return "size" }
