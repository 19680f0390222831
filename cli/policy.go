package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/proxy/dial"
	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/runtime/agent"
	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/api"
)

func (sh *shell) policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Explain what an agent may reach, and change it while it runs",
		RunE:  unknownCommand,
		Args:  cobra.ArbitraryArgs,
	}
	cmd.AddCommand(sh.policyCheckCommand(), sh.policySetCommand(), sh.policyShowCommand(), sh.policyAlwaysCommand())
	return cmd
}

// networkOf translates what a superserve.yaml says.
func networkOf(n agent.Network) sandbox.Network {
	out := sandbox.Network{Mode: n.Mode, Allow: n.Allow, Deny: n.Deny, AllowPrivate: n.AllowPrivate}
	for _, r := range n.Requests {
		out.Requests = append(out.Requests, sandbox.RequestRule(r))
	}
	return out
}

// openNetwork drops what an allow list closes; what is denied stays so.
func openNetwork(n *sandbox.Network) {
	n.Allow = nil
	n.Requests = slices.DeleteFunc(slices.Clone(n.Requests), func(r sandbox.RequestRule) bool { return !r.Deny })
}

// policyFor parses what a run with these secrets would be judged by: an absent list of allowed hosts is the public
// internet, any other list, even an empty one, closes the rest.
func policyFor(n sandbox.Network, bound []api.Pattern, resolve []string) (*egress.Policy, error) {
	exempt, err := dial.Literals(resolve)
	if err != nil {
		return nil, err
	}
	mode := n.Mode
	if mode == "" {
		mode = egress.ModePublic
	}
	if mode == egress.ModePublic && n.Allow != nil {
		mode = egress.ModeBound
	}
	own := &ownAddrs{list: net.InterfaceAddrs}
	return egress.Parse(egress.Rules{
		Mode: mode, Allow: n.Allow, Deny: n.Deny, AllowPrivate: n.AllowPrivate,
		Bound: bound, Requests: requestRules(n.Requests), Exempt: exempt, Own: own.has,
	})
}

// question is what `policy check` is asked.
type question struct {
	agent, run   string
	method, path string
	offline      bool
	asJSON       bool
}

func (sh *shell) policyCheckCommand() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "check HOST[:PORT]",
		Short: "Say whether a destination may be reached, and by which rule",
		Long: `Say whether a destination may be reached, by which rule, and where a name leads now. Without --agent or
--run it is judged by what an agent without a network: section has. The exit code is 1 when it is refused.`,
		Example: `  superserve policy check pypi.org --agent my-agent
  superserve policy check api.github.com --agent my-agent --method DELETE --path /repos/acme/site`,
		Args: exactly("HOST[:PORT]"),
		RunE: func(cmd *cobra.Command, args []string) error { return sh.policyCheck(cmd.Context(), args[0], q) },
	}
	flags := cmd.Flags()
	flags.StringVar(&q.agent, "agent", "", "judge as for `AGENT`")
	flags.StringVar(&q.run, "run", "", "judge as for the running `RUN`")
	flags.StringVar(&q.method, "method", "", "judge a request of `METHOD` too")
	flags.StringVar(&q.path, "path", "", "judge a request for `PATH` too")
	flags.BoolVar(&q.offline, "offline", false, "do not look up where the name leads")
	flags.BoolVar(&q.asJSON, "json", false, "print JSON")
	return cmd
}

