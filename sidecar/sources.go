package sidecar

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

const (
	configKey = "config"
	envPrefix = "ANTEROOM_"
)

// Flags adds the flag of every setting, and --config, to fs. They take any text: Load reads it, so that all mistakes come out together.
func Flags(fs *pflag.FlagSet) {
	fs.String(configKey, "", "YAML file with these settings, each under its flag's name ("+variable(configKey)+")")
	for i := range settings {
		s := &settings[i]
		fs.Var(&words{setting: s}, s.key, s.usage)
		if s.toggle {
			fs.Lookup(s.key).NoOptDefVal = "true"
		}
	}
}

// words is the value of a flag as it was typed.
type words struct {
	*setting
	given []string
}

// Set takes any text; a list grows with each.
func (w *words) Set(text string) error {
	if !w.list {
		w.given = nil
	}
	w.given = append(w.given, w.split(text)...)
	return nil
}

// Type is what help calls the value.
func (w *words) Type() string { return w.value }

// String is what help shows as the default.
func (w *words) String() string {
	if w.setting == nil || w.given == nil && w.standard == "none" {
		return ""
	}
	if w.given == nil {
		return w.standard
	}
	return strings.Join(w.given, ",")
}

// split takes text apart at commas and white space if the setting is a list.
func (s *setting) split(text string) []string {
	if !s.list {
		return []string{text}
	}
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
}

func variable(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, "-", "_"))
}

// A value is what a source gives for a setting.
type value struct {
	words  []string
	origin string
	wrong  error // it cannot be a value of this setting
}

// A Choice is a setting, the value in force and where that is from.
type Choice struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"from"`
}

// Load reads the configuration: a flag wins over an environment variable (an empty one counts as absent), that over the file, that over the
// default. The choices list every setting, whatever the error. Errors are Mistakes.
func Load(flags *pflag.FlagSet, env func(string) string) (Config, []Choice, error) {
	var c Config
	file, mistakes := readFile(configPath(flags, env))
	origins := map[string]string{}
	for i := range settings {
		s := &settings[i]
		v, given := s.pick(flags, env, file)
		if !given {
			continue
		}
		origins[s.key] = v.origin
		mistakes.addErr(s.key, s.apply(&c, v))
	}
	mistakes = append(mistakes, furtherMistakes(&c, mistakes)...)
	for i, m := range mistakes {
		mistakes[i].Origin = or(m.Origin, origins[m.Key])
	}
	return c, choices(&c, origins), mistakes.err()
}

func configPath(flags *pflag.FlagSet, env func(string) string) string {
	if f := flags.Lookup(configKey); f != nil && f.Changed {
		return f.Value.String()
	}
	return env(variable(configKey))
}

// pick finds the value in the source that wins.
func (s *setting) pick(flags *pflag.FlagSet, env func(string) string, file map[string]value) (value, bool) {
	if f := flags.Lookup(s.key); f != nil && f.Changed {
		if w, ok := f.Value.(*words); ok {
			return value{words: w.given, origin: "--" + s.key}, true
		}
	}
	if text := env(variable(s.key)); text != "" {
		return value{words: s.split(text), origin: variable(s.key)}, true
	}
	v, given := file[s.key]
	return v, given
}

func (s *setting) apply(c *Config, v value) error {
	if v.wrong != nil {
		return v.wrong
	}
	return s.parse(c, v.words)
}

// furtherMistakes is what Check finds about keys that have no mistake yet: a value that could not be read should not be missed again.
func furtherMistakes(c *Config, known Mistakes) Mistakes {
	found, _ := errors.AsType[Mistakes](c.Check())
	return slices.DeleteFunc(found, func(m Mistake) bool { return known.about(m.Key) })
}

func choices(c *Config, origins map[string]string) []Choice {
	all := make([]Choice, len(settings))
	for i := range settings {
		s := &settings[i]
		all[i] = Choice{Key: s.key, Value: s.show(c), Origin: or(origins[s.key], "default")}
	}
	return all
}

// readFile reads the values in a YAML file: a mapping from keys to scalars or lists of them.
func readFile(path string) (map[string]value, Mistakes) {
	if path == "" {
		return nil, nil
	}
	root, err := parseFile(path)
	if err != nil {
		return nil, Mistakes{{Key: configKey, Origin: path, Problem: err.Error()}}
	}
	if root == nil {
		return nil, nil
	}
	return readMapping(path, root)
}

// parseFile is the file's one document; nil if it is empty.
func parseFile(path string) (*yaml.Node, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot be read; give the path of a readable file: %w", err)
	}
	var document, second yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("is not YAML: %w", err)
	case !errors.Is(decoder.Decode(&second), io.EOF):
		return nil, errors.New("holds more than one document; leave one")
	}
	root := document.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, errors.New(`is not a mapping; write lines such as "max-connections: 10000"`)
	}
	return root, nil
}

func readMapping(path string, root *yaml.Node) (values map[string]value, mistakes Mistakes) {
	values = map[string]value{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, node := root.Content[i].Value, root.Content[i+1]
		origin := fmt.Sprintf("%s:%d", path, root.Content[i].Line)
		s := settingOf(key)
		switch _, twice := values[key]; {
		case s == nil:
			mistakes = append(mistakes, Mistake{key, origin, unknown("key", key, keys()).Error()})
		case twice:
			mistakes = append(mistakes, Mistake{key, origin, "is given twice in the file; leave one of them out"})
		default:
			v := value{origin: origin}
			v.words, v.wrong = s.scalars(node)
			values[key] = v
		}
	}
	return values, mistakes
}

// scalars are the words at a node, as they stand in the file: 0660 is a mode there and not the number 432.
func (s *setting) scalars(node *yaml.Node) ([]string, error) {
	switch {
	case node.Kind == yaml.AliasNode:
		return s.scalars(node.Alias)
	case node.Kind == yaml.ScalarNode && node.Tag != "!!null":
		return s.split(node.Value), nil
	case node.Kind == yaml.MappingNode && s.inline:
		text, err := yaml.Marshal(node)
		return []string{string(text)}, err
	case node.Kind == yaml.SequenceNode && s.list:
		return s.items(node.Content)
	case s.list:
		return nil, errors.New("takes a list of values")
	}
	return nil, errors.New("takes one value; give one, or leave the key out for the default")
}

func (s *setting) items(nodes []*yaml.Node) (all []string, err error) {
	for _, n := range nodes {
		if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
			return nil, errors.New("takes a list of plain values")
		}
		all = append(all, n.Value)
	}
	return all, nil
}

func settingOf(key string) *setting {
	i := slices.IndexFunc(settings, func(s setting) bool { return s.key == key })
	if i < 0 {
		return nil
	}
	return &settings[i]
}

func keys() []string {
	all := make([]string, len(settings))
	for i, s := range settings {
		all[i] = s.key
	}
	return all
}
