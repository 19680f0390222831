package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The name of the way to a database that has nothing in between, and of what stands for
// the cost of a proxy: the pooler of PostgreSQL, and for Redis a balancer that copies.
const (
	nameDirect   = "direct"
	namePooler   = "pgbouncer"
	nameBalancer = "haproxy"
	leastDirect  = 0.9 // of the direct connection's throughput
)

// databases measures a database's own benchmark through the proxy and without it. TLS is
// on all legs of all ways, or on none.
func (b *bench) databases(ctx context.Context) {
	b.database(ctx, "PostgreSQL, TLS, half a millisecond away", false, b.distant(b.postgres, b.inFrontOf), []databaseRow{
		{"pgbench -S, 1 client", pgbench(1)}, {"pgbench -S, 16 clients", pgbench(16)},
	})
	b.database(ctx, "Redis, TLS, half a millisecond away", false, b.distant(b.redis, b.inFrontOfRedis), []databaseRow{
		{"redis-benchmark -P 16 -c 8 -t get", redisBenchmark("get", 8, 100_000)}, {"redis-benchmark -P 16 -c 8 -t set", redisBenchmark("set", 8, 100_000)},
	})
	b.database(ctx, "PostgreSQL, TLS, half a millisecond away, client in gVisor", false, b.inside(b.distant(b.postgres, b.inFrontOf), "postgres", 5432), []databaseRow{
		{"pgbench -S, 1 client", pgbench(1)}, {"pgbench -S, 16 clients", pgbench(16)},
	})
	b.database(ctx, "Redis, TLS, half a millisecond away, client in gVisor", false, b.inside(b.distant(b.redis, b.inFrontOfRedis), "rediss", 6379), []databaseRow{
		{"redis-benchmark -P 16 -c 8 -t get", redisBenchmark("get", 8, 50_000)},
	})
	for _, clear := range []bool{false, true} {
		how := "TLS"
		if clear {
			how = "in clear"
		}
		b.database(ctx, "PostgreSQL, "+how, clear, b.postgres, []databaseRow{
			{"pgbench -S, 1 client", pgbench(1)}, {"pgbench -S, 16 clients", pgbench(16)},
		})
		b.database(ctx, "Redis, "+how, clear, b.redis, []databaseRow{
			{"redis-benchmark -P 16 -t get", redisBenchmark("get", 50, 500_000)}, {"redis-benchmark -P 16 -t set", redisBenchmark("set", 50, 500_000)},
		})
	}
}

// databaseRow is one kind of load.
type databaseRow struct {
	name string
	load databaseLoad
}

// databaseLoad is a round of a load.
type databaseLoad func(ctx context.Context, b *bench, r *relay, clear bool) (sample, error)

// database measures the rows that are wanted, ways taking turns.
func (b *bench) database(ctx context.Context, what string, clear bool, setUp ways, rows []databaseRow) {
	var wanted []databaseRow
	for _, r := range rows {
		if r.name = what + ", " + r.name; b.wanted(r.name) {
			wanted = append(wanted, r)
		}
	}
	if len(wanted) == 0 {
		return
	}
	ways, err := setUp(ctx, clear)
	if err != nil {
		fmt.Fprintf(b.out, "%s\n  not measured: %v\n\n", what, err)
		return
	}
	for _, r := range wanted {
		if err := b.databaseRow(ctx, r, ways, clear); err != nil {
			fmt.Fprintf(b.out, "%s\n  not measured: %v\n", r.name, err)
		}
		fmt.Fprintln(b.out)
	}
}

