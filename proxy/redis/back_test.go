package redis

import (
	"strings"
	"testing"

	"github.com/superserve/superserve/proxy/login/logintest"
)

// TestPasswordComesBackOnAnotherConnection has an agent make itself a user without a password, and ask as that one.
func TestPasswordComesBackOnAnotherConnection(t *testing.T) {
	r := logintest.StartRedis(t)
	rig := newRig(t, r, secret("REDIS_URL", "", logintest.Password))
	if out := cli(t, rig, false, "", "-a", rig.Password(t, "REDIS_URL"), "ACL", "SETUSER", "guest", "on", "nopass", "~*", "&*", "+@all"); out != "OK" {
		t.Fatalf("redis-cli said %q", out)
	}
	out := cli(t, rig, false, "", "--user", "guest", "--pass", "any", "CONFIG", "GET", "requirepass")
	if !strings.HasPrefix(out, "requirepass\n") || strings.Contains(out, logintest.Password) {
		t.Errorf("redis-cli said %q", out)
	}
}
