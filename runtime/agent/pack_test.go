package agent

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/superserve/superserve/secretd/api"
)

func packed(t *testing.T, dir string, ignore ...string) (*Package, api.Agent) {
	t.Helper()
	p, err := Pack(context.Background(), dir, ignore)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	what := p.Describe(&Manifest{Command: Command{Line: "python main.py"}, Secrets: []Secret{{Name: "A_KEY"}}}, dir)
	if err := what.Check(); err != nil {
		t.Fatal(err)
	}
	return p, api.Agent{Name: "my-agent", Snapshot: "S", Host: "elsewhere", Deployment: what}
}

// from copies a package, as a store would give it back.
func from(p *Package) func(io.WriterAt) error {
	return func(to io.WriterAt) error {
		content, err := io.ReadAll(io.NewSectionReader(p, 0, p.Size))
		if err == nil {
			_, err = to.WriteAt(content, 0)
		}
		return err
	}
}

func TestFetchUnpacksWhatWasPacked(t *testing.T) {
	dir := project(t, map[string]string{
		ManifestName: minimal, "main.py": "print()", "pkg/deep/a.py": "a", "empty": "",
		".env": "K=sk-real", "sub/.env.local": "K=sk-real", ".git/config": "url", "x.log": "l",
		"passwd": "-> /etc/passwd", "up": "-> ../../..", "pkg/link": "-> deep", "ünïcode/" + strings.Repeat("long", 50): "x",
	})
	if err := os.Chmod(filepath.Join(dir, "main.py"), 0o4755); err != nil {
		t.Fatal(err)
	}
	p, shared := packed(t, dir, "*.log")
	again, _ := packed(t, dir, "*.log")
	if p.Digest != again.Digest {
		t.Error("the same files give two digests")
	}
	r := NewRegistry(t.TempDir())
	a, err := r.Fetch(t.Context(), shared, from(p))
	if err != nil {
		t.Fatal(err)
	}
	local, err := NewRegistry(t.TempDir()).Deploy(t.Context(), "my-agent", dir, []string{"*.log"})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(tree(t, local.Dir()), tree(t, a.Dir())); d != "" {
		t.Errorf("deployed -here +elsewhere\n%s", d)
	}
	if a.Files != local.Files || a.Bytes != local.Bytes || !a.Elsewhere || !a.Shared() || local.Shared() {
		t.Errorf("%+v; deployed here %+v", a, local)
	}
	if info, err := os.Stat(filepath.Join(a.Dir(), "main.py")); err != nil || info.Mode() != 0o755 {
		t.Errorf("main.py has mode %v, %v; want 0755 without set-uid", info.Mode(), err)
	}
	never := func(io.WriterAt) error { t.Error("fetched what is here"); return nil }
	if _, err := r.Fetch(t.Context(), shared, never); err != nil {
		t.Error(err)
	}
	if got, err := r.Get("my-agent"); err != nil || got.Digest != p.Digest || r.Copy(shared) == nil {
		t.Errorf("Get = %+v, %v", got, err)
	}
	if _, err := r.Deploy(t.Context(), "my-agent", dir, nil); err != nil {
		t.Fatal(err)
	}
	if r.Copy(shared) != nil {
		t.Error("what was deployed here is taken for the store's")
	}
}

