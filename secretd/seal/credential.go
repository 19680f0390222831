package seal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/secretd/locked"
)

// Credential is a Source: a credential that systemd hands to the service
// (LoadCredential= or LoadCredentialEncrypted=, systemd.exec(5)): KeySize raw bytes in a
// file below $CREDENTIALS_DIRECTORY. systemd-creds can tie it to this machine's TPM.
type Credential struct {
	// Dir is $CREDENTIALS_DIRECTORY; "" means that no service manager gave one.
	Dir string
	// Name is the credential's, a file name.
	Name string
}

// Kind returns "credential".
func (Credential) Kind() string { return "credential" }

// New returns the credential. A new one cannot be drawn here: after a change of the
// store's key the root key is new and the credential is the one that was given.
func (s Credential) New(_ context.Context, _ string, _ bool) (key, header []byte, err error) {
	key, err = s.read()
	if err != nil {
		return nil, nil, err
	}
	return key, keyID(key), nil
}

// Key returns the credential, when it is the one of the header.
func (s Credential) Key(_ context.Context, _ string, header []byte) ([]byte, error) {
	key, err := s.read()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(keyID(key), header) {
		locked.Wipe(key)
		return nil, fmt.Errorf("credential %q: %w", s.Name, ErrKey)
	}
	return key, nil
}

// Retire does nothing: a credential is its giver's.
func (Credential) Retire(context.Context, []byte) error { return nil }

func (s Credential) read() ([]byte, error) {
	if s.Dir == "" {
		return nil, fmt.Errorf("credential %q: CREDENTIALS_DIRECTORY is not set: no service manager gave any", s.Name)
	}
	if s.Name == "" || s.Name != filepath.Base(s.Name) || s.Name[0] == '.' {
		return nil, fmt.Errorf("credential %q: not a name", s.Name)
	}
	path := filepath.Join(s.Dir, s.Name)
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read credential: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("read credential: %w", err)
	}
	if err := checkGiven(path, &st); err != nil {
		return nil, err
	}
	key := make([]byte, KeySize+1)
	if n, err := io.ReadFull(f, key); n != KeySize || !errors.Is(err, io.ErrUnexpectedEOF) {
		locked.Wipe(key)
		return nil, fmt.Errorf("credential %q is not a key of %d bytes", s.Name, KeySize)
	}
	return key[:KeySize], nil
}

// checkGiven takes what systemd makes: a file of root's or of the service's user. Where
// an access list lets that user read root's file, the mode shows its mask as the group's
// read bit, so that bit says nothing.
func checkGiven(path string, st *unix.Stat_t) error {
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("refuse %q: it is not a plain file", path)
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("refuse %q: it belongs to uid %d", path, st.Uid)
	case st.Mode&0o037 != 0:
		return fmt.Errorf("refuse %q: its mode %04o lets others in", path, st.Mode&0o7777)
	}
	return nil
}
