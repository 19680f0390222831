package sandbox

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/secretd/api"
)

// HandoffFD is the descriptor at which the proxy process finds its Handoff: a sealed memfd with JSON.
const HandoffFD = 3

// The caps of what the two processes read from each other. The proxy is the less trusted side: it parses
// bytes from the agent and from the internet.
const (
	maxHandoffBytes = 8 << 20 // an --upstream-ca bundle is the only large field
	maxReadyBytes   = 64 << 10
)

// Handoff is all that the proxy process is given: it opens nothing by name and inherits no environment.
// It holds no key: those come over the Grant descriptor, one Resolve at a time.
type Handoff struct {
	Run        string     `json:"run"`                   // the run's ID, for the audit log
	Agent      string     `json:"agent"`                 // the agent's name, for the audit log
	FDs        HandoffFDs `json:"fds"`                   // numbers in the proxy process
	Network    Network    `json:"network"`               // what the agent may reach
	Resolve    []string   `json:"resolve,omitempty"`     // HOST:PORT:ADDR:PORT, as curl's --resolve with a port
	UpstreamCA []byte     `json:"upstream_ca,omitempty"` // PEM, trusted for upstreams beside the host's roots
	Resume     string     `json:"resume,omitempty"`      // hex token with which the grant is taken up again after secretd restarted
	MaxConns   int        `json:"max_conns,omitempty"`   // 0 is the proxy's own default
	Asks       bool       `json:"asks,omitempty"`        // somebody may be asked what the rules leave open

	Prices map[string]api.Price `json:"prices,omitempty"` // of models, over those that the proxy knows
}

// HandoffFDs are descriptor numbers in the proxy process. Zero means that there is none: no IPv6, no secrets,
// no audit log. The proxy owns each of them.
type HandoffFDs struct {
	TCP4         int `json:"tcp4"`         // listening stream socket in the sandbox's network namespace
	TCP6         int `json:"tcp6"`         // the same, IPv6
	DNSUDP4      int `json:"dnsudp4"`      // bound datagram socket, port 53
	DNSUDP6      int `json:"dnsudp6"`      //
	DNSTCP4      int `json:"dnstcp4"`      // listening stream socket, port 53
	DNSTCP6      int `json:"dnstcp6"`      //
	Destinations int `json:"destinations"` // the BPF map of original destinations (bpf.OpenDestinations)
	Grant        int `json:"grant"`        // stream socket that speaks secretd/lease
	Second       int `json:"second"`       // the same of a second keeper (Granted.Second)
	Secretd      int `json:"secretd"`      // directory of the socket that resumes grants (client.OpenResume), for Resume
	Audit        int `json:"audit"`        // file, append only: the run's journal
	Tail         int `json:"tail"`         // the journal's tail (journal.OpenLog)
	Ready        int `json:"ready"`        // stream socket to the supervisor: one "ca" line, then notices; EOF ends the other side
}

// ReadHandoff reads the hand-off from descriptor HandoffFD and closes it. It refuses one that its writer could
// still change.
func ReadHandoff() (*Handoff, error) {
	f := os.NewFile(HandoffFD, "handoff")
	if f == nil {
		return nil, errors.New("read handoff: no such descriptor")
	}
	defer f.Close()
	return readHandoff(f)
}

func readHandoff(f *os.File) (*Handoff, error) {
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil {
		return nil, fmt.Errorf("read handoff: %w", err)
	}
	if seals&unix.F_SEAL_WRITE == 0 {
		return nil, errors.New("read handoff: not sealed")
	}
	h := new(Handoff)
	dec := json.NewDecoder(io.NewSectionReader(f, 0, maxHandoffBytes))
	dec.DisallowUnknownFields()
	if err := dec.Decode(h); err != nil {
		return nil, fmt.Errorf("read handoff: %w", err)
	}
	return h, nil
}

// file writes the hand-off into a new sealed memfd; the caller closes it.
func (h *Handoff) file() (*os.File, error) {
	b, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("write handoff: %w", err)
	}
	if len(b) > maxHandoffBytes {
		return nil, fmt.Errorf("write handoff: %d bytes, the limit is %d", len(b), maxHandoffBytes)
	}
	fd, err := unix.MemfdCreate("superserve-handoff", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("write handoff: %w", err)
	}
	f := os.NewFile(uintptr(fd), "handoff")
	if _, err := f.Write(b); err != nil {
		f.Close()
		return nil, fmt.Errorf("write handoff: %w", err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, fmt.Errorf("seal handoff: %w", err)
	}
	return f, nil
}

// Notice is one thing the proxy tells the supervisor's user while it runs; one JSON object a line on Ready.
type Notice struct {
	Kind   string `json:"kind"`             // "refused", "secret", …; free, for filters
	Text   string `json:"text"`             // one sentence; may hold names that the agent chose, unescaped
	Host   string `json:"host,omitempty"`   // the destination, if there is one
	Port   uint16 `json:"port,omitempty"`   //
	Secret string `json:"secret,omitempty"` // the name of a secret, never its value
	Ask    uint64 `json:"ask,omitempty"`    // the number of a question that an Order's Answer is waited for: may Secret go to Host, or the agent?
	Order  uint64 `json:"order,omitempty"`  // the number of the order that this answers; Text is then what went wrong, if anything did
}

// WriteReady tells the supervisor that the proxy could serve, for which it waits for an order, and how its CA is called:
// the DER of the certificate.
func WriteReady(w io.Writer, der []byte) error {
	if _, err := fmt.Fprintf(w, "ca %s\n", base64.StdEncoding.EncodeToString(der)); err != nil {
		return fmt.Errorf("write ready: %w", err)
	}
	return nil
}

// WriteNotice sends one notice to the supervisor.
func WriteNotice(w io.Writer, n Notice) error {
	b, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("write notice: %w", err)
	}
	if _, err := w.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("write notice: %w", err)
	}
	return nil
}

// readyReader parses the supervisor's side of Ready. It is not safe for concurrent use.
type readyReader struct{ s *bufio.Scanner }

func newReadyReader(r io.Reader) *readyReader {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4<<10), maxReadyBytes)
	return &readyReader{s}
}

// ca reads the first line. io.EOF means that the proxy ended before it listened.
func (r *readyReader) ca() ([]byte, error) {
	line, err := r.line()
	if err != nil {
		return nil, err
	}
	text, ok := strings.CutPrefix(line, "ca ")
	if !ok {
		return nil, errors.New("read ready: not a ca line")
	}
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(der) == 0 {
		return nil, errors.New("read ready: not a certificate")
	}
	return der, nil
}

// notice reads the next notice; io.EOF means that the proxy is dead. A line that is no notice is an error that
// ends the connection as well: a proxy that talks nonsense is no longer ours.
func (r *readyReader) notice() (Notice, error) {
	line, err := r.line()
	if err != nil {
		return Notice{}, err
	}
	var n Notice
	if err := json.Unmarshal([]byte(line), &n); err != nil {
		return Notice{}, errors.New("read notice: malformed line")
	}
	return n, nil
}

func (r *readyReader) line() (string, error) {
	if r.s.Scan() {
		return r.s.Text(), nil
	}
	if err := r.s.Err(); err != nil {
		return "", fmt.Errorf("read ready: %w", err)
	}
	return "", io.EOF
}
