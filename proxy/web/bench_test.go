package web

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/proxy/ca"
	"github.com/superserve/superserve/secretd/porttest"
)

// benchSeconds is how long wrk loads each proxy in one round; the rounds
// alternate, so that a noisy machine disturbs both.
const benchSeconds = 2

// BenchmarkAgainstNginx compares the processor time of a request through this
// package with that through nginx, as a proxy that ends TLS and encrypts anew
// with kept connections and verified names on both sides. Both are processes of
// their own with one upstream, which is nginx, and wrk as the client. It prints
// the ratio; run it with -benchtime=1x.
func BenchmarkAgainstNginx(b *testing.B) {
	for _, program := range []string{"nginx", "wrk"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CI") == "true" {
				b.Fatal(program + " is not installed")
			}
			b.Skip(program + " is not installed")
		}
	}
	lab := newBenchLab(b)
	for _, c := range []struct {
		name, path string
		conns      int
		header     string
	}{
		{"small/1conn", "/small", 1, ""},
		{"small/16conns", "/small", 16, ""},
		{"key/16conns", "/small", 16, "Authorization: Bearer " + testPlaceholder},
		{"1MiB/4conns", "/file1m", 4, ""},
		{"64MiB/1conn", "/file64m", 1, ""},
		{"newconns/4conns", "/small", 4, "Connection: close"},
	} {
		b.Run(c.name, func(b *testing.B) {
			for range b.N {
				lab.compare(b, c.path, c.conns, c.header)
			}
		})
	}
}

type benchLab struct {
	dir    string
	nginx  benchTarget
	ours   benchTarget
	direct benchTarget
}

type benchTarget struct {
	addr string
	pid  int
}

type benchResult struct {
	requests float64
	rate     float64
	bytes    float64 // a second
	cpu      time.Duration
	p50      string
}

// compare runs both, in turns, and reports the ratio of processor time.
func (l *benchLab) compare(b *testing.B, path string, conns int, header string) {
	var ours, nginx benchResult
	for range 3 {
		nginx.add(l.load(b, l.nginx, path, conns, header))
		ours.add(l.load(b, l.ours, path, conns, header))
	}
	b.ReportMetric(ours.perRequest(), "ours-cpu-µs/req")
	b.ReportMetric(nginx.perRequest(), "nginx-cpu-µs/req")
	b.ReportMetric(ours.perRequest()/nginx.perRequest(), "cpu-ratio")
	b.ReportMetric(ours.rate/nginx.rate, "rate-ratio")
	b.ReportMetric(ours.rate/3, "ours-req/s")
	b.ReportMetric(0, "ns/op")
	b.Logf("p50 ours %s, nginx %s", ours.p50, nginx.p50)
}

func (r *benchResult) add(o benchResult) {
	r.requests += o.requests
	r.rate += o.rate
	r.cpu += o.cpu
	r.p50 = o.p50
}

func (r *benchResult) perRequest() float64 {
	return float64(r.cpu.Microseconds()) / r.requests
}

var (
	wrkRequests = regexp.MustCompile(`(\d+) requests in`)
	wrkRate     = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	wrkMedian   = regexp.MustCompile(`(?m)^\s+50%\s+(\S+)`)
)

func (l *benchLab) load(b *testing.B, t benchTarget, path string, conns int, header string) benchResult {
	b.Helper()
	args := []string{"-t1", fmt.Sprintf("-c%d", conns), fmt.Sprintf("-d%ds", benchSeconds), "--latency", "-H", "Host: " + benchHost}
	_, port, _ := net.SplitHostPort(t.addr)
	if header != "" {
		args = append(args, "-H", header)
	}
	before := cpuTime(b, t.pid)
	out, err := exec.Command("wrk", append(args, "https://"+benchHost+":"+port+path)...).CombinedOutput()
	cpu := cpuTime(b, t.pid) - before
	if err != nil || bytes.Contains(out, []byte("Non-2xx")) {
		b.Fatalf("wrk: %v\n%s", err, out)
	}
	return benchResult{requests: number(b, wrkRequests, out), rate: number(b, wrkRate, out), cpu: cpu, p50: text(wrkMedian, out)}
}

func text(re *regexp.Regexp, out []byte) string {
	if m := re.FindSubmatch(out); m != nil {
		return string(m[1])
	}
	return ""
}

func number(b *testing.B, re *regexp.Regexp, out []byte) float64 {
	b.Helper()
	n, err := strconv.ParseFloat(text(re, out), 64)
	if err != nil || n == 0 {
		b.Fatalf("wrk says\n%s", out)
	}
	return n
}

