// Package tpm keeps the key of a store in a TPM 2.0: a key that only this machine's TPM
// unseals, as long as it measures the same boot where that is asked for, and a counter
// that nobody can turn back.
package tpm

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/superserve/superserve/secretd/locked"
	"github.com/superserve/superserve/secretd/seal"
)

// Device is the kernel's resource-managed TPM.
const Device = "/dev/tpmrm0"

// nonceSize is the length of a session's nonces, in bytes.
const nonceSize = 16

// Key is a seal.Source: a key sealed by the TPM's storage root key, which is derived
// from the TPM's own seed and takes no place in it.
type Key struct {
	// Device is a TPM's character device, or a unix socket that speaks TPM commands.
	Device string
	// PCRs are the platform configuration registers (SHA-256 bank) whose values at
	// the time of sealing the TPM demands again; none demands nothing but this TPM.
	PCRs []uint
}

// sealedKey is the header: the object as the TPM made it, wrapped by itself.
type sealedKey struct {
	Public  []byte `json:"public"`
	Private []byte `json:"private"`
	PCRs    []uint `json:"pcrs,omitempty"`
}

// Kind returns "tpm2".
func (Key) Kind() string { return "tpm2" }

// New draws a key and seals it.
func (k Key) New(_ context.Context, _ string, _ bool) (key, header []byte, err error) {
	t, err := open(k.Device)
	if err != nil {
		return nil, nil, err
	}
	defer t.Close()
	parent, done, err := storageRoot(t)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	policy, err := k.policy(t)
	if err != nil {
		return nil, nil, err
	}
	key = make([]byte, seal.KeySize)
	_, _ = rand.Read(key)
	made, err := create(t, parent, key, policy)
	if err == nil {
		header, err = json.Marshal(sealedKey{Public: made.OutPublic.Bytes(), Private: made.OutPrivate.Buffer, PCRs: k.PCRs})
	}
	if err != nil {
		locked.Wipe(key)
		return nil, nil, fmt.Errorf("seal key: %w", err)
	}
	return key, header, nil
}

// create seals key under parent. The session's encryption keeps it off the TPM's bus.
func create(t transport.TPM, parent root, key, policy []byte) (*tpm2.CreateResponse, error) {
	return tpm2.Create{
		ParentHandle: tpm2.AuthHandle{
			Handle: parent.handle, Name: parent.name,
			Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, tpm2.Salted(parent.handle, *parent.public), tpm2.AESEncryption(128, tpm2.EncryptIn)),
		},
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: key}),
		}},
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type:    tpm2.TPMAlgKeyedHash,
			NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{
				FixedTPM: true, FixedParent: true, NoDA: true,
				// With a policy, the policy is the only way.
				UserWithAuth: len(policy) == 0, AdminWithPolicy: len(policy) > 0,
			},
			AuthPolicy: tpm2.TPM2BDigest{Buffer: policy},
		}),
	}.Execute(t)
}

// Key unseals the key of a header. The error wraps seal.ErrKey when it was sealed by
// another TPM or for another boot.
func (k Key) Key(_ context.Context, _ string, header []byte) ([]byte, error) {
	var from sealedKey
	if err := json.Unmarshal(header, &from); err != nil || from.check() != nil {
		return nil, errors.New("its header is damaged")
	}
	t, err := open(k.Device)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	parent, done, err := storageRoot(t)
	if err != nil {
		return nil, err
	}
	defer done()
	loaded, err := tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: parent.handle, Name: parent.name, Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize)},
		InPrivate:    tpm2.TPM2BPrivate{Buffer: from.Private},
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](from.Public),
	}.Execute(t)
	if err != nil {
		return nil, fmt.Errorf("load key: %w: %w", seal.ErrKey, err)
	}
	defer flush(t, loaded.ObjectHandle)
	out, err := tpm2.Unseal{
		ItemHandle: tpm2.AuthHandle{Handle: loaded.ObjectHandle, Name: loaded.Name, Auth: unsealSession(parent, from.PCRs)},
	}.Execute(t)
	if errors.Is(err, tpm2.TPMRCPolicyFail) {
		return nil, fmt.Errorf("unseal key: the machine did not boot as when the key was sealed (PCRs %v): %w", from.PCRs, seal.ErrKey)
	}
	if err != nil {
		return nil, fmt.Errorf("unseal key: %w: %w", seal.ErrKey, err)
	}
	return out.OutData.Buffer, nil
}

