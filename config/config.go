package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"gopkg.in/yaml.v3"

	"github.com/dramnode/dramnode"
)

// MaxFileBytes limits a configuration file.
const MaxFileBytes = 1 << 20

// A Setting is one flag's effective value and the layer that it comes from.
type Setting struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"` // "flag", "env DRAMNODE_X", "FILE:LINE" or "default"
}

// Variable is the environment variable that stands for the flag name.
func Variable(name string) string {
	return "DRAMNODE_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// Load sets each flag of flags that was not given on the command line from its environment variable,
// else from the YAML file, "" for none, and returns all of them, sorted by name. An empty variable
// counts as not set. All faults are reported at once, each as dramnode.ErrInvalid that names the
// variable, or the key, file and line. A file may only hold the names in flags, each once.
func Load(flags *pflag.FlagSet, lookup func(string) (string, bool), file string) ([]Setting, error) {
	entries, err := read(file)
	if err != nil {
		return nil, err
	}
	l := loader{flags: flags, lookup: lookup, file: file, entries: make(map[string]entry, len(entries))}
	for _, e := range entries {
		l.know(e)
	}
	flags.VisitAll(l.load)
	return l.settings, errors.Join(l.faults...)
}

// An entry is one line "key: value" of a file.
type entry struct {
	key    string
	line   int
	values []string
	list   bool
}

type loader struct {
	flags    *pflag.FlagSet
	lookup   func(string) (string, bool)
	file     string
	entries  map[string]entry
	settings []Setting
	faults   []error
}

// know takes e, unless no flag has its name or an earlier line has it too.
func (l *loader) know(e entry) {
	first, again := l.entries[e.key]
	switch {
	case l.flags.Lookup(e.key) == nil:
		l.fault(e, "unknown key %q", e.key)
	case again:
		l.fault(e, "key %q is already in line %d", e.key, first.line)
	default:
		l.entries[e.key] = e
	}
}

func (l *loader) load(f *pflag.Flag) {
	source := "default"
	e, inFile := l.entries[f.Name]
	text, inEnv := l.lookup(Variable(f.Name))
	switch {
	case f.Changed:
		source = "flag"
	case inEnv && text != "":
		source = "env " + Variable(f.Name)
		if err := f.Value.Set(text); err != nil {
			l.faults = append(l.faults, fmt.Errorf("%w: %s=%q: %w", dramnode.ErrInvalid, Variable(f.Name), text, err))
		}
	case inFile:
		source = fmt.Sprintf("%s:%d", l.file, e.line)
		if err := e.apply(f.Value); err != nil {
			l.fault(e, "key %q: %w", e.key, err)
		}
	}
	l.settings = append(l.settings, Setting{Name: f.Name, Value: Format(f.Value), Source: source})
}

// fault reports what is wrong with e.
func (l *loader) fault(e entry, format string, args ...any) {
	l.faults = append(l.faults, fmt.Errorf("%w: %s:%d: %w", dramnode.ErrInvalid, l.file, e.line, fmt.Errorf(format, args...)))
}

func (e entry) apply(v pflag.Value) error {
	if !e.list {
		return v.Set(e.values[0])
	}
	slice, ok := v.(pflag.SliceValue)
	if !ok {
		return errors.New("is a list, want one value")
	}
	return slice.Replace(e.values)
}

// Format shows a flag's value as it may be given again.
func Format(v pflag.Value) string {
	if slice, ok := v.(pflag.SliceValue); ok {
		return strings.Join(slice.GetSlice(), ",")
	}
	return v.String()
}

// read returns the entries of file in their order.
func read(file string) ([]entry, error) {
	if file == "" {
		return nil, nil
	}
	text, err := readLimited(file, MaxFileBytes)
	if err != nil {
		return nil, err
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	var doc, more yaml.Node
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", dramnode.ErrInvalid, file, err)
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %s: more than one YAML document", dramnode.ErrInvalid, file)
	}
	top := doc.Content[0]
	if top.Kind == yaml.ScalarNode && top.Tag == "!!null" {
		return nil, nil
	}
	if top.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%w: %s:%d: want lines of the form \"key: value\"", dramnode.ErrInvalid, file, top.Line)
	}
	var entries []entry
	for i := 0; i+1 < len(top.Content); i += 2 {
		e, err := entryOf(top.Content[i], top.Content[i+1])
		if err != nil {
			return nil, fmt.Errorf("%w: %s:%d: key %q: %w", dramnode.ErrInvalid, file, top.Content[i].Line, top.Content[i].Value, err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func entryOf(key, value *yaml.Node) (entry, error) {
	e := entry{key: key.Value, line: key.Line}
	items := []*yaml.Node{value}
	if value.Kind == yaml.SequenceNode {
		e.list, items = true, value.Content
	}
	for _, item := range items {
		if item.Kind != yaml.ScalarNode {
			return e, errors.New("want a value or a list of values")
		}
		if item.Tag == "!!null" {
			return e, errors.New("has no value")
		}
		e.values = append(e.values, item.Value)
	}
	return e, nil
}

// readLimited returns the bytes of a file that the user named.
func readLimited(file string, maxBytes int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", dramnode.ErrInvalid, err)
	}
	defer f.Close() // only read
	text, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", dramnode.ErrInvalid, err)
	}
	if int64(len(text)) > maxBytes {
		return nil, fmt.Errorf("%w: %s has more than %d bytes", dramnode.ErrInvalid, file, maxBytes)
	}
	return text, nil
}
