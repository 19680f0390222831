package sandbox

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// RequestRule is a rule about the HTTP requests to a name, into which the proxy then looks.
type RequestRule struct {
	Deny    bool     `json:"deny,omitempty"`    // refuses what matches; else the name is allowed, and of its requests only what a rule matches
	Host    string   `json:"host"`              // a name or a wildcard, with an optional port; 443 unless said
	Methods []string `json:"methods,omitempty"` // none is any
	Paths   []string `json:"paths,omitempty"`   // none is any; * is a segment, ** at the end any number of them
}

const (
	// maxOrder is the longest order, in bytes. A block list of a hundred thousand names fits.
	maxOrder = 4 << 20
	// orderTimeout is how long the proxy may take to carry one out, and a caller of the control socket to ask.
	orderTimeout = 10 * time.Second

	controlFile = "control"      // a socket in the run's directory, root's, on which the supervisor takes orders
	networkFile = "network.json" // the Network as it is now
)

// Order is what a supervisor tells its proxy while that serves: one JSON object a line on Ready, answered by a Notice
// that has the order's number.
type Order struct {
	Number  uint64   `json:"number"`
	Serve   bool     `json:"serve,omitempty"`   // the first: the cage was tested, and its listeners are the proxy's from here on
	Network *Network `json:"network,omitempty"` // replaces what the agent may reach
	Answer  *Answer  `json:"answer,omitempty"`  // to a notice that asks
	Attend  bool     `json:"attend,omitempty"`  // on the control socket alone: the caller answers questions (Attend)
}

// FollowOrders reads orders from the supervisor until the end of Ready, gives each to carryOut and answers it. It is the
// proxy's side. Another goroutine may write notices on the same connection.
func FollowOrders(ready io.ReadWriter, carryOut func(Order) error) error {
	lines := bufio.NewScanner(ready)
	lines.Buffer(nil, maxOrder)
	for lines.Scan() {
		var o Order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return errors.New("read order: malformed line")
		}
		answer := Notice{Kind: "order", Order: o.Number}
		if err := carryOut(o); err != nil {
			answer.Text = err.Error()
		}
		if err := WriteNotice(ready, answer); err != nil {
			return err
		}
	}
	return lines.Err()
}

// orders is the supervisor's side.
type orders struct {
	one     sync.Mutex // orders are given one after the other
	number  uint64
	ended   bool
	answers chan Notice // of the order under way; the others are dropped
	network Network     // in force
}

func newOrders(n Network) *orders {
	return &orders{number: serveOrder, answers: make(chan Notice, 1), network: n}
}

// serveOrder is the number of the first order, which the start gives.
const serveOrder = 1

// noticed sorts what the proxy says: answers to orders, and sentences for the user.
func (s *Sandbox) noticed(n Notice) {
	if n.Order == 0 {
		if n.Ask != 0 && s.cfg.Ask != nil {
			s.asking.Go(func() { s.answerProxy(n) })
			return
		}
		s.tell(n)
		return
	}
	select {
	case s.orders.answers <- n:
	default: // nobody waits: a proxy that answers what was not asked
	}
}

// SetNetwork replaces what the agent may reach. When it returns nil every new connection is judged by n, and open ones
// that n refuses have been reset. When it returns an error that the proxy gave, all is as before.
func (s *Sandbox) SetNetwork(ctx context.Context, n Network) error {
	if err := s.changeNetwork(ctx, func(Network) Network { return n }); err != nil {
		return fmt.Errorf("set network: %w", err)
	}
	return nil
}

// changeNetwork replaces what the agent may reach by what change makes of it. No other change comes in between.
func (s *Sandbox) changeNetwork(ctx context.Context, change func(Network) Network) error {
	var n Network
	return s.give(ctx, func() Order {
		n = change(s.orders.network)
		return Order{Network: &n}
	}, func() error {
		s.orders.network = n
		return s.keepNetwork(n)
	})
}

// order is an order that does not depend on those before it.
func order(o Order) func() Order { return func() Order { return o } }

