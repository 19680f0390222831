// Command server is a Vault server with integrated storage, the key-value and the transit
// engine, for tests. Vault's own command would link every engine and cloud there is.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"net/http"
	"os"
	"time"
	_ "unsafe" // for entPaths

	"github.com/hashicorp/go-hclog"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/command/server"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/physical/raft"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/vault"
)

func main() {
	dir := flag.String("dir", "", "where the storage is")
	listen := flag.String("listen", "", "host:port of the API")
	cluster := flag.String("cluster", "", "host:port at which members would find each other")
	cert := flag.String("cert", "", "certificate of the API")
	key := flag.String("key", "", "and its key")
	flag.Parse()
	if err := run(*dir, *listen, *cluster, *cert, *key); err != nil {
		log.Fatal(err)
	}
}

// entPaths are stubs of what the enterprise edition has. Vault's own build has a newer sdk
// than the published one, which finds fault with them.
//
//go:linkname entPaths github.com/hashicorp/vault/vault.entPaths
var entPaths func(*vault.SystemBackend) []*framework.Path

func init() { entPaths = func(*vault.SystemBackend) []*framework.Path { return nil } }

// newTransit is the engine's Factory, which fills in what the published sdk asks for where
// the engine lacks it, the settings of its cache: whether what is to be created is there.
func newTransit(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	b, err := transit.Backend(ctx, conf)
	if err != nil {
		return nil, err
	}
	for _, p := range b.Paths {
		if p.ExistenceCheck == nil && p.Operations[logical.CreateOperation] != nil {
			p.ExistenceCheck = func(context.Context, *logical.Request, *framework.FieldData) (bool, error) { return false, nil }
		}
	}
	return b, b.Setup(ctx, conf)
}

// none is a registry of no further plugins.
type none struct{}

func (none) Contains(string, consts.PluginType) bool                   { return false }
func (none) Get(string, consts.PluginType) (func() (any, error), bool) { return nil, false }
func (none) Keys(consts.PluginType) []string                           { return nil }
func (none) IsBuiltinEntPlugin(string, consts.PluginType) bool         { return false }
func (none) DeprecationStatus(string, consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Unknown, false
}

func run(dir, listen, cluster, cert, key string) error {
	logger := hclog.New(&hclog.LoggerOptions{Output: os.Stderr, Level: hclog.Warn})
	storage, err := raft.NewRaftBackend(map[string]string{"path": dir, "node_id": "one", "performance_multiplier": "1"}, logger)
	if err != nil {
		return err
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical: storage, HAPhysical: storage.(physical.HABackend), StorageType: "raft",
		RedirectAddr: "https://" + listen, ClusterAddr: "https://" + cluster,
		LogicalBackends: map[string]logical.Factory{"kv": kv.Factory, "transit": newTransit},
		BuiltinRegistry: none{},
		RawConfig:       server.NewConfig(), Logger: logger, DisableMlock: true,
		DefaultLeaseTTL: time.Hour, MaxLeaseTTL: time.Hour,
	})
	if err != nil {
		return err
	}
	addr, err := net.ResolveTCPAddr("tcp", cluster)
	if err != nil {
		return err
	}
	core.SetClusterListenerAddrs([]*net.TCPAddr{addr})
	handler := vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core, ListenerConfig: &configutil.Listener{
		MaxRequestSize: vaulthttp.DefaultMaxRequestSize, MaxRequestDuration: vault.DefaultMaxRequestDuration,
	}})
	core.SetClusterHandler(handler)
	api := &http.Server{Addr: listen, Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	return api.ListenAndServeTLS(cert, key)
}
