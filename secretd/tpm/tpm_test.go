package tpm

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/superserve/superserve/secretd/ledger"
	"github.com/superserve/superserve/secretd/seal"
)

// emulator runs swtpm with a state of its own and returns its socket.
func emulator(t testing.TB) string {
	t.Helper()
	binary, err := exec.LookPath("swtpm")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("swtpm is missing")
		}
		t.Skip("swtpm is missing")
	}
	dir, err := os.MkdirTemp("", "tpm") // short: a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "tpm.sock")
	cmd := exec.Command(binary, "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket,
		"--ctrl", "type=unixio,path="+socket+".ctrl", "--flags", "not-need-init,startup-clear")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		// The socket is there a moment before anybody listens.
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return socket
		}
		if time.Now().After(deadline) {
			t.Fatal("swtpm does not listen")
		}
	}
}

func TestKey(t *testing.T) {
	ctx, device := t.Context(), emulator(t)
	for name, k := range map[string]Key{"this TPM": {Device: device}, "this TPM and boot": {Device: device, PCRs: []uint{7, 16}}} {
		t.Run("it seals to "+name, func(t *testing.T) {
			key, header, err := k.New(ctx, "s", false)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(header, key) || len(header) > seal.MaxHeader {
				t.Errorf("header of %d bytes", len(header))
			}
			got, err := k.Key(ctx, "s", header)
			if err != nil || !bytes.Equal(got, key) {
				t.Fatalf("unseal: %v", err)
			}
		})
	}
	t.Run("it refuses another TPM's key", func(t *testing.T) {
		_, header, err := Key{Device: emulator(t)}.New(ctx, "s", false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (Key{Device: device}).Key(ctx, "s", header); !errors.Is(err, seal.ErrKey) {
			t.Fatalf("got %v; want ErrKey", err)
		}
	})
	t.Run("it refuses after another boot", func(t *testing.T) {
		k := Key{Device: device, PCRs: []uint{16}}
		_, header, err := k.New(ctx, "s", false)
		if err != nil {
			t.Fatal(err)
		}
		extend(t, device, 16)
		if _, err := k.Key(ctx, "s", header); !errors.Is(err, seal.ErrKey) {
			t.Fatalf("got %v; want ErrKey", err)
		}
	})
	t.Run("it refuses a header that asks for no registers", func(t *testing.T) {
		k := Key{Device: device, PCRs: []uint{7}}
		_, header, err := k.New(ctx, "s", false)
		if err != nil {
			t.Fatal(err)
		}
		widened := bytes.Replace(header, []byte(`,"pcrs":[7]`), nil, 1)
		if _, err := k.Key(ctx, "s", widened); err == nil {
			t.Fatal("unsealed without its policy")
		}
	})
	t.Run("it leaves nothing loaded", func(t *testing.T) {
		for range 8 { // a TPM has three places for objects
			_, header, err := Key{Device: device}.New(ctx, "s", false)
			if err == nil {
				_, err = Key{Device: device}.Key(ctx, "s", header)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}

func extend(t *testing.T, device string, pcr uint32) {
	t.Helper()
	d, err := open(device)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	_, err = tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}},
	}.Execute(d)
	if err != nil {
		t.Fatal(err)
	}
}

func FuzzHeader(f *testing.F) {
	f.Add([]byte(`{"public":"AA==","private":"AA==","pcrs":[7]}`))
	f.Add([]byte(`{"pcrs":[99]}`))
	f.Fuzz(func(t *testing.T, header []byte) {
		if key, err := (Key{Device: "/nonexistent"}).Key(t.Context(), "s", header); err == nil {
			t.Fatalf("a key of %d bytes out of nothing", len(key))
		}
	})
}

func TestCounter(t *testing.T) {
	ctx, c := t.Context(), Counter{Device: emulator(t)}
	if _, err := c.Load(ctx, "s"); !errors.Is(err, ledger.ErrAnchor) || !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v; want ErrAnchor and ErrNotExist", err)
	}
	var first uint64
	for i := range uint64(4) {
		if err := c.Save(ctx, "s", first+i); err != nil {
			t.Fatal(err)
		}
		got, err := c.Load(ctx, "s")
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = got
		}
		if got != first+i {
			t.Fatalf("counter %d; want %d", got, first+i)
		}
	}
	if err := c.Save(ctx, "s", 1); err != nil {
		t.Fatal(err)
	}
	if got, _ := c.Load(ctx, "s"); got != first+3 {
		t.Fatalf("went back to %d", got)
	}
	if err := c.Remove("s"); err != nil {
		t.Fatal(err)
	}
	if err := c.Save(ctx, "s", 1); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Load(ctx, "s"); err != nil || got <= first+3 {
		t.Fatalf("a counter that was made again begins at %d, %v; want more than %d", got, err, first+3)
	}
}

// TestCounterThatIsNone puts memory that anybody can set where the counter was.
func TestCounterThatIsNone(t *testing.T) {
	ctx, c := t.Context(), Counter{Device: emulator(t)}
	if err := c.Save(ctx, "store", 3); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove("store"); err != nil {
		t.Fatal(err)
	}
	dev, err := open(c.Device)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.NVDefineSpace{
		AuthHandle: tpm2.TPMRHOwner,
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: index("store"), NameAlg: tpm2.TPMAlgSHA256, DataSize: counterSize,
			Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, NT: tpm2.TPMNTOrdinary, NoDA: true},
		}),
	}.Execute(dev)
	if err != nil {
		t.Fatal(err)
	}
	public, err := tpm2.NVReadPublic{NVIndex: index("store")}.Execute(dev)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.NVWrite{
		AuthHandle: owner(), NVIndex: tpm2.NamedHandle{Handle: index("store"), Name: public.NVName},
		Data: tpm2.TPM2BMaxNVBuffer{Buffer: []byte{0, 0, 0, 0, 0, 0, 0, 1}},
	}.Execute(dev)
	dev.Close()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := c.Load(ctx, "store"); !errors.Is(err, ledger.ErrAnchor) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("counted %d, %v; want ErrAnchor", n, err)
	}
	if err := c.Save(ctx, "store", 1); err == nil {
		t.Error("saved in what is no counter")
	}
}
