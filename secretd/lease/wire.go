package lease

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"github.com/superserve/superserve/secretd/api"
)

// maxField is the longest string of a request, in bytes: a placeholder can be a whole
// service account.
const maxField = 16 << 10

// maxAddr and maxArg are the longest address and argument of a use, in bytes.
const maxAddr, maxArg = 64, 1 << 10

// appendRequest encodes a request: u16 port, then five strings, each a u16 length
// and its bytes. A string that is too long is cut to nothing, which no grant has.
func appendRequest(dst []byte, r api.ResolveRequest) []byte {
	dst = binary.BigEndian.AppendUint16(dst, r.Port)
	for _, s := range [...]string{r.Placeholder, string(r.Host), r.Addr, string(r.Use.Kind), r.Use.Arg} {
		if len(s) > maxField {
			s = ""
		}
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(s)))
		dst = append(dst, s...)
	}
	return dst
}

// parseRequest decodes what appendRequest made and checks that host and use are
// canonical: the keeper compares them byte for byte. What it asks for is written into a
// log, so none of it may be longer than such things are.
func parseRequest(p []byte) (api.ResolveRequest, error) {
	if len(p) < 2 {
		return api.ResolveRequest{}, fmt.Errorf("request: %w", errProtocol)
	}
	r := api.ResolveRequest{Port: binary.BigEndian.Uint16(p)}
	p = p[2:]
	var fields [5]string
	for i := range fields {
		if len(p) < 2 {
			return api.ResolveRequest{}, fmt.Errorf("request: %w", errProtocol)
		}
		n := int(binary.BigEndian.Uint16(p))
		if n > maxField || n > len(p)-2 {
			return api.ResolveRequest{}, fmt.Errorf("request: %w", errProtocol)
		}
		fields[i], p = string(p[2:2+n]), p[2+n:]
	}
	if len(p) != 0 {
		return api.ResolveRequest{}, fmt.Errorf("request: %w", errProtocol)
	}
	return canonical(r, fields)
}

func canonical(r api.ResolveRequest, fields [5]string) (api.ResolveRequest, error) {
	r.Placeholder, r.Addr = fields[0], fields[2]
	if len(r.Addr) > maxAddr || len(fields[4]) > maxArg {
		return api.ResolveRequest{}, fmt.Errorf("request: %w", errProtocol)
	}
	if err := r.Host.UnmarshalText([]byte(fields[1])); err != nil || string(r.Host) != fields[1] {
		return api.ResolveRequest{}, fmt.Errorf("request: host: %w", errProtocol)
	}
	use := api.Use{Kind: api.UseKind(fields[3]), Arg: fields[4]}
	if err := r.Use.UnmarshalText([]byte(use.String())); err != nil || r.Use != use {
		return api.ResolveRequest{}, fmt.Errorf("request: use: %w", errProtocol)
	}
	return r, nil
}

// appendRenewal encodes a renewal: i64 seconds since 1970 when the access token expires,
// 0 for unknown, then four strings, each a u32 length and its bytes.
func appendRenewal(dst []byte, r api.Renewal) []byte {
	expires := int64(0)
	if !r.Expires.IsZero() {
		expires = r.Expires.Unix()
	}
	dst = binary.BigEndian.AppendUint64(dst, uint64(expires))
	for _, s := range [...][]byte{[]byte(r.Placeholder), r.Refresh, r.Access, r.ID} {
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(s)))
		dst = append(dst, s...)
	}
	return dst
}

// parseRenewal decodes what appendRenewal made. The tokens alias p.
func parseRenewal(p []byte) (api.Renewal, error) {
	if len(p) < 8 {
		return api.Renewal{}, fmt.Errorf("renewal: %w", errProtocol)
	}
	r := api.Renewal{}
	if seconds := binary.BigEndian.Uint64(p); seconds > 1<<40 {
		return api.Renewal{}, fmt.Errorf("renewal: %w", errProtocol)
	} else if seconds > 0 {
		r.Expires = time.Unix(int64(seconds), 0).UTC()
	}
	p = p[8:]
	var fields [4][]byte
	for i := range fields {
		if len(p) < 4 {
			return api.Renewal{}, fmt.Errorf("renewal: %w", errProtocol)
		}
		n := binary.BigEndian.Uint32(p)
		if n > api.MaxValue || int(n) > len(p)-4 {
			return api.Renewal{}, fmt.Errorf("renewal: %w", errProtocol)
		}
		fields[i], p = p[4:4+n:4+n], p[4+n:]
	}
	if len(p) != 0 || len(fields[0]) > maxField {
		return api.Renewal{}, fmt.Errorf("renewal: %w", errProtocol)
	}
	r.Placeholder, r.Refresh, r.Access, r.ID = string(fields[0]), fields[1], fields[2], fields[3]
	return r, nil
}

func parseEntry(p []byte) (api.Entry, error) {
	var e api.Entry
	if err := json.Unmarshal(p, &e); err != nil || api.CheckName(e.Name) != nil || e.Placeholder == "" && !e.Exposed {
		return api.Entry{}, fmt.Errorf("entry: %w", errProtocol)
	}
	return e, nil
}

func parseChange(p []byte) (api.Change, error) {
	var c api.Change
	if err := json.Unmarshal(p, &c); err != nil || c.Kind != api.Rotated && c.Kind != api.Revoked {
		return api.Change{}, fmt.Errorf("change: %w", errProtocol)
	}
	return c, nil
}

func parseCharge(p []byte) (api.Charge, error) {
	var c api.Charge
	if err := json.Unmarshal(p, &c); err != nil || len(c.Placeholder) > maxField {
		return api.Charge{}, fmt.Errorf("charge: %w", errProtocol)
	}
	return c, nil
}

func helloPayload(count int) []byte {
	p := binary.BigEndian.AppendUint16(nil, api.Version)
	return binary.BigEndian.AppendUint16(p, uint16(count))
}

// parseHello returns the number of entries that follow, or api.ErrVersion.
func parseHello(f frame) (int, error) {
	if f.kind != kindHello || len(f.payload) != 4 {
		return 0, fmt.Errorf("hello: %w", errProtocol)
	}
	if v := binary.BigEndian.Uint16(f.payload); v != api.Version {
		return 0, fmt.Errorf("peer has version %d, this is %d: %w", v, api.Version, api.ErrVersion)
	}
	n := int(binary.BigEndian.Uint16(f.payload[2:]))
	if n > api.MaxSecrets {
		return 0, fmt.Errorf("hello with %d entries: %w", n, errProtocol)
	}
	return n, nil
}