// Retire does nothing: the sealed key lies in the store alone.
func (Key) Retire(context.Context, []byte) error { return nil }

func (s sealedKey) check() error {
	if len(s.PCRs) > maxPCR || len(s.Public) == 0 || len(s.Private) == 0 {
		return errors.New("damaged")
	}
	return checkPCRs(s.PCRs)
}

// maxPCR is the highest register of the PC client profile.
const maxPCR = 23

func checkPCRs(pcrs []uint) error {
	for _, p := range pcrs {
		if p > maxPCR {
			return fmt.Errorf("PCR %d: the highest is %d", p, maxPCR)
		}
	}
	return nil
}

// unsealSession answers a key's policy and has the TPM encrypt what it sends back.
func unsealSession(parent root, pcrs []uint) tpm2.Session {
	options := []tpm2.AuthOption{tpm2.Salted(parent.handle, *parent.public), tpm2.AESEncryption(128, tpm2.EncryptOut)}
	if len(pcrs) == 0 {
		return tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, options...)
	}
	return tpm2.Policy(tpm2.TPMAlgSHA256, nonceSize, func(t transport.TPM, session tpm2.TPMISHPolicy, _ tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicyPCR{PolicySession: session, Pcrs: selection(pcrs)}.Execute(t)
		return err
	}, options...)
}

// policy returns the digest of "the PCRs have the values of now", or none.
func (k Key) policy(t transport.TPM) ([]byte, error) {
	if len(k.PCRs) == 0 {
		return nil, nil
	}
	if err := checkPCRs(k.PCRs); err != nil {
		return nil, err
	}
	session, done, err := tpm2.PolicySession(t, tpm2.TPMAlgSHA256, nonceSize, tpm2.Trial())
	if err != nil {
		return nil, fmt.Errorf("make policy: %w", err)
	}
	defer func() { _ = done() }()
	if _, err := (tpm2.PolicyPCR{PolicySession: session.Handle(), Pcrs: selection(k.PCRs)}).Execute(t); err != nil {
		return nil, fmt.Errorf("make policy: %w", err)
	}
	digest, err := tpm2.PolicyGetDigest{PolicySession: session.Handle()}.Execute(t)
	if err != nil {
		return nil, fmt.Errorf("make policy: %w", err)
	}
	return digest.PolicyDigest.Buffer, nil
}

func selection(pcrs []uint) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...),
	}}}
}

// root is the loaded storage root key.
type root struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public *tpm2.TPMTPublic
}

func storageRoot(t transport.TPM) (root, func(), error) {
	made, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(t)
	if err != nil {
		return root{}, nil, fmt.Errorf("derive storage root key: %w", err)
	}
	public, err := made.OutPublic.Contents()
	if err != nil {
		flush(t, made.ObjectHandle)
		return root{}, nil, fmt.Errorf("derive storage root key: %w", err)
	}
	return root{made.ObjectHandle, made.Name, public}, func() { flush(t, made.ObjectHandle) }, nil
}

func flush(t transport.TPM, h tpm2.TPMHandle) { _, _ = tpm2.FlushContext{FlushHandle: h}.Execute(t) }

func open(device string) (transport.TPMCloser, error) {
	info, err := os.Stat(device)
	if err != nil {
		return nil, fmt.Errorf("open TPM: %w", err)
	}
	dial := linuxtpm.Open
	if info.Mode()&os.ModeSocket != 0 {
		dial = linuxudstpm.Open
	}
	t, err := dial(device)
	if err != nil {
		return nil, fmt.Errorf("open TPM: %w", err)
	}
	return t, nil
}