func (b *bench) databaseRow(ctx context.Context, r databaseRow, ways []*relay, clear bool) error {
	samples := map[string][]sample{}
	for range b.rounds {
		for _, way := range ways {
			before, err := way.cpu()
			if err != nil {
				return err
			}
			s, err := r.load(ctx, b, way, clear)
			if err != nil {
				return fmt.Errorf("%s: %w", way.name, err)
			}
			after, err := way.cpu()
			if err != nil {
				return err
			}
			s.CPU = after - before
			samples[way.name] = append(samples[way.name], s)
		}
	}
	fmt.Fprintln(b.out, r.name)
	of := func(name string) float64 {
		return median(samples[name], sample.rate) / median(samples[nameDirect], sample.rate)
	}
	for _, way := range ways {
		all := samples[way.name]
		fmt.Fprintf(b.out, "  %-10s %9.0f a second, %.2f× direct", way.name, median(all, sample.rate), of(way.name))
		if cpu := median(all, sample.each); cpu > 0 { // a run's processes are gone with it
			fmt.Fprintf(b.out, ", CPU each %.2f µs", cpu)
		}
		fmt.Fprintln(b.out)
	}
	reference := ways[1].name
	if cpu := median(samples[nameOurs], sample.each); cpu > 0 {
		fmt.Fprintf(b.out, "  CPU %.2f× %s's\n", cpu/median(samples[reference], sample.each), reference)
	}
	fmt.Fprintf(b.out, "  throughput %.2f× %s's\n", of(nameOurs)/of(reference), reference)
	got := of(nameOurs)
	b.verdict("throughput", fmt.Sprintf("%.2f× direct", got), fmt.Sprintf("≥ %.2f×", leastDirect), leastDirect/got)
	return nil
}

// wire starts our proxy for one protocol.
func (b *bench) wire(kind string, upstream int, clear bool) (*relay, error) {
	args := []string{"-upstream", addr(upstream), "-roots", filepath.Join(b.dir, "ca.pem"), "-audit", filepath.Join(b.dir, fmt.Sprint(kind, len(b.children), ".audit")), "-wire", kind}
	if clear {
		args = append(args, "-clear")
	}
	if b.profile != "" {
		args = append(args, "-profile", filepath.Join(b.profile, fmt.Sprintf("%s-%d.prof", kind, len(b.children))))
	}
	ours, err := b.start("proxy", args...)
	if err != nil {
		return nil, err
	}
	return &relay{ours, nameOurs, placeholder, nil}, nil
}

// postgres starts a server, a pooler and our proxy in front of it.
func (b *bench) postgres(ctx context.Context, clear bool) ([]*relay, error) {
	server, err := b.postgresServer(ctx, clear)
	if err != nil {
		return nil, err
	}
	direct := &relay{server, nameDirect, key, nil}
	if out, err := pgbenchOutput(ctx, direct, clear, "-i", "-q", "-s", "5"); err != nil {
		return nil, fmt.Errorf("pgbench: %w: %s", err, out)
	}
	return b.inFrontOf(ctx, server, clear)
}

// ways sets up the ways to a database, the direct one first and its reference second.
type ways = func(context.Context, bool) ([]*relay, error)

// distant is near with what is in front of the server anew, behind a wire that takes its
// time, as between two machines of one region: processors that no proxy needs are then
// idle, as they mostly are.
func (b *bench) distant(near ways, inFront func(context.Context, *child, bool) ([]*relay, error)) ways {
	return func(ctx context.Context, clear bool) ([]*relay, error) {
		ways, err := near(ctx, clear)
		if err != nil {
			return nil, err
		}
		far, err := b.start("wan", "-upstream", addr(ways[0].port))
		if err != nil {
			return nil, err
		}
		return inFront(ctx, far, clear)
	}
}

// inFrontOf returns the ways to a server.
func (b *bench) inFrontOf(ctx context.Context, server *child, clear bool) ([]*relay, error) {
	pooler, err := b.pooler(ctx, server.port, clear)
	if err != nil {
		return nil, err
	}
	ours, err := b.wire("postgres", server.port, clear)
	if err != nil {
		return nil, err
	}
	return []*relay{{server, nameDirect, key, nil}, {pooler, namePooler, key, nil}, ours}, nil
}

// asPostgres makes a folder that belongs to Debian's user postgres, with the
// certificate in it, and returns what runs a program as that user: neither the server
// nor the pooler runs as root.
func (b *bench) asPostgres(name string) (dir string, run func(name string, args ...string) *exec.Cmd, err error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		return "", nil, err
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	if dir, err = os.MkdirTemp(b.dir, name+"-"); err != nil {
		return "", nil, err
	}
	err = os.Chmod(b.dir, 0o711)
	for _, file := range []string{"leaf.pem", "leaf.key", "ca.pem"} {
		text, failed := os.ReadFile(filepath.Join(b.dir, file))
		full := filepath.Join(dir, file)
		err = errors.Join(err, failed, os.WriteFile(full, text, 0o600), os.Chown(full, uid, gid))
	}
	err = errors.Join(err, os.Chown(dir, uid, gid))
	return dir, func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "PGPASSWORD=" + key}
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		return cmd
	}, err
}

