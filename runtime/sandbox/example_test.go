package sandbox_test

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/api"
)

// Vault stands for where a platform keeps its customers' keys.
type Vault map[string]string

// Secret implements sandbox.Source.
func (v Vault) Secret(_ context.Context, name string) ([]byte, error) {
	key, ok := v[name]
	if !ok {
		return nil, fmt.Errorf("no key %s", name)
	}
	return []byte(key), nil
}

// A platform starts an agent with keys from its own store, waits for it, and reads its exit code. The agent calls an API
// with a placeholder; the API gets the key; what comes back has the key taken out again.
func Example() {
	// The API, played by a local server.
	var saw string
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		saw = r.Header.Get("X-Api-Key")
		fmt.Fprintln(w, "hello,", saw)
	}))
	defer server.Close()

	state, err := os.MkdirTemp("", "superserve-example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(state)

	host, err := api.ParsePattern("example.com")
	if err != nil {
		panic(err)
	}
	header, err := api.ParseUse("header:x-api-key")
	if err != nil {
		panic(err)
	}
	binding := &api.Binding{Hosts: []api.Pattern{host}, Uses: []api.Use{header}}

	var output strings.Builder
	result, err := sandbox.Run(context.Background(), sandbox.Config{
		Binary:  exampleBinary(), // leave it out where superserve is in PATH
		State:   state,           // a service would use /var/lib/superserve
		Agent:   "demo",
		Command: []string{"sh", "-c", `curl -s -H "x-api-key: $EXAMPLE_KEY" https://example.com/hello; exit 3`},
		Stdout:  &output,
		Network: sandbox.Network{Mode: "bound"}, // nothing but the hosts of the keys
		Secrets: sandbox.FromSource(Vault{"EXAMPLE_KEY": "sk-live-3f9a0c"}, []sandbox.SourceSecret{
			{Name: "EXAMPLE_KEY", Binding: binding}, // not needed for names that superserve knows, such as OPENAI_API_KEY
		}),

		// Only because the API is local:
		Resolve:    []string{"example.com:443:" + server.Listener.Addr().String()},
		UpstreamCA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
	})
	if err != nil {
		fmt.Println("the sandbox failed:", err)
		return
	}
	fmt.Println("the API saw the key:", saw == "sk-live-3f9a0c")
	fmt.Println("the agent saw the key:", strings.Contains(output.String(), "sk-live-3f9a0c"))
	fmt.Println("the agent ended with code", result.Code)

	// Output:
	// the API saw the key: true
	// the agent saw the key: false
	// the agent ended with code 3
}