func TestFetchTakesNothingButTheDigest(t *testing.T) {
	p, shared := packed(t, project(t, map[string]string{ManifestName: minimal, "a": "b"}))
	state := t.TempDir()
	r := NewRegistry(state)
	failed := errors.New("the store is gone")
	for name, tt := range map[string]struct {
		fetch func(io.WriterAt) error
		want  error
	}{
		"a bit is another": {func(to io.WriterAt) error {
			err := from(p)(to)
			_, also := to.WriteAt([]byte{0}, p.Size/2)
			return errors.Join(err, also)
		}, api.ErrDamaged},
		"the end is missing": {func(to io.WriterAt) error {
			content := make([]byte, p.Size-1)
			p.ReadAt(content, 0)
			_, err := to.WriteAt(content, 0)
			return err
		}, api.ErrDamaged},
		"there is more": {func(to io.WriterAt) error {
			_, err := to.WriteAt([]byte("more"), p.Size)
			return errors.Join(err, from(p)(to))
		}, api.ErrDamaged},
		"it is not there": {func(io.WriterAt) error { return failed }, failed},
	} {
		if _, err := r.Fetch(t.Context(), shared, tt.fetch); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v; want %v", name, err, tt.want)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(state, "agents", "[^.]*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

func TestPackSaysWhatIsTooLarge(t *testing.T) {
	dir := project(t, map[string]string{ManifestName: minimal})
	f, err := os.Create(filepath.Join(dir, "data.bin"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.CopyN(f, rand.Reader, api.MaxSnapshot+1)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Pack(t.Context(), dir, nil); !errors.Is(err, ErrLarge) || !strings.Contains(err.Error(), "leave some out with `ignore`") {
		t.Errorf("got %v; want ErrLarge with advice", err)
	}
	if p, err := Pack(t.Context(), dir, []string{"*.bin"}); err != nil {
		t.Error(err)
	} else {
		p.Close()
	}
}

// archive makes a package by hand.
func archive(t testing.TB, heads ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for _, h := range heads {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(w, zeroReader{}, h.Size); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestUnpackLeadsNowhere unpacks what Pack never makes.
func TestUnpackLeadsNowhere(t *testing.T) {
	file := func(name string) tar.Header {
		return tar.Header{Typeflag: tar.TypeReg, Name: name, Size: 1, Mode: 0o644}
	}
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	for name, heads := range map[string][]tar.Header{
		"a name that goes up":          {file("../evil")},
		"a name that goes down and up": {file("a/../../evil")},
		"an absolute name":             {file("/evil")},
		"no name":                      {{Typeflag: tar.TypeDir, Name: "./"}},
		"a file twice":                 {file("a"), file("a")},
		"a file where a link is":       {link("a", "/tmp/evil"), file("a")},
		"a file below a link":          {link("a", ".."), file("a/evil")},
		"a folder that is missing":     {file("a/b")},
		"a hard link":                  {file("a"), {Typeflag: tar.TypeLink, Name: "b", Linkname: "a"}},
		"a device":                     {{Typeflag: tar.TypeBlock, Name: "sda", Devmajor: 8}},
		"a pipe":                       {{Typeflag: tar.TypeFifo, Name: "p"}},
	} {
		t.Run(name, func(t *testing.T) {
			outer := t.TempDir()
			if err := unpackInto(t, outer, archive(t, heads...)); err == nil {
				t.Error("it was unpacked")
			}
			if _, err := os.Lstat(filepath.Join(outer, "evil")); err == nil {
				t.Error("a file lies outside")
			}
		})
	}
}

func unpackInto(t testing.TB, outer string, content []byte) error {
	t.Helper()
	inner := filepath.Join(outer, "in")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(inner)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	_, err = unpack(context.Background(), bytes.NewReader(content), root)
	return err
}

// TestUnpackIsBounded unpacks more than a deployment may have.
func TestUnpackIsBounded(t *testing.T) {
	u := unpacker{done: Snapshot{Files: maxFiles}}
	if err := u.take(&tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "x"}, nil); err == nil || !strings.Contains(err.Error(), "more than 200000 files") {
		t.Errorf("a file too many: %v", err)
	}
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	u = unpacker{to: folder{root}, done: Snapshot{Bytes: maxBytes - 10}}
	if err := u.take(&tar.Header{Typeflag: tar.TypeReg, Name: "a", Size: 1 << 40}, zeroReader{}); err == nil || !strings.Contains(err.Error(), "more than 4 GiB") {
		t.Errorf("a byte too many: %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(archive(f, tar.Header{Typeflag: tar.TypeDir, Name: "a/", Mode: 0o755}, tar.Header{Typeflag: tar.TypeReg, Name: "a/b", Size: 3, Mode: 0o644}))
	f.Add(archive(f, tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: ".."}, tar.Header{Typeflag: tar.TypeReg, Name: "a/b", Size: 3}))
	f.Add([]byte("\x28\xb5\x2f\xfd"))
	f.Fuzz(func(t *testing.T, content []byte) {
		outer := t.TempDir()
		_ = unpackInto(t, outer, content)
		if all, err := os.ReadDir(outer); err != nil || len(all) != 1 {
			t.Fatalf("%d names beside the folder, %v", len(all), err)
		}
	})
}
