package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// stream connects, says "ready" when the first byte is there, and "cut" when the connection ends. It goes on
// hammering ways out until somebody ends the sandbox.
func stream(to string) {
	conn, err := net.Dial("tcp", to)
	if err != nil {
		fmt.Println("connect:", errno(err))
		return
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		fmt.Println("read:", errno(err))
		return
	}
	fmt.Println("ready")
	go func() {
		_, err := io.Copy(io.Discard, conn)
		fmt.Println("cut", err)
	}()
	hammer()
}

// hammer tries to get a byte out by each of four ways, over and over.
func hammer() {
	p := &probe{marker: "hammer", payload: []byte("hammer")}
	ways := []func() string{
		p.udp(unix.AF_INET, netip.AddrPortFrom(far4, 443)),
		p.udp(unix.AF_INET6, netip.AddrPortFrom(far6, 443)),
		p.tcp(unix.AF_INET, netip.AddrPortFrom(far4, 443)),
		p.tcp(unix.AF_INET6, netip.AddrPortFrom(far6, 443)),
	}
	last := make([]string, len(ways))
	for {
		for i, try := range ways {
			if got := try(); got != last[i] {
				fmt.Printf("way %d: %s\n", i, got)
				last[i] = got
			}
		}
		time.Sleep(5 * time.Millisecond) // leaves the machine to others
	}
}

// serve listens on every address and says who came.
func serve(port string) {
	l, err := net.Listen("tcp", net.JoinHostPort("", port))
	if err != nil {
		fmt.Println("listen:", err)
		return
	}
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Println("came", c.RemoteAddr())
		c.Close()
	}
}

// ask sends a line, says the answer, and stays until the end of its input.
func ask(to string) {
	fmt.Println("ready")
	conn, err := net.DialTimeout("tcp", to, time.Minute)
	if err != nil {
		fmt.Println("connect:", errno(err))
		return
	}
	defer conn.Close()
	fmt.Fprintln(conn, "hello")
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		fmt.Println("read:", errno(err))
		return
	}
	fmt.Print(answer)
	io.Copy(io.Discard, os.Stdin)
}
