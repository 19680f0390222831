package swap

// credentialNames are the fields, besides Authorization, that carry keys of
// well-known services. A binding without uses lets its secret go in any of them,
// and on a bound host none may carry a key of the agent's own. In lower case.
func credentialNames() []string {
	return []string{
		"authorization", "proxy-authorization",
		"x-api-key", "api-key", "apikey", "x-apikey", "api_key", "x-api-token", "api-token",
		"x-auth-token", "x-auth-key", "auth-token", "x-access-token", "access-token", "x-token", "x-secret-key",
		"x-goog-api-key", "x-amz-security-token", "x-functions-key", "ocp-apim-subscription-key",
		"private-token", "job-token", "deploy-token", "circle-token", "snyk-token",
		"x-rapidapi-key", "x-subscription-token", "xi-api-key", "x-figma-token", "x-n8n-api-key",
		"dd-api-key", "dd-application-key", "x-honeycomb-team", "x-newrelic-api-key", "x-insert-key", "x-query-key",
		"x-vault-token", "x-consul-token", "x-shopify-access-token", "x-octopus-apikey", "x-redmine-api-key",
		"x-algolia-api-key", "x-typesense-api-key", "x-postmark-server-token", "x-postmark-account-token",
		"x-riot-token", "x-finnhub-token", "x-cg-pro-api-key", "x-cmc_pro_api_key", "x-mbx-apikey",
		"x-master-key", "x-access-key", "x-plex-token", "x-emby-token", "x-tableau-auth",
	}
}

// nameSet holds lower-case field names by their length, so that a request's other
// fields cost one look each. It is read-only once built.
type nameSet struct {
	byLength [][]string
}

func newNameSet() nameSet {
	var n nameSet
	for _, name := range credentialNames() {
		n.add(name)
	}
	return n
}

func (n *nameSet) add(name string) {
	for len(n.byLength) <= len(name) {
		n.byLength = append(n.byLength, nil)
	}
	for _, known := range n.byLength[len(name)] {
		if known == name {
			return
		}
	}
	n.byLength[len(name)] = append(n.byLength[len(name)], name)
}

// find returns the canonical form of name, "" when it is not in the set.
func (n *nameSet) find(name []byte) string {
	if len(name) >= len(n.byLength) {
		return ""
	}
	for _, known := range n.byLength[len(name)] {
		if equalFold(name, known) {
			return known
		}
	}
	return ""
}

// equalFold reports whether b is lower, which is in lower case, in any case of
// ASCII. bytes.EqualFold would also take the Kelvin sign for a k.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