// give tells the proxy to do something, waits until it says that it has, and calls then, which may be nil, before the next
// order is made and given.
func (s *Sandbox) give(ctx context.Context, make func() Order, then func() error) error {
	o := s.orders
	o.one.Lock()
	defer o.one.Unlock()
	if o.ended {
		return os.ErrProcessDone
	}
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	o.number++
	deadline, _ := ctx.Deadline()
	order := make()
	order.Number = o.number
	if err := s.proxy.order(order, deadline); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the proxy gives no answer: %w", ctx.Err())
		case <-s.proxy.done:
			return os.ErrProcessDone
		case answer := <-o.answers:
			switch {
			case answer.Order != o.number: // a late one
			case answer.Text != "":
				return errors.New(answer.Text)
			case then == nil:
				return nil
			default:
				return then()
			}
		}
	}
}

// keepNetwork writes down what is in force, for RunNetwork.
func (s *Sandbox) keepNetwork(n Network) error {
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	temp := filepath.Join(s.dir.path, networkFile+".new")
	if err := os.WriteFile(temp, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, filepath.Join(s.dir.path, networkFile))
}

// takeOrders lets root change this run from other processes until the function that it returns is called, which waits.
// Failure is no failure of the run.
func (s *Sandbox) takeOrders() (stop func()) {
	hangUp := func() {}
	err := s.keepNetwork(s.cfg.Network)
	if err == nil {
		hangUp, err = s.listenForOrders()
	}
	if err != nil {
		s.cfg.Log.Error("take orders", zap.Error(err))
	}
	return func() {
		hangUp()
		s.orders.one.Lock()
		defer s.orders.one.Unlock()
		s.orders.ended = true
	}
}

func (s *Sandbox) listenForOrders() (stop func(), err error) {
	stop = func() {}
	// The directory by descriptor: its path may be longer than a socket's may be (108 bytes, unix(7)).
	dir, err := os.Open(s.dir.path)
	if err != nil {
		return stop, err
	}
	path := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), controlFile)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err == nil {
		err = os.Chmod(path, 0o600) // nobody but root enters the directory either
	}
	if err != nil {
		return stop, errors.Join(err, dir.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	var callers sync.WaitGroup
	callers.Go(func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			callers.Go(func() { s.answer(ctx, c) })
		}
	})
	return func() {
		cancel()
		l.Close() // removes the socket
		callers.Wait()
		dir.Close()
	}, nil
}

// answer carries out the order of one caller: a line of JSON, answered by one.
func (s *Sandbox) answer(ctx context.Context, c *net.UnixConn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	c.SetDeadline(time.Now().Add(2 * orderTimeout))
	var o Order
	answer := Notice{Kind: "order"}
	from := json.NewDecoder(io.LimitReader(c, maxOrder))
	err := from.Decode(&o)
	if err == nil && o.Attend {
		s.attendants.attend(c, io.MultiReader(from.Buffered(), c))
		return
	}
	if err == nil && o.Network == nil {
		err = errors.New("an order of nothing")
	}
	if err == nil {
		err = s.SetNetwork(ctx, *o.Network)
	}
	if err != nil {
		answer.Text = err.Error()
	}
	WriteNotice(c, answer) // a caller that is gone learns nothing
}

// SetNetwork replaces what the agent of a run may reach that another process supervises, as Sandbox.SetNetwork does. It
// needs root.
func SetNetwork(ctx context.Context, state, run string, n Network) error {
	c, err := dialControl(ctx, state, run)
	if err != nil {
		return fmt.Errorf("set network of %s: %w", run, err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	c.SetDeadline(time.Now().Add(2 * orderTimeout))
	if err := json.NewEncoder(c).Encode(Order{Network: &n}); err != nil {
		return fmt.Errorf("set network of %s: %w", run, err)
	}
	answer, err := newReadyReader(c).notice()
	if err != nil {
		return fmt.Errorf("set network of %s: %w", run, err)
	}
	if answer.Text != "" {
		return errors.New(answer.Text)
	}
	return nil
}

// dialControl connects to the supervisor of a run. The error wraps os.ErrProcessDone when it has none any more.
func dialControl(ctx context.Context, state, run string) (net.Conn, error) {
	dir, err := os.Open(RunDir(state, run))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), controlFile))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		err = os.ErrProcessDone
	}
	return c, err
}

// RunNetwork returns what the agent of a run may reach now.
func RunNetwork(state, run string) (n Network, err error) {
	b, err := os.ReadFile(filepath.Join(RunDir(state, run), networkFile))
	if err == nil {
		err = json.Unmarshal(b, &n)
	}
	if err != nil {
		return n, fmt.Errorf("network of %s: %w", run, err)
	}
	return n, nil
}
