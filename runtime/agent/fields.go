package agent

import (
	"strconv"

	"github.com/goccy/go-yaml/ast"

	"github.com/superserve/superserve/secretd/api"
)

// read fills m from the top of a superserve.yaml.
func (m *Manifest) read(top *ast.MappingNode) error {
	err := readFields(top, ManifestName, []field{
		{"name", m.readName},
		{"command", m.readCommand},
		{"secrets", m.readSecrets},
		{"ignore", into(&m.Ignore, "ignore")},
		{"network", m.readNetwork},
		{"env", m.readEnv},
		{"mounts", m.readMounts},
		{"image", text(&m.Image, "image")},
		{"rootfs", text(&m.Rootfs, "rootfs")},
		{"home", m.readHome},
		{"resources", m.readResources},
		{"files", m.readFiles},
		{"limits", m.readLimits},
		{"prices", m.readPrices},
	})
	if err == nil {
		err = m.finishFiles()
	}
	if err == nil {
		err = m.finishLimits()
	}
	if err != nil {
		return err
	}
	if m.Name == "" {
		return faultf(top, "'name' is required")
	}
	if m.Command.Line == "" && len(m.Command.Argv) == 0 {
		return faultf(top, "'command' is required")
	}
	if m.Image != "" && m.Rootfs != "" {
		return faultf(top, "'image' and 'rootfs' exclude each other")
	}
	return nil
}

// text reads a string that is not empty.
func text(to *string, what string) func(ast.Node) error {
	return func(n ast.Node) (err error) {
		*to, err = asText(n, "'"+what+"'")
		if err == nil && *to == "" {
			err = faultf(n, "'%s' is empty", what)
		}
		return err
	}
}

// into reads a list of strings; an empty list is not nil.
func into(to *[]string, what string) func(ast.Node) error {
	return func(n ast.Node) (err error) {
		*to, err = asTexts(n, "'"+what+"'")
		return err
	}
}

func (m *Manifest) readName(n ast.Node) error {
	name, err := asText(n, "'name'")
	if err != nil {
		return err
	}
	if api.CheckAgent(name) != nil {
		return faultf(n, "invalid agent name %s: use lowercase letters, numbers, and hyphens only (must start with a letter)", strconv.Quote(name))
	}
	m.Name = name
	return nil
}

func (m *Manifest) readCommand(n ast.Node) error {
	if _, list := n.(*ast.SequenceNode); !list {
		return text(&m.Command.Line, "command")(n)
	}
	if err := into(&m.Command.Argv, "command")(n); err != nil {
		return err
	}
	if len(m.Command.Argv) == 0 || m.Command.Argv[0] == "" {
		return faultf(n, "'command' is empty")
	}
	return nil
}

func (m *Manifest) readSecrets(n ast.Node) error {
	items, err := asList(n, "'secrets'")
	if err != nil {
		return err
	}
	if len(items) > api.MaxSecrets {
		return faultf(n, "more than %d secrets", api.MaxSecrets)
	}
	seen := map[string]bool{}
	for _, item := range items {
		s, err := readSecret(item)
		if err != nil {
			return err
		}
		if seen[s.Name] {
			return faultf(item, "secret '%s' stands twice", s.Name)
		}
		seen[s.Name] = true
		m.Secrets = append(m.Secrets, s)
	}
	return nil
}

// readSecret reads a bare name or {name, hosts, use, expose}.
func readSecret(n ast.Node) (s Secret, err error) {
	if _, plain := n.(*ast.StringNode); plain {
		return s, readSecretName(&s.Name)(n)
	}
	m, err := asMapping(n, "a secret that is not a name")
	if err != nil {
		return s, err
	}
	err = readFields(m, "a secret", []field{
		{"name", readSecretName(&s.Name)},
		{"hosts", func(n ast.Node) error { return readEach(n, "'hosts'", &s.Hosts, api.ParsePattern) }},
		{"use", func(n ast.Node) error { return readEach(n, "'use'", &s.Uses, api.ParseUse) }},
		{"expose", func(n ast.Node) (err error) { s.Expose, err = asBool(n, "'expose'"); return err }},
	})
	if err != nil {
		return s, err
	}
	if s.Name == "" {
		return s, faultf(n, "a secret without 'name'")
	}
	if len(s.Uses) > 0 && len(s.Hosts) == 0 {
		return s, faultf(n, "secret '%s' has 'use' without 'hosts'", s.Name)
	}
	return s, nil
}

