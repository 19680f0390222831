package ca

import "crypto/tls"

// cacheable are the protocols whose configs are kept. An agent chooses what it
// offers, so others must not fill the cache.
var cacheable = map[string]bool{"": true, "http/1.1": true, "h2": true}

// Config returns what the local leg's tls.Server needs to be name and to speak
// proto, the one protocol that the upstream chose; "" negotiates none. The
// caller must not change it, but may Clone it. It offers X25519, and P-256 for old
// clients, but not the hybrid default: on a loopback between processes of one
// host, ML-KEM costs time and protects nothing.
// Configs are kept by name and protocol, so that session tickets work from one
// connection to the next, and a ticket is good for its own name only.
func (a *Authority) Config(name, proto string) (*tls.Config, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l, err := a.leaf(name)
	if err != nil {
		return nil, err
	}
	if cfg := l.configs[proto]; cfg != nil {
		return cfg, nil
	}
	cfg := newConfig(l.cert, proto)
	if cacheable[proto] {
		l.configs[proto] = cfg
	}
	return cfg, nil
}

func newConfig(cert *tls.Certificate, proto string) *tls.Config {
	cfg := &tls.Config{
		Certificates:     []tls.Certificate{*cert},
		MinVersion:       tls.VersionTLS12,
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256},
		// Over loopback a record that arrives in parts costs nothing; many small ones do.
		DynamicRecordSizingDisabled: true,
	}
	if proto != "" {
		cfg.NextProtos = []string{proto}
	}
	return cfg
}
