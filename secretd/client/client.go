// Package client speaks to secretd: the admin verbs and grants over its socket, and
// the resumption of a grant.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/locked"
)

const (
	// callTimeout bounds a call whose context has no deadline.
	callTimeout = 10 * time.Second
	// maxReply is the longest answer that is read, in bytes.
	maxReply = 32 << 20
)

// Client calls one secretd. It is safe for concurrent use and keeps no connection
// open between calls.
type Client struct {
	socket string
	resume string
	// dial connects for an admin verb; nil where there is none.
	dial func(context.Context) (net.Conn, error)
}

// New returns a client of the secretd that listens on socket.
func New(socket string) *Client {
	return &Client{socket: socket, resume: api.ResumeSocket(socket), dial: func(ctx context.Context) (net.Conn, error) { return dial(ctx, socket) }}
}

// Socket returns the path that the client was made for, "" where that was none.
func (c *Client) Socket() string { return c.socket }

// OpenResume opens the directory of the socket that resumes grants, for a process
// that may not reach it by path: the descriptor is all that it needs, beside the
// token. The caller closes the file.
func OpenResume(socket string) (*os.File, error) {
	dir := filepath.Dir(api.ResumeSocket(socket))
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", dir, err)
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// ResumeAt returns a client that can only resume, through the directory that
// OpenResume opened. It works as long as dir stays open.
func ResumeAt(dir *os.File) *Client {
	return &Client{resume: fmt.Sprintf("/proc/self/fd/%d/secretd.sock", dir.Fd())}
}

// Health asks secretd for its state. The error wraps api.ErrUnavailable when nobody
// listens and api.ErrVersion when the daemon is of another version.
func (c *Client) Health(ctx context.Context) (api.Health, error) {
	var h api.Health
	return h, c.call(ctx, http.MethodGet, "/v1/health", nil, &h)
}

// Set stores secrets of an agent, all or none, beside those it has, and returns the
// names it has then. The values stay the caller's.
func (c *Client) Set(ctx context.Context, agent string, settings []api.Setting) ([]string, error) {
	var reply api.NamesReply
	err := c.call(ctx, http.MethodPut, secretsPath(agent), api.SetRequest{Settings: settings}, &reply)
	return reply.Names, err
}

// List returns an agent's secrets without their values, sorted by name. An agent
// without secrets has an empty list.
func (c *Client) List(ctx context.Context, agent string) ([]api.Info, error) {
	var reply api.ListReply
	err := c.call(ctx, http.MethodGet, secretsPath(agent), nil, &reply)
	return reply.Secrets, err
}

// Delete removes a secret and returns the names that remain; runs that hold it are
// told at once, and with now also cut the streams that carry it. The error wraps
// api.ErrNotFound when there is none.
func (c *Client) Delete(ctx context.Context, agent, name string, now bool) ([]string, error) {
	var reply api.NamesReply
	err := c.call(ctx, http.MethodDelete, secretPath(agent, name)+"?now="+strconv.FormatBool(now), nil, &reply)
	return reply.Names, err
}

// BindRun binds a secret that one run holds unbound, for that run alone. Errors wrap api.ErrNotFound and api.ErrDenied.
func (c *Client) BindRun(ctx context.Context, run, name string, b api.Binding) error {
	return c.call(ctx, http.MethodPut, "/v1/runs/"+url.PathEscape(run)+"/secrets/"+url.PathEscape(name)+"/binding", b, nil)
}

// Bind replaces the binding of a stored secret. Runs keep what they were granted; those that hold it unbound may use it
// from now on.
func (c *Client) Bind(ctx context.Context, agent, name string, b api.Binding) error {
	return c.call(ctx, http.MethodPut, secretPath(agent, name)+"/binding", b, nil)
}

func secretsPath(agent string) string { return "/v1/agents/" + url.PathEscape(agent) + "/secrets" }

func secretPath(agent, name string) string { return secretsPath(agent) + "/" + url.PathEscape(name) }

// call makes one exchange on a connection of its own.
func (c *Client) call(ctx context.Context, method, path string, body, reply any) error {
	ctx, cancel := bound(ctx)
	defer cancel()
	if c.dial == nil {
		return fmt.Errorf("call secretd: this client only resumes: %w", api.ErrDenied)
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	response, err := exchange(conn, conn, method, path, body, "close")
	if err != nil {
		return within(ctx, err)
	}
	defer response.Body.Close()
	return within(ctx, decode(response, reply))
}

func bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, callTimeout)
}

