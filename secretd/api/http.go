package api

import "path/filepath"

// VersionHeader carries Version on every request and every answer of the socket.
const VersionHeader = "Superserve-Protocol"

// ResumeSocket returns the path of the socket that only resumes grants, which lies
// beside the admin socket in a directory that any process may be handed.
func ResumeSocket(socket string) string {
	return filepath.Join(filepath.Dir(socket), "resume", "secretd.sock")
}

// SetRequest is the body of PUT /v1/agents/{agent}/secrets: all are stored or none.
type SetRequest struct {
	Settings []Setting `json:"settings"`
}

// NamesReply lists the names of an agent's secrets after a change, sorted.
type NamesReply struct {
	Names []string `json:"names"`
}

// ListReply is the body of GET /v1/agents/{agent}/secrets, sorted by name.
type ListReply struct {
	Secrets []Info `json:"secrets"`
}

// ResumeRequest is the body of POST /v1/resume.
type ResumeRequest struct {
	Token string `json:"token"`
}

// ErrorReply is the body of every answer that is not 200. Message is one line for
// a person; it never holds a value.
type ErrorReply struct {
	Code    ErrorCode     `json:"code"`
	Message string        `json:"message"`
	Missing *MissingError `json:"missing,omitempty"`
}
