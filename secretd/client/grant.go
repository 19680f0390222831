package client

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/secretd/api"
)

// replyBuffer is how much of an answer is read at once, in bytes.
const replyBuffer = 4096

func newReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, replyBuffer) }

// Grant asks for the secrets of one run. The file is the proxy's end of the grant's
// channel, for lease.Open: whoever holds it has the run's authority, and closing its
// last copy ends the grant. The caller closes it. When the agent lacks secrets, the
// error wraps *api.MissingError.
func (c *Client) Grant(ctx context.Context, r api.GrantRequest) (api.GrantReply, *os.File, error) {
	if c.socket == "" {
		return api.GrantReply{}, nil, fmt.Errorf("grant: only the secretd of this host gives one: %w", api.ErrDenied)
	}
	ctx, cancel := bound(ctx)
	defer cancel()
	conn, err := dial(ctx, c.socket)
	if err != nil {
		return api.GrantReply{}, nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	in := &descriptorReader{conn: conn}
	reply, err := grant(conn, in, r)
	if err != nil {
		in.close()
		return api.GrantReply{}, nil, within(ctx, err)
	}
	channel, err := in.one()
	return reply, channel, err
}

func grant(conn net.Conn, in io.Reader, r api.GrantRequest) (api.GrantReply, error) {
	response, err := exchange(conn, in, http.MethodPost, "/v1/grants", r, "close")
	if err != nil {
		return api.GrantReply{}, err
	}
	defer response.Body.Close()
	var reply api.GrantReply
	return reply, decode(response, &reply)
}

// descriptorReader reads a stream and keeps the descriptors that come with it.
type descriptorReader struct {
	conn  *net.UnixConn
	files []*os.File
}

// Read reads bytes; descriptors are close-on-exec from the start (net sets
// MSG_CMSG_CLOEXEC).
func (d *descriptorReader) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*4))
	n, oobn, _, _, err := d.conn.ReadMsgUnix(p, oob)
	if oobn > 0 {
		d.collect(oob[:oobn])
	}
	if n == 0 && err == nil {
		err = io.EOF
	}
	// After an error of the kernel n is -1, which no io.Reader may return.
	return max(n, 0), err
}

func (d *descriptorReader) collect(oob []byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			d.files = append(d.files, os.NewFile(uintptr(fd), "grant"))
		}
	}
}

// one returns the only descriptor that came.
func (d *descriptorReader) one() (*os.File, error) {
	if len(d.files) != 1 {
		d.close()
		return nil, fmt.Errorf("grant came with %d descriptors: %w", len(d.files), api.ErrUnavailable)
	}
	return d.files[0], nil
}

func (d *descriptorReader) close() {
	for _, f := range d.files {
		f.Close()
	}
}

// Resume reopens the channel of a grant by its token, after secretd restarted. The
// error wraps api.ErrUnknown when no such grant lives any more, api.ErrDenied while
// its channel is open, and api.ErrUnavailable while nobody listens.
func (c *Client) Resume(ctx context.Context, token string) (net.Conn, error) {
	ctx, cancel := bound(ctx)
	defer cancel()
	conn, err := dial(ctx, c.resume)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err = resume(conn, token)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, within(ctx, err)
	}
	return conn, nil
}

func resume(conn net.Conn, token string) error {
	// secretd says nothing after its answer until it was greeted, so the reader
	// cannot swallow a byte of the channel.
	response, err := exchange(conn, conn, http.MethodPost, "/v1/resume", api.ResumeRequest{Token: token}, "upgrade")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	return decode(response, nil)
}