func (b *bench) postgresServer(ctx context.Context, clear bool) (*child, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(found) == 0 {
		return nil, errors.New("there is no postgres")
	}
	dir, run, err := b.asPostgres("postgres")
	if err != nil {
		return nil, err
	}
	data, bin := filepath.Join(dir, "data"), filepath.Dir(found[len(found)-1])
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte(key), 0o644); err != nil {
		return nil, err
	}
	if out, err := run(bin+"/initdb", "-D", data, "-U", "bench", "--pwfile="+password, "--no-sync", "--locale=C.UTF-8", "-A", "scram-sha-256").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	tls := "on"
	if clear {
		tls = "off"
	}
	c := &child{port: port, cmd: run(bin+"/postgres", "-D", data, "-p", strconv.Itoa(port), "-c", "unix_socket_directories=", "-c", "listen_addresses=127.0.0.1",
		"-c", "ssl="+tls, "-c", "ssl_cert_file="+dir+"/leaf.pem", "-c", "ssl_key_file="+dir+"/leaf.key", "-c", "fsync=off", "-c", "logging_collector=off")}
	if err := b.launchAs(c); err != nil {
		return nil, err
	}
	for try := range 200 {
		if out, err := pgbenchOutput(ctx, &relay{c, "", key, nil}, clear, "-i", "-I", "d"); err == nil {
			break
		} else if try == 199 {
			return nil, fmt.Errorf("postgres does not answer: %s", out)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return c, nil
}

// launchAs is launch for a command that has its own attributes.
func (b *bench) launchAs(c *child) error {
	if err := c.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", c.cmd.Path, err)
	}
	b.children = append(b.children, c)
	return nil
}

// pooler starts pgbouncer, one server connection a client.
func (b *bench) pooler(ctx context.Context, upstream int, clear bool) (*child, error) {
	dir, run, err := b.asPostgres("pgbouncer")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	conf := fmt.Sprintf(`[databases]
* = host=localhost port=%d
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = scram-sha-256
auth_file = %s/users
pool_mode = session
max_client_conn = 100
default_pool_size = 50
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
`, upstream, port, dir)
	if !clear {
		conf += fmt.Sprintf("client_tls_sslmode = require\nclient_tls_key_file = %[1]s/leaf.key\nclient_tls_cert_file = %[1]s/leaf.pem\n"+
			"server_tls_sslmode = verify-full\nserver_tls_ca_file = %[1]s/ca.pem\n", dir)
	}
	for name, text := range map[string]string{"users": fmt.Sprintf("%q %q\n", "bench", key), "conf": conf} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	c := &child{port: port, cmd: run("pgbouncer", "-q", filepath.Join(dir, "conf"))}
	if err := b.launchAs(c); err != nil {
		return nil, err
	}
	return c, awaitPort(ctx, port)
}

func pgbenchOutput(ctx context.Context, way *relay, clear bool, args ...string) ([]byte, error) {
	mode := "require"
	if clear {
		mode = "disable"
	}
	// Not what Debian has in the PATH, which is a program that looks for it.
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
	if len(found) == 0 {
		return nil, errors.New("there is no pgbench")
	}
	argv := append([]string{found[len(found)-1]}, append(args, "-h", way.at(), "-p", strconv.Itoa(way.port), "-U", "bench", "postgres")...)
	env := []string{"PGSSLMODE=" + mode}
	if way.token != "" {
		env = append(env, "PGPASSWORD="+way.token)
	}
	cmd, err := way.client(ctx, argv, env)
	if err != nil {
		return nil, err
	}
	return cmd.CombinedOutput()
}

var pgbenchRate = regexp.MustCompile(`tps = ([0-9.]+)`)

func pgbench(clients int) databaseLoad {
	return func(ctx context.Context, b *bench, way *relay, clear bool) (sample, error) {
		out, err := pgbenchOutput(ctx, way, clear, "-S", "-n", "-j", "1", "-c", strconv.Itoa(clients), "-T", strings.TrimSuffix(seconds(b.seconds), "s"))
		found := pgbenchRate.FindSubmatch(out)
		if err != nil || found == nil {
			return sample{}, fmt.Errorf("pgbench: %v: %s", err, out)
		}
		rate, err := strconv.ParseFloat(string(found[1]), 64)
		return sample{Count: max(int(rate*b.seconds.Seconds()), 1), Elapsed: b.seconds}, err
	}
}

