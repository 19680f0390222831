// Package audit records what an agent did on the network: one JSON line per
// connection, per request on a connection that was looked into, and per use of a
// credential. Audit is not logging: whoever makes a decision records it, and if
// the record fails, the answer is no.
package audit

import "time"

// Kind says what an Event is about.
type Kind string

// Kinds of Event.
const (
	// Connection is one connection of the agent, written when it has ended or
	// was refused.
	Connection Kind = "connection"
	// Request is one request on a connection whose TLS was ended.
	Request Kind = "request"
	// Credential is one use of one secret, written before the secret is sent.
	Credential Kind = "credential"
	// Usage is what the answer to one request with a secret has cost.
	Usage Kind = "usage"
)

// Verdict says what became of it.
type Verdict string

// Verdicts of an Event.
const (
	// Allowed means that it was carried out.
	Allowed Verdict = "allow"
	// Refused means that policy or a rule of credentials said no.
	Refused Verdict = "refuse"
	// Failed means that it was allowed and could not be carried out.
	Failed Verdict = "error"
)

// Event is one record. It never holds a header, a body, a query, a placeholder or
// a key: Path is without its query, and whoever fills it leaves out placeholders
// that an agent put there. Zero fields are left out of the line, except for those
// that every record has.
type Event struct {
	Time     time.Time     // when it began; zero is filled in by the Writer
	Run      string        // filled in by the Writer
	Agent    string        // filled in by the Writer
	Kind     Kind          //
	Conn     uint64        // number of the connection in its run, from 1
	Protocol string        // Protocol.Name: "web", "passthrough", …
	Name     string        // the host that was connected to, "" for an IP literal
	Addr     string        // the IP literal that was connected to, "" for a name
	Port     uint16        //
	Verdict  Verdict       //
	Rule     string        // the rule that decided, as egress.Decision has it
	Reason   string        // why it was refused or failed, one word of a fixed set
	Secret   string        // name of the secret, never its value
	Method   string        //
	Path     string        // at most maxPath bytes are kept
	Status   int           // of the answer that the agent got
	Sent     int64         // bytes to the upstream
	Received int64         // bytes from the upstream
	Model    string        // of a Usage, as the upstream calls it
	Tokens   int64         //
	Micros   int64         // millionths of a US dollar
	Priced   bool          // the model's price is known, Micros is no upper bound
	Duration time.Duration // written in milliseconds
}

// Recorder keeps events. It is safe for concurrent use. An error means that the
// event may not have been kept: a use of a credential is refused then.
type Recorder interface{ Record(Event) error }
