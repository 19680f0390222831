//go:build e2e

package e2e

import (
	"bufio"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
)

const paceHost, abusedHost = "pace.test", "abused.test"

// TestNeighbours runs an agent that asks for one small answer after the other beside one that keeps its processors
// and its proxy as busy as it can, within limits: how much does the first one's p99 rise? Turns with the
// attack and without take each other's place, as the machine has other things to do too. NEIGHBOURS says how many
// (`make neighbours`: 40); with fewer than 20 the ratio is printed, not judged (docs/LIMITS.md).
func TestNeighbours(t *testing.T) {
	turns := times(t, "NEIGHBOURS", 1)
	a := newArena(t, "secrets: [OPENAI_API_KEY]\n")
	a.set("probe", "OPENAI_API_KEY", openaiKey, "--host", paceHost, "--host", abusedHost)
	neighbour := a.beside(t, paceHost, atOnce(), "pace")
	for _, c := range []struct {
		name  string
		most  float64 // times the p99 alone
		flags []string
	}{
		{"half a processor", 1.10, []string{"--cpus", "0.5", "--memory", "256M", "--pids", "200"}},
		{"no limits", 0, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			// In life its upstream is another machine. Here it may have what nobody else wants.
			attacker := a.beside(t, abusedHost, []string{"chrt", "-i", "0"}, "abuse", c.flags...)
			ratio := compare(t, neighbour, attacker, turns)
			if turns >= 20 && c.most > 0 && ratio > c.most {
				t.Errorf("an attack makes a neighbour's p99 %.2f times as long, want at most %.2f", ratio, c.most)
			}
		})
	}
}

// atOnce is what starts an upstream that answers as another machine would: whatever runs here. There may be no
// real-time group for it (cgroup1); then it is a process as any other.
func atOnce() []string {
	under := []string{"chrt", "-f", "1"}
	if exec.Command(under[0], append(under[1:], "true")...).Run() != nil {
		return nil
	}
	return under
}

// compare returns how many times as long the neighbour's p99 is while the attacker attacks.
func compare(t *testing.T, neighbour, attacker *captive, turns int) float64 {
	asked := 200
	if turns >= 20 {
		asked = 2000
	}
	ask := func() (p50, p99 time.Duration) {
		neighbour.tell(strconv.Itoa(asked))
		line, _ := neighbour.next()
		if _, err := fmt.Sscan(line, &p50, &p99); err != nil {
			t.Fatalf("the neighbour said %q\nstderr: %s", line, neighbour.stderr)
		}
		return p50, p99
	}
	attack := func(word string) {
		attacker.tell(word)
		attacker.expect(word)
	}
	ask() // the first connection, and warm caches
	var quiet, loud, halves, ratios []time.Duration
	for range turns {
		half, before := ask()
		attack("on")
		halfLoud, during := ask()
		attack("off")
		quiet, loud = append(quiet, before), append(loud, during)
		halves, ratios = append(halves, 1000*halfLoud/half), append(ratios, 1000*during/before)
	}
	ratio := float64(middle(ratios)) / 1000
	fmt.Printf("neighbours: %s: p99 %v alone, %v beside an attack: %.2fx, p50 %.2fx, medians of %d turns\n", t.Name(),
		middle(quiet).Round(time.Microsecond), middle(loud).Round(time.Microsecond), ratio, float64(middle(halves))/1000, turns)
	return ratio
}

func middle(all []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(all))[len(all)/2]
}

// beside starts a run of the probe, and an upstream for it that is a process of its own, started by the command under.
func (a *arena) beside(t *testing.T, host string, under []string, command string, flags ...string) *captive {
	t.Helper()
	u := a.answering(t, host, under)
	flags = append(flags, "--upstream-ca", u.caFile, "--resolve", fmt.Sprintf("%s:443:127.0.0.1:%d", host, u.port))
	in := *a
	in.host = nil
	c := in.start(t, flags, command, host)
	c.expect("ready")
	return c
}

// answering starts an upstream outside of this process, which would else be a part of what is measured.
func (a *arena) answering(t *testing.T, host string, under []string) *upstream {
	t.Helper()
	ca, key, der := authority(t)
	cert := leaf(t, ca, key, []string{host})
	secret, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{caFile: filepath.Join(t.TempDir(), "ca.pem")}
	own := filepath.Join(t.TempDir(), "own.pem")
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})
	for file, text := range map[string][]byte{
		u.caFile: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		own:      append(chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...),
	} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	argv := append(slices.Clone(under), filepath.Join(a.dir, "probe"), "answer", own)
	cmd := exec.Command(argv[0], argv[1:]...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, _ := bufio.NewReader(out).ReadString('\n')
	if _, err := fmt.Sscan(line, &u.port); err != nil {
		t.Fatalf("the upstream said %q: %v", line, err)
	}
	return u
}