// redis starts a server and our proxy in front of it.
func (b *bench) redis(ctx context.Context, clear bool) ([]*relay, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	args := []string{"--bind", "127.0.0.1", "--save", "", "--dir", b.dir, "--requirepass", key}
	if clear {
		args = append(args, "--port", strconv.Itoa(port))
	} else {
		args = append(args, "--port", "0", "--tls-port", strconv.Itoa(port), "--tls-cert-file", b.dir+"/leaf.pem", "--tls-key-file", b.dir+"/leaf.key",
			"--tls-ca-cert-file", b.dir+"/ca.pem", "--tls-auth-clients", "no")
	}
	server := &child{cmd: exec.Command("redis-server", args...), port: port}
	if err := b.launch(server); err != nil {
		return nil, err
	}
	if err := awaitPort(ctx, port); err != nil {
		return nil, err
	}
	return b.inFrontOfRedis(ctx, server, clear)
}

func (b *bench) inFrontOfRedis(ctx context.Context, server *child, clear bool) ([]*relay, error) {
	balancer, err := b.balancer(ctx, server.port, clear)
	if err != nil {
		return nil, err
	}
	ours, err := b.wire("redis", server.port, clear)
	if err != nil {
		return nil, err
	}
	return []*relay{{server, nameDirect, key, nil}, {balancer, nameBalancer, key, nil}, ours}, nil
}

// balancer starts haproxy on one thread. It copies, and reads nothing.
func (b *bench) balancer(ctx context.Context, upstream int, clear bool) (*child, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	bind, server := "", ""
	if !clear {
		both := filepath.Join(b.dir, "both.pem")
		cert, err1 := os.ReadFile(filepath.Join(b.dir, "leaf.pem"))
		private, err2 := os.ReadFile(filepath.Join(b.dir, "leaf.key"))
		if err := errors.Join(err1, err2, os.WriteFile(both, append(cert, private...), 0o600)); err != nil {
			return nil, err
		}
		bind, server = "ssl crt "+both, "ssl verify required verifyhost "+host+" ca-file "+filepath.Join(b.dir, "ca.pem")
	}
	conf := fmt.Sprintf(`global
  nbthread 1
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen redis
  bind 127.0.0.1:%d %s
  server redis 127.0.0.1:%d %s
`, port, bind, upstream, server)
	file := filepath.Join(b.dir, fmt.Sprintf("haproxy-%d.cfg", port))
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return nil, err
	}
	c := &child{port: port, cmd: exec.Command("haproxy", "-q", "-db", "-f", file)}
	if err := b.launch(c); err != nil {
		return nil, err
	}
	return c, awaitPort(ctx, port)
}

var redisRate = regexp.MustCompile(`"(?:GET|SET)","([0-9.]+)"`)

// redisBenchmark runs requests, so many each second of a measurement.
func redisBenchmark(command string, clients, each int) databaseLoad {
	return func(ctx context.Context, b *bench, way *relay, clear bool) (sample, error) {
		count := int(float64(each) * b.seconds.Seconds())
		argv := []string{"redis-benchmark", "-h", way.at(), "-p", strconv.Itoa(way.port), "-t", command, "-P", "16", "-c", strconv.Itoa(clients), "--csv",
			"-n", strconv.Itoa(count)}
		if way.token != "" {
			argv = append(argv, "-a", way.token)
		}
		if !clear {
			argv = append(argv, "--tls", "--insecure")
		}
		cmd, err := way.client(ctx, argv, nil)
		if err != nil {
			return sample{}, err
		}
		out, err := cmd.CombinedOutput()
		found := redisRate.FindSubmatch(out)
		if err != nil || found == nil {
			return sample{}, fmt.Errorf("redis-benchmark: %v: %s", err, out)
		}
		rate, err := strconv.ParseFloat(string(found[1]), 64)
		return sample{Count: count, Elapsed: time.Duration(float64(count) / rate * float64(time.Second))}, err
	}
}