// answer is what `policy check` found out.
type answer struct {
	Host    string   `json:"host"`
	Port    uint16   `json:"port"`
	Allowed bool     `json:"allowed"`
	Rule    string   `json:"rule,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	Text    string   `json:"text"`
	Inspect string   `json:"inspect,omitempty"` // why its requests are looked into
	Details []detail `json:"details,omitempty"`
}

// detail is the verdict on a request or on an address of a name.
type detail struct {
	What    string `json:"what"`
	Allowed bool   `json:"allowed"`
	Text    string `json:"text"`
}

func (sh *shell) policyCheck(ctx context.Context, target string, q question) error {
	host, addr, port, err := parseDestination(target)
	if err != nil {
		return err
	}
	network, bound, err := sh.policyOf(ctx, q)
	if err != nil {
		return err
	}
	policy, err := policyFor(network, bound, nil)
	if err != nil {
		return err
	}
	a := answer{Host: string(host), Port: port}
	var d egress.Decision
	if host == "" {
		a.Host, d = addr.String(), policy.Addr(addr, port)
	} else {
		d = policy.Name(host, port)
	}
	a.Allowed, a.Rule, a.Reason, a.Text = d.Allow, d.Rule, d.Reason, explain(d)
	if host != "" && d.Allow {
		a.look(ctx, policy, host, bound, q)
	}
	if err := sh.showAnswer(a, q.asJSON); err != nil {
		return err
	}
	if !a.Allowed {
		return exitCode(exitError)
	}
	return nil
}

// explain is Decision.Explain, also for an address that needed no rule.
func explain(d egress.Decision) string {
	if d.Allow && d.Rule == "" {
		return "on the public internet"
	}
	return d.Explain()
}

// look asks what follows for a name that is allowed.
func (a *answer) look(ctx context.Context, policy *egress.Policy, host api.Host, bound []api.Pattern, q question) {
	switch {
	case slices.ContainsFunc(bound, func(b api.Pattern) bool { return b.Match(host, a.Port) }):
		a.Inspect = "a secret is bound to it"
	case policy.Inspects(host, a.Port):
		a.Inspect = "a rule speaks of its requests"
	}
	if q.method+q.path != "" {
		method, path := q.method, q.path
		if method == "" {
			method = "GET"
		}
		if path == "" {
			path = "/"
		}
		d := policy.Request(host, a.Port, method, path)
		text := explain(d)
		if d.Allow && d.Rule == "" {
			text = "no rule speaks of requests to it"
		}
		a.add(method+" "+path, d.Allow, text)
		a.Allowed = a.Allowed && d.Allow
	}
	if q.offline {
		return
	}
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", string(host)+".")
	if err != nil {
		a.add("its address", false, "cannot be looked up here")
		return
	}
	reached := false
	for _, addr := range addrs {
		d := policy.Resolved(addr, a.Port)
		a.add(addr.Unmap().String(), d.Allow, explain(d))
		reached = reached || d.Allow
	}
	a.Allowed = a.Allowed && reached
}

func (a *answer) add(what string, allowed bool, text string) {
	a.Details = append(a.Details, detail{what, allowed, text})
}

func (sh *shell) showAnswer(a answer, asJSON bool) error {
	if asJSON {
		return sh.json(a)
	}
	mark := func(ok bool) string {
		if ok {
			return sh.paint(sh.out, green, "✓")
		}
		return sh.paint(sh.out, red, "✗")
	}
	fmt.Fprintf(sh.out, "%s %s: %s\n", mark(a.Reason == ""), net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port))), escapeLine(a.Text))
	for _, d := range a.Details {
		fmt.Fprintf(sh.out, "  %s %s: %s\n", mark(d.Allowed), escapeLine(d.What), escapeLine(d.Text))
	}
	if a.Inspect != "" {
		fmt.Fprintf(sh.out, "  TLS ends at the proxy: %s\n", a.Inspect)
	}
	return nil
}

// parseDestination reads HOST, HOST:PORT, an address, or ADDR:PORT; 443 unless said.
func parseDestination(s string) (host api.Host, addr netip.Addr, port uint16, err error) {
	if ap, err := netip.ParseAddrPort(s); err == nil && ap.Port() != 0 {
		return "", ap.Addr().Unmap(), ap.Port(), nil
	}
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return "", a.Unmap(), api.DefaultPort, nil
	}
	name, text, given := strings.Cut(s, ":")
	port = api.DefaultPort
	if given {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return "", addr, 0, fmt.Errorf("%q: give HOST or HOST:PORT", s)
		}
		port = uint16(n)
	}
	host, err = api.ParseHost(name)
	return host, addr, port, err
}

// policyOf finds the policy of an agent or a run, and where its secrets may go.
func (sh *shell) policyOf(ctx context.Context, q question) (n sandbox.Network, bound []api.Pattern, err error) {
	name := q.agent
	if q.run != "" {
		p, r, err := sh.findRun(q.run)
		if err != nil {
			return n, nil, err
		}
		if n, err = sandbox.RunNetwork(p.state, r.ID); err != nil {
			return n, nil, err
		}
		name = r.Agent
	}
	if name == "" {
		return n, nil, nil
	}
	_, m, err := sh.agent(ctx, name)
	if err != nil {
		return n, nil, err
	}
	if q.run == "" {
		kept, err := sh.allowedOf(name)
		if err != nil {
			return n, nil, err
		}
		n = withAllowed(networkOf(m.Network), kept)
	}
	bound, err = sh.boundHosts(ctx, m)
	return n, bound, err
}

// boundHosts returns where the secrets of an agent may go.
func (sh *shell) boundHosts(ctx context.Context, m *agent.Manifest) (bound []api.Pattern, err error) {
	if len(m.Secrets) == 0 {
		return nil, nil
	}
	infos, err := sh.listInfos(ctx, m.Name)
	if err != nil {
		return nil, err
	}
	for _, s := range m.Secrets {
		if b := s.Binding(); b != nil {
			bound = append(bound, b.Hosts...)
			continue
		}
		for _, info := range infos {
			if info.Name == s.Name {
				bound = append(bound, info.Binding.Hosts...)
			}
		}
	}
	return bound, nil
}

// policyChange is the flags of `policy set`.
type policyChange struct {
	file, mode                string
	allow, deny, allowPrivate []string
	set                       func(flag string) bool
}

func (sh *shell) policySetCommand() *cobra.Command {
	var c policyChange
	cmd := &cobra.Command{
		Use:   "set RUN|AGENT",
		Short: "Change what a running agent may reach, at once",
		Long: `Change what a run, or every run of an agent, may reach. New connections are judged by the new policy at once,
open ones that it refuses are reset. A list that a flag gives replaces that list; --file replaces all by the
network: section of a superserve.yaml. It lasts as long as the run: for the next, change superserve.yaml.`,
		Example: `  superserve policy set my-agent --deny '*.example.com'
  superserve policy set 3kq7 --file ./superserve.yaml`,
		Args: exactly("RUN or AGENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.set = cmd.Flags().Changed
			return sh.policySet(cmd.Context(), args[0], c)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&c.file, "file", "", "take the network: section of `FILE`")
	flags.StringVar(&c.mode, "network", "", "`MODE`: none, bound or public")
	flags.StringArrayVar(&c.allow, "allow", nil, "allow `HOST`, and only what is allowed ('' allows nothing more; repeatable)")
	flags.StringArrayVar(&c.deny, "deny", nil, "deny `HOST` ('' denies nothing more; repeatable)")
	flags.StringArrayVar(&c.allowPrivate, "allow-private", nil, "let rules reach `CIDR` ('' for none; repeatable)")
	return cmd
}

func (sh *shell) policySet(ctx context.Context, word string, c policyChange) error {
	if err := needRoot("superserve policy set"); err != nil {
		return err
	}
	if !slices.ContainsFunc([]string{"file", "network", "allow", "deny", "allow-private"}, c.set) {
		return usageError{"superserve policy set", "nothing to change"}
	}
	p, runs, err := sh.runsOf(word)
	if err != nil {
		return err
	}
	for _, r := range runs {
		n, err := sandbox.RunNetwork(p.state, r.ID)
		if err == nil {
			n, err = c.apply(n)
		}
		if err == nil {
			_, err = policyFor(n, nil, nil) // a better message than the proxy's, before anything is asked
		}
		if err == nil {
			err = sandbox.SetNetwork(ctx, p.state, r.ID, n)
		}
		if err != nil {
			return fmt.Errorf("run %s: %w", r.ID, err)
		}
		sh.done("Changed what run %s (%s) may reach", r.ID, r.Agent)
	}
	return nil
}

// apply makes the new policy of the old one.
func (c policyChange) apply(n sandbox.Network) (sandbox.Network, error) {
	if c.set("file") {
		if filepath.Base(c.file) != agent.ManifestName {
			return n, fmt.Errorf("--file: name a %s", agent.ManifestName)
		}
		m, err := agent.Load(filepath.Dir(c.file))
		if err != nil {
			return n, err
		}
		n = networkOf(m.Network)
	}
	if c.set("network") {
		if err := agent.CheckMode(c.mode); err != nil {
			return n, fmt.Errorf("--network: %w", err)
		}
		if n.Mode = c.mode; c.mode == egress.ModePublic {
			openNetwork(&n)
		}
	}
	for flag, list := range map[string]struct {
		from []string
		to   *[]string
	}{"allow": {c.allow, &n.Allow}, "deny": {c.deny, &n.Deny}, "allow-private": {c.allowPrivate, &n.AllowPrivate}} {
		if c.set(flag) {
			*list.to = slices.DeleteFunc(append([]string{}, list.from...), func(s string) bool { return s == "" })
		}
	}
	return n, nil
}

// runsOf returns the running runs that a word means: all of an agent, a run, or the beginning of one.
func (sh *shell) runsOf(word string) (places, []sandbox.Record, error) {
	p, err := sh.places()
	if err != nil {
		return p, nil, err
	}
	all, err := sandbox.List(p.state)
	if err != nil {
		return p, nil, err
	}
	all = slices.DeleteFunc(all, func(r sandbox.Record) bool { return !r.Running || r.Agent != word })
	if len(all) > 0 {
		return p, all, nil
	}
	_, r, err := sh.findRun(word)
	var unknown unknownError
	switch {
	case errors.As(err, &unknown):
		unknown.kind, unknown.list = "running run or agent", "superserve ps"
		return p, nil, unknown
	case err != nil:
		return p, nil, err
	case !r.Running:
		return p, nil, fmt.Errorf("run %s has ended already", r.ID)
	}
	return p, []sandbox.Record{r}, nil
}

func (sh *shell) policyShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show RUN|AGENT",
		Short: "Print what a run may reach now, as JSON",
		Args:  exactly("RUN or AGENT"),
		RunE: func(_ *cobra.Command, args []string) error {
			p, r, err := sh.findRun(args[0])
			if err != nil {
				return err
			}
			n, err := sandbox.RunNetwork(p.state, r.ID)
			if err != nil {
				return err
			}
			return sh.json(n)
		},
	}
}
