package tpm

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/superserve/superserve/secretd/ledger"
)

// Counter is a ledger.Anchor: a counter in the TPM, one a store. It only goes up; and
// who removes it and makes it again gets one that begins above all that the TPM ever
// had (TPM 2.0 part 1, section 37.2.4). It is safe for concurrent use as far as the
// device is.
type Counter struct {
	// Device is a TPM's character device, or a unix socket that speaks TPM commands.
	Device string
}

const (
	// firstIndex and indices are the range that belongs to the owner (TCG registry of
	// reserved handles).
	firstIndex = 0x01800000
	indices    = 1 << 22
	// maxSteps is how far a counter may be behind. Each step is a write to the TPM's
	// own memory, 0.3 ms in swtpm and up to 20 in a chip.
	maxSteps    = 256
	counterSize = 8
)

// index is where a store's counter lies.
func index(store string) tpm2.TPMHandle {
	sum := sha256.Sum256([]byte("superserve anchor 1\x00" + store))
	return tpm2.TPMHandle(firstIndex + binary.BigEndian.Uint32(sum[:])%indices)
}

// Load returns the counter of a store. The error wraps ledger.ErrAnchor and
// fs.ErrNotExist when the TPM has none.
func (c Counter) Load(_ context.Context, store string) (uint64, error) {
	t, err := open(c.Device)
	if err != nil {
		return 0, err
	}
	defer t.Close()
	name, err := nameOf(t, store)
	if err != nil {
		return 0, err
	}
	return read(t, store, name)
}

// Save counts up to generation.
func (c Counter) Save(_ context.Context, store string, generation uint64) error {
	t, err := open(c.Device)
	if err != nil {
		return err
	}
	defer t.Close()
	name, err := nameOf(t, store)
	if errors.Is(err, fs.ErrNotExist) {
		if name, err = define(t, store); err == nil {
			// A counter has no value before its first step, which changes its name.
			err = step(t, store, name)
		}
		if err == nil {
			name, err = nameOf(t, store)
		}
	}
	if err != nil {
		return err
	}
	for range maxSteps {
		value, err := read(t, store, name)
		if err != nil || value >= generation {
			return err
		}
		if err := step(t, store, name); err != nil {
			return err
		}
	}
	return fmt.Errorf("TPM counter is more than %d behind", maxSteps)
}

// Remove takes the counter of a store out of the TPM.
func (c Counter) Remove(store string) error {
	t, err := open(c.Device)
	if err != nil {
		return err
	}
	defer t.Close()
	name, err := nameOf(t, store)
	if err != nil {
		return err
	}
	_, err = tpm2.NVUndefineSpace{AuthHandle: tpm2.TPMRHOwner, NVIndex: tpm2.NamedHandle{Handle: index(store), Name: name}}.Execute(t)
	if err != nil {
		return fmt.Errorf("remove TPM counter: %w", err)
	}
	return nil
}

func nameOf(t transport.TPM, store string) (tpm2.TPM2BName, error) {
	public, err := tpm2.NVReadPublic{NVIndex: index(store)}.Execute(t)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return tpm2.TPM2BName{}, fmt.Errorf("%w: the TPM has no counter for it: %w", ledger.ErrAnchor, fs.ErrNotExist)
	}
	if err != nil {
		return tpm2.TPM2BName{}, fmt.Errorf("read TPM counter: %w", err)
	}
	what, err := public.NVPublic.Contents()
	if err != nil {
		return tpm2.TPM2BName{}, fmt.Errorf("read TPM counter: %w", err)
	}
	// Memory of another kind could be set to anything by whoever may write it.
	if what.Attributes.NT != tpm2.TPMNTCounter || what.DataSize != counterSize {
		return tpm2.TPM2BName{}, fmt.Errorf("%w: what the TPM has in its place is no counter", ledger.ErrAnchor)
	}
	return public.NVName, nil
}

func define(t transport.TPM, store string) (tpm2.TPM2BName, error) {
	_, err := tpm2.NVDefineSpace{
		AuthHandle: tpm2.TPMRHOwner,
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex:    index(store),
			NameAlg:    tpm2.TPMAlgSHA256,
			Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, NT: tpm2.TPMNTCounter, NoDA: true},
			DataSize:   counterSize,
		}),
	}.Execute(t)
	if err != nil {
		return tpm2.TPM2BName{}, fmt.Errorf("make TPM counter: %w", err)
	}
	return nameOf(t, store)
}

func owner() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize)}
}

func step(t transport.TPM, store string, name tpm2.TPM2BName) error {
	_, err := tpm2.NVIncrement{AuthHandle: owner(), NVIndex: tpm2.NamedHandle{Handle: index(store), Name: name}}.Execute(t)
	if err != nil {
		return fmt.Errorf("step TPM counter: %w", err)
	}
	return nil
}

func read(t transport.TPM, store string, name tpm2.TPM2BName) (uint64, error) {
	out, err := tpm2.NVRead{AuthHandle: owner(), NVIndex: tpm2.NamedHandle{Handle: index(store), Name: name}, Size: counterSize}.Execute(t)
	if err != nil {
		return 0, fmt.Errorf("read TPM counter: %w", err)
	}
	if len(out.Data.Buffer) != counterSize {
		return 0, errors.New("read TPM counter: it is cut")
	}
	return binary.BigEndian.Uint64(out.Data.Buffer), nil
}