// within blames the context for an error that its end caused.
func within(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("call secretd: %w: %w", api.ErrUnavailable, ctx.Err())
	}
	return err
}

func dial(ctx context.Context, socket string) (*net.UnixConn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err == nil {
		return conn.(*net.UnixConn), nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("connect to secretd: %w: %w", api.ErrDenied, err)
	}
	return nil, fmt.Errorf("connect to secretd: %w: %w", api.ErrUnavailable, err)
}

// exchange writes a request to w and reads the head of the answer from r. The body
// that was sent is wiped.
func exchange(w io.Writer, r io.Reader, method, path string, body any, connection string) (*http.Response, error) {
	payload, err := encode(body)
	if err != nil {
		return nil, err
	}
	defer locked.Wipe(payload)
	var head bytes.Buffer
	fmt.Fprintf(&head, "%s %s HTTP/1.1\r\nHost: secretd\r\nConnection: %s\r\n%s: %d\r\n", method, path, connection, api.VersionHeader, api.Version)
	fmt.Fprintf(&head, "Content-Type: %s\r\nContent-Length: %d\r\n\r\n", contentType(body), len(payload))
	// An early refusal may come while the body is still being written: the answer,
	// not the broken pipe, is what the caller has to see.
	_, wrote := (&net.Buffers{head.Bytes(), payload}).WriteTo(w)
	response, err := http.ReadResponse(newReader(r), &http.Request{Method: method})
	if err := errors.Join(wrote, err); refusedCertificate(err) {
		return nil, fmt.Errorf("secretd does not take this certificate: %w: %w", api.ErrDenied, err)
	}
	if err != nil {
		return nil, fmt.Errorf("call secretd: %w: %w", api.ErrUnavailable, errors.Join(wrote, err))
	}
	return response, checkVersion(response)
}

func encode(body any) ([]byte, error) {
	if body == nil {
		return nil, nil
	}
	if part, ok := body.(raw); ok {
		return bytes.Clone(part), nil // it is wiped
	}
	p, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w: %w", api.ErrInvalid, err)
	}
	return p, nil
}

func checkVersion(r *http.Response) error {
	if v := r.Header.Get(api.VersionHeader); v != strconv.Itoa(api.Version) {
		r.Body.Close()
		return fmt.Errorf("secretd has protocol %q, this client has %d: %w", v, api.Version, api.ErrVersion)
	}
	return nil
}

func decode(r *http.Response, reply any) error {
	p, err := io.ReadAll(io.LimitReader(r.Body, maxReply))
	defer locked.Wipe(p)
	if err != nil {
		return fmt.Errorf("read secretd's answer: %w: %w", api.ErrUnavailable, err)
	}
	if r.StatusCode != http.StatusOK {
		return refusal(r.StatusCode, p)
	}
	if reply == nil {
		return nil
	}
	if part, ok := reply.(*raw); ok {
		*part = bytes.Clone(p)
		return nil
	}
	if err := json.Unmarshal(p, reply); err != nil {
		return fmt.Errorf("read secretd's answer: %w", api.ErrUnavailable)
	}
	return nil
}

// remoteError is an error of the daemon: its own line, and its sentinel.
type remoteError struct {
	text     string
	sentinel error
}

// Error returns the daemon's line.
func (e *remoteError) Error() string { return e.text }

// Unwrap returns the sentinel of package api.
func (e *remoteError) Unwrap() error { return e.sentinel }

func refusal(status int, p []byte) error {
	var e api.ErrorReply
	if err := json.Unmarshal(p, &e); err != nil || e.Code == 0 {
		return fmt.Errorf("secretd answered %d: %w", status, api.ErrUnavailable)
	}
	if e.Missing != nil {
		return fmt.Errorf("grant: %w", e.Missing)
	}
	return &remoteError{text: e.Message, sentinel: api.FromCode(e.Code)}
}
