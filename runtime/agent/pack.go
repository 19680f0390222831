package agent

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"github.com/superserve/superserve/secretd/api"
)

// ErrLarge means that a project is too large for a store that hosts share.
var ErrLarge = errors.New("the project is too large for the shared store")

// Package is a project packed into one file: a tar of folders, regular files and symlinks, compressed by zstd. The same
// files give the same bytes; owners and times do not travel. Its file has no name.
type Package struct {
	*os.File
	Snapshot
	Digest string   // SHA-256 in hex
	Size   int64    // bytes
	Sums   [][]byte // SHA-256 of each part of api.PartSize
}

// Pack packs the project at dir without what Deploy leaves out. The caller closes it. The error wraps ErrLarge when it
// becomes larger than api.MaxSnapshot.
func Pack(ctx context.Context, dir string, ignore []string) (*Package, error) {
	ig, err := NewIgnore(ignore)
	if err != nil {
		return nil, err
	}
	from, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	defer from.Close()
	file, err := nameless("")
	if err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	p := &Package{File: file}
	if err := p.fill(ctx, from, ig); err != nil {
		return nil, errors.Join(fmt.Errorf("pack: %w", err), file.Close())
	}
	return p, nil
}

// nameless makes a file that is gone when it is closed.
func nameless(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".superserve-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (p *Package) fill(ctx context.Context, from *os.Root, ig *Ignore) error {
	limited := &limitedWriter{to: p.File, left: api.MaxSnapshot}
	// One goroutine: the same bytes whatever machine packs.
	packed, err := zstd.NewWriter(limited, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return err
	}
	out := tar.NewWriter(packed)
	p.Snapshot, err = snapshot(ctx, from, tarball{out}, ig)
	err = errors.Join(err, out.Close(), packed.Close())
	if limited.full {
		return fmt.Errorf("%w: packed it has more than %d MiB: leave some out with `ignore` in %s", ErrLarge, api.MaxSnapshot>>20, ManifestName)
	}
	if err != nil {
		return err
	}
	p.Size = api.MaxSnapshot - limited.left
	return p.sum()
}

// sum computes the digest and the sums of the parts.
func (p *Package) sum() error {
	whole, part := sha256.New(), sha256.New()
	for from := int64(0); from < p.Size; from += api.PartSize {
		part.Reset()
		section := io.NewSectionReader(p.File, from, min(api.PartSize, p.Size-from))
		if _, err := io.Copy(io.MultiWriter(whole, part), section); err != nil {
			return err
		}
		p.Sums = append(p.Sums, part.Sum(nil))
	}
	p.Digest = hex.EncodeToString(whole.Sum(nil))
	return nil
}

// limitedWriter refuses what is more than left bytes.
type limitedWriter struct {
	to   io.Writer
	left int64
	full bool
}

// Write implements io.Writer.
func (w *limitedWriter) Write(b []byte) (int, error) {
	if int64(len(b)) > w.left {
		w.full = true
		return 0, ErrLarge
	}
	n, err := w.to.Write(b)
	w.left -= int64(n)
	return n, err
}

// tarball is a sink that is a tar.
type tarball struct{ w *tar.Writer }

func (t tarball) mkdir(name string, mode fs.FileMode) error {
	return t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: int64(mode), Format: tar.FormatPAX})
}

func (t tarball) symlink(target, name string) error {
	return t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, Format: tar.FormatPAX})
}

func (t tarball) file(name string, mode fs.FileMode, size int64, from io.Reader) (int64, error) {
	err := t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: int64(mode), Format: tar.FormatPAX})
	if err != nil {
		return 0, err
	}
	n, err := io.CopyN(t.w, from, size) // what it grew by since belongs to the next deployment
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s changed while it was copied", filepath.Base(name))
	}
	return n, err
}

// maxWindow bounds the memory that a package may ask for, in bytes. Pack's own windows have 8 MiB.
const maxWindow = 16 << 20

// unpack puts the files of a package into an empty folder. It takes what Pack makes: folders, regular files and
// symlinks, by local names, none of them twice. Symlinks are made last, so that nothing is ever written through one.
func unpack(ctx context.Context, from io.Reader, to *os.Root) (Snapshot, error) {
	u := unpacker{to: folder{to}}
	packed, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxBytes+maxFiles<<11))
	if err != nil {
		return u.done, fmt.Errorf("unpack: %w", err)
	}
	defer packed.Close()
	in := tar.NewReader(packed)
	for {
		head, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = u.take(head, in)
		}
		if err != nil {
			return u.done, fmt.Errorf("unpack: %w", err)
		}
	}
	for _, l := range u.links {
		if err := u.to.symlink(l[0], l[1]); err != nil {
			return u.done, fmt.Errorf("unpack: %w", err)
		}
	}
	return u.done, nil
}

// unpacker holds the state of one unpack.
type unpacker struct {
	to    folder
	done  Snapshot
	links [][2]string // target, name
}

func (u *unpacker) take(head *tar.Header, in io.Reader) error {
	name := filepath.Clean(head.Name) // a folder's ends in a slash
	if !fs.ValidPath(name) || name == "." {
		return errors.New("a name leads out of the package")
	}
	if err := u.done.count(); err != nil {
		return err
	}
	mode := fs.FileMode(head.Mode) & fs.ModePerm
	switch head.Typeflag {
	case tar.TypeDir:
		return u.to.mkdir(name, mode)
	case tar.TypeSymlink:
		u.links = append(u.links, [2]string{head.Linkname, name})
		return nil
	case tar.TypeReg:
		n, err := u.to.file(name, mode, head.Size, io.LimitReader(in, maxBytes-u.done.Bytes+1))
		return errors.Join(err, u.done.add(n))
	}
	return errors.New("it holds what is no folder, file or symlink")
}
