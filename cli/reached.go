package cli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/journal"
)

// reached is what a run's audit log says about it in short.
type reached struct {
	Hosts    []string `json:"reached"` // names, or addresses, that it has spoken to, in the order of the first time
	Refused  int      `json:"refused"` // connections, requests and uses of secrets
	Sent     int64    `json:"sent"`    // bytes, of connections that have ended
	Received int64    `json:"received"`
	Tokens   int64    `json:"tokens"` // of answers of model providers
	Micros   int64    `json:"micros"` // what those cost, in millionths of a US dollar
}

// reachedBy reads the log of each of the runs. Only root may: for others nothing is known.
func reachedBy(state string, runs []sandbox.Record) (map[string]*reached, error) {
	out := map[string]*reached{}
	logs, err := sandbox.AuditLogs(state)
	if err != nil {
		return nil, err
	}
	for _, log := range logs {
		i := slices.IndexFunc(runs, func(r sandbox.Record) bool { return r.ID == log.Run })
		if i < 0 {
			continue
		}
		sum := &reached{Hosts: []string{}}
		if err := sum.read(log, !runs[i].Running); err != nil {
			return nil, fmt.Errorf("read what %s reached: %w", log.Run, err)
		}
		out[log.Run] = sum
	}
	return out, nil
}

func (s *reached) read(log sandbox.AuditLog, dead bool) error {
	r, err := journal.OpenReader(log.Log, log.Tail)
	if err != nil {
		return err
	}
	defer r.Close()
	seen := map[string]bool{}
	return r.Each(dead, func(line []byte) error {
		var e auditRecord
		if json.Unmarshal(line, &e) != nil {
			return nil // `superserve audit verify` is who judges
		}
		s.count(e, seen)
		return nil
	})
}

func (s *reached) count(e auditRecord, seen map[string]bool) {
	if e.Verdict == "refuse" {
		s.Refused++
		return
	}
	if e.Kind == "usage" {
		s.Tokens, s.Micros = s.Tokens+e.Tokens, s.Micros+e.Micros
		return
	}
	if e.Kind == "connection" {
		s.Sent, s.Received = s.Sent+e.Sent, s.Received+e.Received
	}
	host := e.Name
	if host == "" {
		host = e.Addr
	}
	failed := e.Verdict != "allow" && e.Received == 0 // it was allowed, and nobody answered
	if host != "" && !seen[host] && !failed {
		seen[host] = true
		s.Hosts = append(s.Hosts, host)
	}
}

// cell is the column of `ps`: the first hosts, how many more, and how often something was refused.
func (s *reached) cell() string {
	const shown = 3
	if s == nil {
		return "-"
	}
	text := strings.Join(s.Hosts[:min(len(s.Hosts), shown)], ",")
	if more := len(s.Hosts) - shown; more > 0 {
		text += fmt.Sprintf(" +%d", more)
	}
	if s.Refused > 0 {
		text += fmt.Sprintf(" (%d refused)", s.Refused)
	}
	if text = strings.TrimSpace(text); text == "" {
		return "-"
	}
	return text
}

// traffic is what went out and came in.
func (s *reached) traffic() string {
	if s == nil || s.Sent+s.Received == 0 {
		return "-"
	}
	return size(s.Sent) + "/" + size(s.Received)
}

// cost is what the answers of model providers cost.
func (s *reached) cost() string {
	if s == nil || s.Tokens == 0 {
		return "-"
	}
	return tokens(s.Tokens) + "/" + dollars(s.Micros)
}
