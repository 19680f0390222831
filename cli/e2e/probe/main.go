// Command probe is the hostile agent of the tests in cli/e2e: it runs inside a sandbox, tries the ways out
// and says what came of each. It is built static and knows nothing of superserve.
//
//	probe ways MARKER PORT   tries every way; a line of JSON for each. PORT listens on the host's loopback
//	probe root|net COMMAND…  the same in a user namespace of its own, as its root; net adds a network namespace
//	probe sweep MARKER       opens every family × type × protocol and sends with whatever opened
//	probe stream HOST:PORT   holds a connection and hammers ways out until it is killed
//	probe serve PORT         listens on every address, and says who came
//	probe exec COMMAND…      becomes another program, named by its path
//	probe ask HOST:PORT      sends a line, says the answer, and waits for the end of its input
//	probe pace HOST          asks as often as each line of input says, and says how long it took
//	probe answer FILE        is pace's upstream, with the certificate and key in FILE; prints its port
//	probe abuse HOST         keeps its processors and its proxy busy between the lines "on" and "off"
//
// ways and sweep wait for a line of input before they begin, so that a capture can be put in place.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: probe COMMAND ARGUMENT...")
		os.Exit(2)
	}
	command, args := os.Args[1], os.Args[2:]
	switch command {
	case "root":
		inNamespaces(unix.CLONE_NEWUSER, args)
	case "net":
		inNamespaces(unix.CLONE_NEWUSER|unix.CLONE_NEWNET, args)
	case "ways":
		ready()
		tryWays(args[0], args[1])
	case "sweep":
		ready()
		sweep(args[0])
	case "stream":
		stream(args[0])
	case "serve":
		serve(args[0])
	case "exec":
		fmt.Println(syscall.Exec(args[0], args, os.Environ()))
	case "ask":
		ask(args[0])
	case "pace":
		pace(args[0])
	case "answer":
		answer(args[0])
	case "abuse":
		abuse(args[0])
	}
}

// inNamespaces runs the probe again as the root of a new user namespace, which has every capability there.
func inNamespaces(flags uintptr, args []string) {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  flags,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		fmt.Println("no namespaces:", err)
	}
}

// ready says so and waits for a line.
func ready() {
	fmt.Println("ready")
	if !bufio.NewScanner(os.Stdin).Scan() {
		os.Exit(1)
	}
}

// end says so and waits for the end of input, so that the sandbox can be looked at.
func end() {
	fmt.Println("end")
	io.Copy(io.Discard, os.Stdin)
}

// outcome is one line of output.
type outcome struct {
	Name string `json:"name"`
	Got  string `json:"got"`
	Want string `json:"want"`            // alternatives, separated by " or "
	To   string `json:"proxy,omitempty"` // what the proxy must have been asked for
}

func tryWays(marker, port string) {
	out := json.NewEncoder(os.Stdout)
	for _, w := range ways(marker, port) {
		out.Encode(outcome{w.name, w.try(), w.want, w.proxied})
	}
	end()
}
