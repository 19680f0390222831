package logintest

import (
	"os"
	"testing"
)

// A MariaDB that starts removes every #sql file of its folder for temporary ones, others' too: two that start side by
// side in /tmp lose each other's tables (CI, 2026-11-24).
func TestMariaDBsAreApart(t *testing.T) {
	other, err := os.CreateTemp("/tmp", "#sql-temptable-ffffffff-*")
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
	defer os.Remove(other.Name())
	StartMariaDB(t)
	if _, err := os.Stat(other.Name()); err != nil {
		t.Errorf("a MariaDB took away what another one keeps in /tmp: %v", err)
	}
}
