package api

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of an agent's snapshot, the packed files that hosts share. Sizes are in bytes.
const (
	// MaxSnapshot is the largest snapshot. A store of secrets is no file server: etcd keeps two gigabytes by default.
	MaxSnapshot = 64 << 20
	// PartSize is how long each part of a snapshot is but the last. etcd takes requests of 1.5 MiB, OpenBao's own
	// storage entries of 1 MiB, and a part is there in base64.
	PartSize = 512 << 10
	// sumSize is the length of a SHA-256 sum.
	sumSize = 32
	// maxWord is the longest path or argument of a Deployment, maxWords the largest number of arguments.
	maxWord  = 4 << 10
	maxWords = 1024
	// maxText is how long all arguments together may be.
	maxText = 64 << 10
)

// Deployment is what is said of a snapshot by who deploys it.
type Deployment struct {
	// Digest is the SHA-256 of the snapshot in lower-case hex, Size its length, Sums the SHA-256 of each part.
	Digest string   `json:"digest"`
	Size   int64    `json:"size"`
	Sums   [][]byte `json:"sums,omitempty"`
	// Files and Bytes count what is in it.
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
	// Source is the project's absolute path where it was deployed.
	Source string `json:"source"`
	// Command and Secrets are those of its superserve.yaml.
	Command []string `json:"command"`
	Secrets []string `json:"secrets"`
}

// Parts returns how many parts the snapshot has.
func (d Deployment) Parts() int { return int((d.Size + PartSize - 1) / PartSize) }

// PartLength returns the length of one part.
func (d Deployment) PartLength(n int) int {
	return int(min(PartSize, d.Size-int64(n)*PartSize))
}

// Check tells whether a deployment keeps within the limits. The error wraps ErrInvalid.
func (d Deployment) Check() error {
	if d.Size > MaxSnapshot {
		return fmt.Errorf("snapshot: %w: it has %d bytes, more than %d", ErrInvalid, d.Size, MaxSnapshot)
	}
	_, hexError := hex.DecodeString(d.Digest)
	switch {
	case hexError != nil || len(d.Digest) != 2*sumSize || strings.ToLower(d.Digest) != d.Digest:
		return fmt.Errorf("snapshot: %w: its digest is not a SHA-256 in hex", ErrInvalid)
	case d.Size < 1 || d.Files < 1 || d.Bytes < 0:
		return fmt.Errorf("snapshot: %w: it is empty", ErrInvalid)
	case len(d.Sums) != d.Parts():
		return fmt.Errorf("snapshot: %w: %d sums for %d parts", ErrInvalid, len(d.Sums), d.Parts())
	case !word(d.Source) || len(d.Command) > maxWords || len(d.Secrets) > MaxSecrets:
		return fmt.Errorf("snapshot: %w: what is said of it is too long", ErrInvalid)
	}
	for _, sum := range d.Sums {
		if len(sum) != sumSize {
			return fmt.Errorf("snapshot: %w: a part's sum is not a SHA-256", ErrInvalid)
		}
	}
	text := 0
	for _, w := range d.Command {
		if text += len(w); !word(w) || text > maxText {
			return fmt.Errorf("snapshot: %w: its command is too long", ErrInvalid)
		}
	}
	for _, name := range d.Secrets {
		if err := CheckName(name); err != nil {
			return err
		}
	}
	return nil
}

// word reports whether s can be a path or an argument.
func word(s string) bool {
	return len(s) <= maxWord && utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

// Agent is a deployed agent, as a store that hosts share has it. Answers leave Sums out.
type Agent struct {
	Name string `json:"name"`
	// Version counts the deployments of the name, deletions included.
	Version uint64 `json:"version"`
	// Snapshot is the snapshot's own name.
	Snapshot string    `json:"snapshot"`
	Deployed time.Time `json:"deployed_at"`
	// Host is the name of the host that it was deployed on, or of the certificate of who did from afar. Here is true
	// where that is the host of who answers.
	Host string `json:"host"`
	Here bool   `json:"here,omitempty"`
	Deployment
}

// AgentsReply is the body of GET /v1/agents, sorted by name.
type AgentsReply struct {
	Agents []Agent `json:"agents"`
}

// SnapshotReply answers POST /v1/agents/{agent}/snapshots: the name to send the parts to.
type SnapshotReply struct {
	Snapshot string `json:"snapshot"`
}
