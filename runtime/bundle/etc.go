package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// hostEtc is what interpreters and libraries read in the host's /etc and what tells nothing about its users, its
// network or its secrets. Without alternatives, awk, php and java do not exist on Debian.
var hostEtc = []string{
	"alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld-musl-*.path",
	"php", "php*.d", "java", "java-*", "perl", "python*", "lua*", "ruby*", "emacs", "vim", "texmf", "ImageMagick-*",
	"terminfo", "fonts", "X11/rgb.txt", "mime.types", "magic", "magic.mime", "protocols", "services", "rpc", "ethertypes",
	"gai.conf", "host.conf", "locale.alias", "locale.conf", "bash.bashrc", "bashrc", "bash_completion.d", "inputrc",
	"skel", "debian_version", "os-release", "lsb-release", "redhat-release", "alpine-release", "issue",
	"ssl/openssl.cnf", "pki/tls/openssl.cnf", "crypto-policies", "gss/mech.d", "OpenCL", "glvnd", "vulkan", "groff",
}

// makeEtc fills /etc: the files below are ours, the rest comes from hostEtc.
func (b *Bundle) makeEtc(*trees) error {
	for _, dir := range []string{"/etc/ssl", "/etc/pki", "/etc/pki/tls", "/etc/X11", "/etc/gss", "/etc/mysql", "/etc/profile.d"} {
		if err := b.mkdir(dir, 0o755, 0); err != nil {
			return err
		}
	}
	if err := b.writeEtc(); err != nil {
		return err
	}
	if err := b.copyLocaltime(); err != nil {
		return err
	}
	if err := b.makeTrust(); err != nil {
		return err
	}
	return b.copyEtc()
}

func (b *Bundle) writeEtc() error {
	for _, f := range []struct{ name, text string }{
		{"passwd", "root:x:0:0:root:/root:/usr/sbin/nologin\n" +
			fmt.Sprintf("agent:x:%d:%d:agent:%s:%s\n", AgentUID, AgentGID, Home, b.shell()) +
			"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"},
		{"group", fmt.Sprintf("root:x:0:\nagent:x:%d:\nnogroup:x:65534:\n", AgentGID)},
		{"hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t" + b.hostname() + "\n"},
		{"hostname", b.hostname() + "\n"},
		{"resolv.conf", b.resolvConf()},
		{"nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n" +
			"protocols: files\nservices: files\nethers: files\nrpc: files\n"},
		{"machine-id", b.machineID() + "\n"},
		{"shells", "/bin/sh\n/bin/bash\n"},
		{"profile", profile},
		{"mysql/my.cnf", "[client]\nssl-ca=" + trustFile + "\n"},
		// The project belongs to the agent, but where a host cannot id-map it git would refuse it as another user's.
		{"gitconfig", "[safe]\n\tdirectory = " + Workspace + "\n\tdirectory = " + Workspace + "/*\n"},
	} {
		if err := b.write("/etc/"+f.name, []byte(f.text), 0o644, 0); err != nil {
			return err
		}
	}
	return b.link("/proc/self/mounts", "/etc/mtab")
}

// profile keeps the PATH of the environment: a login shell must find the same programs.
const profile = `[ -n "$BASH_VERSION" ] && [ -r /etc/bash.bashrc ] && . /etc/bash.bashrc
for f in /etc/profile.d/*.sh; do [ -r "$f" ] && . "$f"; done
unset f
`

func (b *Bundle) hostname() string {
	if b.cfg.Hostname != "" {
		return b.cfg.Hostname
	}
	return "superserve"
}

// resolvConf names the proxy's resolver. Names are answered by synthetic addresses, so a search domain would only
// invent names, and one failed try means that the proxy is gone.
func (b *Bundle) resolvConf() string {
	var s strings.Builder
	for _, r := range b.cfg.Resolvers {
		fmt.Fprintf(&s, "nameserver %s\n", r)
	}
	s.WriteString("options timeout:5 attempts:2\n")
	return s.String()
}

// machineID is stable for a run and tells nothing about the host.
func (b *Bundle) machineID() string {
	sum := sha256.Sum256([]byte("superserve machine-id " + b.cfg.ID))
	return hex.EncodeToString(sum[:16])
}

func (b *Bundle) shell() string {
	if _, err := b.stat("/bin/bash"); err == nil {
		return "/bin/bash"
	}
	return "/bin/sh"
}

// copyLocaltime repeats the host's zone: a link into /usr/share/zoneinfo is kept, for programs read the zone's name
// from it; a plain file is copied.
func (b *Bundle) copyLocaltime() error {
	to, err := os.Readlink("/etc/localtime")
	if err == nil {
		if !filepath.IsAbs(to) {
			to = filepath.Join("/etc", to)
		}
		return b.link(to, "/etc/localtime")
	}
	data, err := os.ReadFile("/etc/localtime")
	if errors.Is(err, fs.ErrNotExist) {
		return b.link("/usr/share/zoneinfo/Etc/UTC", "/etc/localtime")
	}
	if err != nil {
		return err
	}
	return b.write("/etc/localtime", data, 0o644, 0)
}

// copyEtc shows the parts of the host's /etc that hostEtc lists, or, of a Rootfs, all that we did not make.
func (b *Bundle) copyEtc() error {
	if b.cfg.Rootfs != "" {
		return b.copyRootfsEtc()
	}
	for _, pattern := range hostEtc {
		matches, err := filepath.Glob("/etc/" + pattern)
		if err != nil {
			return err
		}
		for _, m := range matches {
			if err := b.copyEntry(m, m); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *Bundle) copyRootfsEtc() error {
	entries, err := os.ReadDir(filepath.Join(b.cfg.Rootfs, "etc"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		dst := "/etc/" + e.Name()
		if _, err := b.root.Lstat(rel(dst)); err == nil {
			continue
		}
		if err := b.copyEntry(filepath.Join(b.cfg.Rootfs, dst), dst); err != nil {
			return err
		}
	}
	return nil
}
