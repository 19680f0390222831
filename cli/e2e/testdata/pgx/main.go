// Command pgx works with a database through pgx, a driver that shares no code with
// libpq. It is built static and run inside a sandbox; it prints "ok", or what went wrong.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	url := os.Getenv("POSTGRES_URL") + "?sslmode=verify-full"
	for _, step := range []struct {
		name string
		run  func(context.Context, string) error
	}{
		{"session", session}, {"copy", copyBoth}, {"notify", notify}, {"cancel", interrupt},
		{"pipeline", pipeline}, {"pool", pool}, {"big", big}, {"denied", denied},
	} {
		if err := step.run(ctx, url); err != nil {
			fmt.Println(step.name+":", err)
			os.Exit(1)
		}
	}
	fmt.Println("pgx ok")
}

func want[T comparable](got, wanted T) error {
	if got != wanted {
		return fmt.Errorf("got %v, want %v", got, wanted)
	}
	return nil
}

// with opens a connection for f.
func with(ctx context.Context, url string, f func(*pgx.Conn) error) error {
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	return errors.Join(f(c), c.Close(ctx))
}

// session prepares statements, as pgx does for every query, and rolls a transaction back.
func session(ctx context.Context, url string) error {
	return with(ctx, url, func(c *pgx.Conn) error {
		var n int
		if err := c.QueryRow(ctx, "SELECT $1::int + 1", 41).Scan(&n); err != nil || n != 42 {
			return errors.Join(err, want(n, 42))
		}
		if _, err := c.Exec(ctx, "CREATE TEMP TABLE t (n int)"); err != nil {
			return err
		}
		tx, err := c.Begin(ctx)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "INSERT INTO t SELECT generate_series(1, 1000)"); err != nil {
			return err
		}
		if err := tx.Rollback(ctx); err != nil {
			return err
		}
		err = c.QueryRow(ctx, "SELECT count(*) FROM t").Scan(&n)
		return errors.Join(err, want(n, 0))
	})
}

func copyBoth(ctx context.Context, url string) error {
	return with(ctx, url, func(c *pgx.Conn) error {
		if _, err := c.Exec(ctx, "CREATE TEMP TABLE t (n int, s text)"); err != nil {
			return err
		}
		rows := pgx.CopyFromSlice(20000, func(i int) ([]any, error) { return []any{i, strings.Repeat("x", i%100)}, nil })
		n, err := c.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"n", "s"}, rows)
		if err != nil {
			return err
		}
		var out bytes.Buffer
		tag, err := c.PgConn().CopyTo(ctx, &out, "COPY t TO STDOUT")
		return errors.Join(err, want(n, 20000), want(tag.RowsAffected(), 20000), want(bytes.Count(out.Bytes(), []byte("\n")), 20000))
	})
}

func notify(ctx context.Context, url string) error {
	return with(ctx, url, func(c *pgx.Conn) error {
		if _, err := c.Exec(ctx, "LISTEN news"); err != nil {
			return err
		}
		if err := with(ctx, url, func(other *pgx.Conn) error { _, err := other.Exec(ctx, "NOTIFY news, 'hello'"); return err }); err != nil {
			return err
		}
		n, err := c.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		return want(n.Payload, "hello")
	})
}

// interrupt sends a CancelRequest, which goes over a connection of its own.
func interrupt(ctx context.Context, url string) error {
	return with(ctx, url, func(c *pgx.Conn) error {
		began := time.Now()
		failed := make(chan error, 1)
		go func() {
			time.Sleep(300 * time.Millisecond)
			failed <- c.PgConn().CancelRequest(ctx)
		}()
		_, err := c.Exec(ctx, "SELECT pg_sleep(30)")
		var refused *pgconn.PgError
		if !errors.As(err, &refused) || refused.Code != "57014" || time.Since(began) > 10*time.Second {
			return fmt.Errorf("not cancelled: %w", err)
		}
		return <-failed
	})
}

func pipeline(ctx context.Context, url string) error {
	return with(ctx, url, func(c *pgx.Conn) error {
		var batch pgx.Batch
		for i := range 1000 {
			batch.Queue("SELECT $1::int", i)
		}
		results := c.SendBatch(ctx, &batch)
		for i := range 1000 {
			var n int
			if err := results.QueryRow().Scan(&n); err != nil || n != i {
				return errors.Join(err, want(n, i))
			}
		}
		return results.Close()
	})
}

// pool has fifty connections busy at once.
func pool(ctx context.Context, url string) error {
	p, err := pgxpool.New(ctx, url+"&pool_max_conns=50")
	if err != nil {
		return err
	}
	defer p.Close()
	var wg sync.WaitGroup
	failed := make(chan error, 50)
	for range 50 {
		wg.Go(func() {
			_, err := p.Exec(ctx, "SELECT pg_sleep(0.3)")
			failed <- err
		})
	}
	wg.Wait()
	for range 50 {
		if err := <-failed; err != nil {
			return err
		}
	}
	return want(p.Stat().TotalConns(), 50)
}

func big(ctx context.Context, url string) error {
	return with(ctx, url, func(c *pgx.Conn) error {
		rows, err := c.Query(ctx, "SELECT repeat('x', 1000000) FROM generate_series(1, 100)")
		if err != nil {
			return err
		}
		total := 0
		for rows.Next() {
			total += len(rows.RawValues()[0])
		}
		return errors.Join(rows.Err(), want(total, 100_000_000))
	})
}

func denied(ctx context.Context, url string) error {
	err := with(ctx, strings.Replace(url, "@", "x@", 1), func(*pgx.Conn) error { return nil })
	var refused *pgconn.PgError
	if !errors.As(err, &refused) || refused.Code != "28P01" {
		return fmt.Errorf("another password is answered by %w", err)
	}
	return nil
}
