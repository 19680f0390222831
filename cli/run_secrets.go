package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/superserve/superserve/runtime/agent"
	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/preset"
)

// errNotInEnvironment means that --secret names a variable that the caller does not have.
var errNotInEnvironment = errors.New("is not set in your environment")

// brought are the secrets of --secret: the caller's own, for one run. This process has them in its environment anyhow,
// so it serves them itself and they are in no other process than it and the run's proxy; secretd never sees them.
type brought struct {
	values map[string][]byte
	wanted []sandbox.SourceSecret
}

// Secret implements sandbox.Source.
func (b *brought) Secret(_ context.Context, name string) ([]byte, error) {
	value, ok := b.values[name]
	if !ok {
		return nil, api.ErrNotFound
	}
	return value, nil
}

// bringSecrets reads --secret NAME and NAME=HOST[:PORT][:USE]; the same name with several hosts goes to each.
func (f *runFlags) bringSecrets(who caller) (*brought, error) {
	b := &brought{values: map[string][]byte{}}
	for _, word := range f.secrets {
		name, to, bound := strings.Cut(word, "=")
		if api.CheckName(name) != nil {
			return nil, errors.New("--secret: give NAME or NAME=HOST[:USE], and the value in the environment")
		}
		binding, err := parseBinding(to)
		if bound && err != nil {
			return nil, fmt.Errorf("--secret %s: %w", name, err)
		}
		if err := b.take(who, name); err != nil {
			return nil, err
		}
		if err := b.bind(name, binding, bound); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b *brought) take(who caller, name string) error {
	value, ok := who.lookup(name)
	if !ok {
		return fmt.Errorf("%s %w", name, errNotInEnvironment)
	}
	b.values[name] = []byte(value)
	return checkValue(pair{name, b.values[name]}, false)
}

// bind takes the flag's binding, else what is known of the name or of the value.
func (b *brought) bind(name string, binding api.Binding, given bool) error {
	if !given {
		known := false
		if binding, known = preset.For(name); !known {
			binding, _ = preset.ForValue(b.values[name])
		}
	}
	i := slices.IndexFunc(b.wanted, func(w sandbox.SourceSecret) bool { return w.Name == name })
	if i < 0 {
		b.wanted = append(b.wanted, sandbox.SourceSecret{Name: name, Binding: &binding})
		return nil
	}
	if !given {
		return fmt.Errorf("--secret %s stands twice", name)
	}
	old := b.wanted[i].Binding
	old.Hosts = append(old.Hosts, binding.Hosts...)
	for _, u := range binding.Uses {
		if !slices.Contains(old.Uses, u) {
			old.Uses = append(old.Uses, u)
		}
	}
	return old.Check()
}

// parseBinding reads HOST[:PORT][:USE].
func parseBinding(s string) (api.Binding, error) {
	host, rest, more := strings.Cut(s, ":")
	if port, use, again := strings.Cut(rest, ":"); more && port != "" && strings.Trim(port, "0123456789") == "" {
		host, rest, more = host+":"+port, use, again
	}
	pattern, err := api.ParsePattern(host)
	if err != nil {
		return api.Binding{}, err
	}
	b := api.Binding{Hosts: []api.Pattern{pattern}}
	if more {
		use, err := api.ParseUse(rest)
		if err != nil {
			return api.Binding{}, err
		}
		b.Uses = []api.Use{use}
	}
	return b, b.Check()
}

// brings reports whether --secret names a secret.
func (f *runFlags) brings(name string) bool {
	return slices.ContainsFunc(f.secrets, func(word string) bool {
		own, _, _ := strings.Cut(word, "=")
		return own == name
	})
}

// secretsFor returns what grants a run its secrets, those that the caller has brought and those that secretd keeps; the
// caller's win. It checks that none is missing, and says what a person should know of them.
func (sh *shell) secretsFor(ctx context.Context, m *agent.Manifest, program string, who caller, f runFlags) (sandbox.Secrets, error) {
	own, err := f.bringSecrets(who)
	if err != nil {
		return nil, err
	}
	kept := &agent.Manifest{Name: m.Name}
	for _, s := range m.Secrets {
		if i := slices.IndexFunc(own.wanted, func(w sandbox.SourceSecret) bool { return w.Name == s.Name }); i >= 0 {
			own.wanted[i].Limits = s.Limits
			continue
		}
		kept.Secrets = append(kept.Secrets, s)
	}
	if !f.quiet {
		names := map[string]bool{}
		for name := range own.values {
			names[name] = true
		}
		for _, s := range m.Secrets {
			names[s.Name] = true
		}
		sh.adviseVariable(program, names)
	}
	stored, err := sh.keptSecrets(ctx, kept, f.quiet)
	if err != nil || len(own.wanted) == 0 {
		return stored, err
	}
	for _, w := range own.wanted {
		if !w.Binding.Bound() && !f.quiet {
			sh.note("%s is bound to no host, so the agent gets a placeholder that opens nothing. Bind it with:\n  --secret %s=HOST", w.Name, w.Name)
		}
	}
	brought := sandbox.FromSource(own, own.wanted)
	if stored == nil {
		return brought, nil
	}
	return sandbox.Both(stored, brought), nil
}

// keptSecrets returns what asks secretd for the grant. An agent without secrets needs no secretd.
func (sh *shell) keptSecrets(ctx context.Context, m *agent.Manifest, quiet bool) (sandbox.Secrets, error) {
	if len(m.Secrets) == 0 {
		return nil, nil
	}
	have, err := sh.secretsOf(ctx, m.Name)
	if err != nil {
		return nil, err
	}
	var missing []string
	wanted := make([]api.Wanted, 0, len(m.Secrets))
	for _, s := range m.Secrets {
		if _, ok := have[s.Name]; !ok {
			missing = append(missing, s.Name)
		}
		wanted = append(wanted, api.Wanted{Name: s.Name, Binding: s.Binding(), Expose: s.Expose, Limits: s.Limits})
	}
	if len(missing) > 0 {
		return nil, sh.missingSecrets(m.Name, missing)
	}
	for _, s := range m.Secrets {
		sh.adviseSecret(m.Name, s, have[s.Name].Binding, quiet)
	}
	c, err := sh.secretd(ctx)
	if err != nil {
		return nil, err
	}
	return sandbox.FromSecretd(c, m.Name, wanted), nil
}

// missingSecrets prints the three lines of the product page; they are an error and its advice in one.
func (sh *shell) missingSecrets(name string, missing []string) error {
	fmt.Fprintf(sh.err, "%s Missing required secret(s): %s\nSet them with:\n  %s\n",
		sh.paint(sh.err, red, "Error:"), joinWords(missing), setCommand(name, missing))
	return exitCode(exitError)
}

// adviseSecret says what the manifest does with a secret that its owner may not expect. An exposed one
// is said at every run, quiet or not.
func (sh *shell) adviseSecret(name string, s agent.Secret, stored api.Binding, quiet bool) {
	switch {
	case s.Expose:
		sh.warn("the agent is given the real value of %s (expose: true in %s)", s.Name, agent.ManifestName)
	case quiet:
	case len(s.Hosts) > 0 && stored.Bound() && texts(s.Hosts) != texts(stored.Hosts):
		sh.note("%s sends %s to %s in place of %s", agent.ManifestName, s.Name, texts(s.Hosts), texts(stored.Hosts))
	case len(s.Hosts) == 0 && !stored.Bound():
		sh.adviseBind(name, s.Name)
	}
}
