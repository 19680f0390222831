package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// nginx starts one with a single process, so that its CPU time is one number, and
// the given server blocks.
func (b *bench) nginx(ctx context.Context, name string, port int, http string) (*child, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	conf := fmt.Sprintf(`daemon off; master_process off; worker_processes 1; pid %[1]s/pid; error_log %[1]s/error.log;
worker_rlimit_nofile 8192;
events { worker_connections 4096; }
http {
  access_log %[1]s/access.log; sendfile on; tcp_nodelay on; keepalive_requests 100000000; keepalive_timeout 600s;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  ssl_certificate %[2]s/leaf.pem; ssl_certificate_key %[2]s/leaf.key; ssl_protocols TLSv1.2 TLSv1.3;
%[3]s
}
`, dir, b.dir, http)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command("nginx", "-c", file, "-p", dir, "-e", filepath.Join(dir, "error.log")), port: port}
	c.cmd.Stderr = os.Stderr
	if err := b.launch(c); err != nil {
		return nil, err
	}
	return c, awaitPort(ctx, port)
}

// upstream is an nginx with a small answer and a file of 64 MiB, which wants the
// real key for the former.
func (b *bench) upstream(ctx context.Context) (*child, error) {
	file, err := os.Create(filepath.Join(b.dir, "big"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if err := file.Truncate(bigSize); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	return b.nginx(ctx, "upstream", port, fmt.Sprintf(`
  access_log off;
  server {
    listen 127.0.0.1:%d ssl http2 backlog=4096; server_name %s; root %s;
    location = /big { default_type application/octet-stream; }
    location / {
      default_type application/json;
      if ($http_authorization != "Bearer %s") { return 401; }
      return 200 '%s';
    }
  }`, port, host, b.dir, key, smallBody))
}

// smallBody is about what an API answers to a small call.
const smallBody = `{"id":"msg_013Zva2CMHLNnXjNJJKqJ2EF","type":"message","role":"assistant","content":[{"type":"text","text":"Hi"}],"usage":{"input_tokens":12,"output_tokens":6}}`

// bigSize is the size of the download in bytes.
const bigSize = 64 << 20

// relayNginx ends TLS and encrypts again, verifies the upstream, keeps connections
// on both sides and writes Debian's access log, as our proxy writes its audit log.
func (b *bench) relayNginx(ctx context.Context, name string, upstream int) (*child, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	return b.nginx(ctx, name, port, fmt.Sprintf(`
  upstream up { server 127.0.0.1:%d; keepalive 64; keepalive_requests 100000000; }
  server {
    listen 127.0.0.1:%d ssl http2 backlog=4096; server_name %s;
    location / {
      proxy_pass https://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host %s;
      proxy_ssl_verify on; proxy_ssl_trusted_certificate %s/ca.pem; proxy_ssl_name %s; proxy_ssl_server_name on;
      proxy_ssl_protocols TLSv1.2 TLSv1.3;
      proxy_max_temp_file_size 0; proxy_read_timeout 1h;
    }
    location /events {
      proxy_pass https://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host %s;
      proxy_ssl_name %s; proxy_ssl_server_name on; proxy_buffering off; proxy_read_timeout 1h;
    }
  }`, upstream, port, host, host, b.dir, host, host, host))
}
