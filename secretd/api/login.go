package api

import (
	"strings"
	"time"
)

// Renewal is what a token endpoint gave for the refresh token behind a placeholder:
// the next values of the secrets of one login. An empty value leaves its secret.
type Renewal struct {
	// Placeholder is that of the refresh token, which gives the right to renew.
	Placeholder string
	// Refresh, Access and ID are the new tokens; the owner wipes them.
	Refresh, Access, ID []byte
	// Expires is when the access token does, zero when the provider did not say.
	Expires time.Time
}

// The endings of the names of a login's secrets.
const (
	refreshEnding = "REFRESH_TOKEN"
	accessEnding  = "ACCESS_TOKEN"
	idEnding      = "ID_TOKEN"
)

// LoginNames returns the names of the access token and of the ID token that belong to
// a refresh token: X_REFRESH_TOKEN has X_ACCESS_TOKEN and X_ID_TOKEN. Other names have
// none, and both are "".
func LoginNames(refresh string) (access, id string) {
	stem, ok := strings.CutSuffix(refresh, refreshEnding)
	if !ok {
		return "", ""
	}
	return stem + accessEnding, stem + idEnding
}