// cpuTime is the processor time of a process so far (proc(5): fields 14 and 15,
// in hundredths of a second).
func cpuTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func newBenchLab(b *testing.B) *benchLab {
	b.Helper()
	l := &benchLab{dir: b.TempDir()}
	authority, err := ca.New()
	if err != nil {
		b.Fatal(err)
	}
	l.writeCertificates(b, authority)
	l.writeFile(b, "file1m", bytes.Repeat([]byte("0123456789abcdef"), 1<<16))
	l.writeFile(b, "file64m", bytes.Repeat([]byte("0123456789abcdef"), 1<<22))
	os.Chmod(l.dir, 0o755)
	l.direct = l.startNginx(b, "origin", fmt.Sprintf(`location = /small { return 200 "{\"ok\":true,\"text\":\"%s\"}"; } location / { root %s; }`,
		strings.Repeat("x", 200), l.dir))
	l.nginx = l.startNginx(b, "relay", fmt.Sprintf(`location / { proxy_pass https://up; proxy_http_version 1.1;
		proxy_set_header Connection ""; proxy_set_header Host $host; proxy_ssl_name %s; proxy_ssl_server_name on;
		proxy_ssl_verify on; proxy_ssl_trusted_certificate %s/ca.pem; proxy_ssl_protocols TLSv1.3; proxy_buffering on; proxy_max_temp_file_size 0; }`, benchHost, l.dir))
	l.ours = l.startOurs(b)
	return l
}

func (l *benchLab) writeFile(b *testing.B, name string, data []byte) {
	b.Helper()
	if err := os.WriteFile(filepath.Join(l.dir, name), data, 0o644); err != nil {
		b.Fatal(err)
	}
}

func (l *benchLab) writeCertificates(b *testing.B, authority *ca.Authority) {
	b.Helper()
	leaf, err := authority.Leaf(benchHost)
	if err != nil {
		b.Fatal(err)
	}
	key, err := x509.MarshalECPrivateKey(leaf.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		b.Fatal(err)
	}
	l.writeFile(b, "ca.pem", authority.PEM())
	l.writeFile(b, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]}))
	l.writeFile(b, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key}))
}

func (l *benchLab) startNginx(b *testing.B, name, location string) benchTarget {
	b.Helper()
	addr := porttest.Reserve(b).String()
	up := l.direct.addr
	if up == "" {
		up = addr
	}
	conf := fmt.Sprintf(`daemon off; master_process off; worker_processes 1; pid %[1]s/%[2]s.pid; error_log %[1]s/%[2]s.err crit;
events { worker_connections 1024; }
http { access_log %[6]s; client_body_temp_path %[1]s/%[2]s.b; proxy_temp_path %[1]s/%[2]s.p; fastcgi_temp_path %[1]s/%[2]s.f; uwsgi_temp_path %[1]s/%[2]s.u; scgi_temp_path %[1]s/%[2]s.s;
keepalive_requests 100000000; sendfile on; tcp_nopush on;
upstream up { server %[4]s; keepalive 64; keepalive_requests 100000000; }
server { listen %[3]s ssl; server_name _; ssl_certificate %[1]s/cert.pem; ssl_certificate_key %[1]s/key.pem; ssl_protocols TLSv1.3; ssl_session_cache shared:s:1m; %[5]s } }`,
		l.dir, name, addr, up, location, map[bool]string{true: "off", false: l.dir + "/access.log"}[name == "origin"])
	l.writeFile(b, name+".conf", []byte(conf))
	cmd := exec.Command("nginx", "-e", l.dir+"/"+name+".err", "-c", l.dir+"/"+name+".conf")
	return startTarget(b, cmd, addr)
}

func (l *benchLab) startOurs(b *testing.B) benchTarget {
	b.Helper()
	addr := porttest.Reserve(b).String()
	cmd := exec.Command(os.Args[0], "-test.run=^TestBenchProxy$")
	cmd.Env = append(os.Environ(), "WEB_BENCH_FRONT="+addr, "WEB_BENCH_UPSTREAM="+l.direct.addr, "WEB_BENCH_DIR="+l.dir)
	return startTarget(b, cmd, addr)
}

func startTarget(b *testing.B, cmd *exec.Cmd, addr string) benchTarget {
	b.Helper()
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	})
	for range 200 {
		if c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true}); err == nil {
			c.Close()
			return benchTarget{addr, cmd.Process.Pid}
		}
		time.Sleep(20 * time.Millisecond) // another process starts; nothing else to wait on
	}
	b.Fatalf("%s does not listen", cmd)
	return benchTarget{}
}