func readSecretName(to *string) func(ast.Node) error {
	return func(n ast.Node) error {
		name, err := asText(n, "a secret's name")
		if err != nil {
			return err
		}
		if api.CheckName(name) != nil {
			// The name is not repeated: who writes KEY=VALUE here has put a secret into it.
			return faultf(n, "invalid secret name: use letters, digits and underscores, as in ANTHROPIC_API_KEY; its value is set with `superserve secrets set`")
		}
		*to = name
		return nil
	}
}

// readEach reads one string or a list of them through parse.
func readEach[T any](n ast.Node, what string, to *[]T, parse func(string) (T, error)) error {
	items := []ast.Node{n}
	if list, ok := n.(*ast.SequenceNode); ok {
		items = list.Values
	}
	for _, item := range items {
		word, err := asText(item, "an entry of "+what)
		if err != nil {
			return err
		}
		v, err := parse(word)
		if err != nil {
			return faultf(item, "%v", err)
		}
		*to = append(*to, v)
	}
	return nil
}

// readNetwork reads a mode's name or {mode, allow, deny, allow_private}. Entries of allow and deny may
// speak of requests (readRules). What a rule means is checked
// by the policy that it becomes part of.
func (m *Manifest) readNetwork(n ast.Node) error {
	if _, plain := n.(*ast.StringNode); plain {
		return readMode(&m.Network.Mode)(n)
	}
	fields, err := asMapping(n, "'network'")
	if err != nil {
		return err
	}
	return readFields(fields, "network", []field{
		{"mode", readMode(&m.Network.Mode)},
		{"allow", m.readAllow},
		{"deny", m.readRules(&m.Network.Deny, true)},
		{"allow_private", into(&m.Network.AllowPrivate, "allow_private")},
	})
}

// readAllow refuses a bare `allow:`. Left when its last entry was commented out, it would mean
// either nothing or everything.
func (m *Manifest) readAllow(n ast.Node) error {
	if isNull(n) {
		return faultf(n, "'allow' has no value: write `allow: []` to close the network, or leave it out")
	}
	return m.readRules(&m.Network.Allow, false)(n)
}

func readMode(to *string) func(ast.Node) error {
	return func(n ast.Node) error {
		mode, err := asText(n, "'network'")
		if err != nil {
			return err
		}
		if err := CheckMode(mode); err != nil {
			return faultf(n, "%v", err)
		}
		*to = mode
		return nil
	}
}

func (m *Manifest) readEnv(n ast.Node) error {
	pairs, err := asMapping(n, "'env'")
	if err != nil {
		return err
	}
	m.Env = make(map[string]string, len(pairs.Values))
	for _, pair := range pairs.Values {
		key, err := keyOf(pair)
		if err != nil {
			return err
		}
		if _, twice := m.Env[key]; twice || api.CheckName(key) != nil {
			return faultf(pair.Key, "'%s' in env stands twice or is no variable's name", key)
		}
		if m.Env[key], err = asScalar(pair.Value, "'"+key+"' in env"); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manifest) readMounts(n ast.Node) error {
	if err := into(&m.Mounts, "mounts")(n); err != nil {
		return err
	}
	for i, mount := range m.Mounts {
		if err := CheckMount(mount); err != nil {
			return faultf(n.(*ast.SequenceNode).Values[i], "%v", err)
		}
	}
	return nil
}

func (m *Manifest) readHome(n ast.Node) error {
	if err := text(&m.Home, "home")(n); err != nil {
		return err
	}
	if m.Home != "persist" {
		return faultf(n, "'home' can only be persist")
	}
	return nil
}

func (m *Manifest) readResources(n ast.Node) error {
	fields, err := asMapping(n, "'resources'")
	if err != nil {
		return err
	}
	r := &m.Resources
	return readFields(fields, "resources", []field{
		{"memory", scalar(&r.Memory, "memory", ParseSize)},
		{"cpus", scalar(&r.CPUs, "cpus", ParseCPUs)},
		{"pids", scalar(&r.Pids, "pids", ParseCount)},
		{"timeout", scalar(&r.Timeout, "timeout", ParseTimeout)},
	})
}

func scalar[T any](to *T, what string, parse func(string) (T, error)) func(ast.Node) error {
	return func(n ast.Node) error {
		word, err := asScalar(n, "'"+what+"'")
		if err != nil {
			return err
		}
		if *to, err = parse(word); err != nil {
			return faultf(n, "'%s': %v", what, err)
		}
		return nil
	}
}
