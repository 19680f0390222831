// Command mysql8 is a server that logs its one user in as MySQL 8 does, by
// caching_sha2_password: Debian has no MySQL. It prints its port, and answers every
// query with the name of the user and, in the second column, whether there is TLS.
//
//	mysql8 CERTIFICATE KEY USER PASSWORD
package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"

	"github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/server"
)

// answers has a result for any query.
type answers struct {
	server.EmptyHandler
	user string
	tls  bool
}

// UseDB takes any database.
func (*answers) UseDB(string) error { return nil }

// HandleQuery answers with one row.
func (a *answers) HandleQuery(string) (*mysql.Result, error) {
	set, err := mysql.BuildSimpleTextResultset([]string{"user", "tls"}, [][]any{{a.user, fmt.Sprint(a.tls)}})
	if err != nil {
		return nil, err
	}
	return &mysql.Result{Resultset: set}, nil
}

func main() {
	if err := serve(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mysql8:", err)
		os.Exit(1)
	}
}

func serve(args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("4 arguments, not %d", len(args))
	}
	cert, err := tls.LoadX509KeyPair(args[0], args[1])
	if err != nil {
		return err
	}
	conf := server.NewServer("8.4.0", mysql.DEFAULT_COLLATION_ID, mysql.AUTH_CACHING_SHA2_PASSWORD, nil, &tls.Config{Certificates: []tls.Certificate{cert}})
	users := server.NewInMemoryProvider()
	users.AddUser(args[2], args[3])
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr().(*net.TCPAddr).Port)
	for {
		raw, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer raw.Close()
			h := &answers{user: args[2]}
			c, err := conf.NewCustomizedConn(raw, users, h)
			if err != nil {
				fmt.Fprintln(os.Stderr, "mysql8:", err)
				return
			}
			_, h.tls = c.Conn.Conn.(*tls.Conn)
			for c.HandleCommand() == nil {
			}
		}()
	}
}
