package agent

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"
)

// CheckMount checks the form SRC:DST[:ro] of a mount: two paths, DST absolute, clean and not the root.
func CheckMount(s string) error {
	parts := strings.Split(s, ":")
	if len(parts) == 3 && (parts[2] == "ro" || parts[2] == "rw") {
		parts = parts[:2]
	}
	if len(parts) != 2 || parts[0] == "" {
		return fmt.Errorf("mount %q: give SRC:DST or SRC:DST:ro", s)
	}
	if dst := parts[1]; !path.IsAbs(dst) || path.Clean(dst) != dst || dst == "/" {
		return fmt.Errorf("mount %q: the place in the sandbox must be a clean absolute path", s)
	}
	return nil
}

// CheckMode checks a network mode.
func CheckMode(mode string) error {
	switch mode {
	case "none", "bound", "public":
		return nil
	}
	return fmt.Errorf("network %q: give none, bound or public", mode)
}

// ParseSize reads a number of bytes: 1073741824, 512M, 1.5G, 2GiB (powers of 1024), at least 16 MiB:
// gVisor alone takes more.
func ParseSize(s string) (int64, error) {
	word := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(s), "B"), "I")
	shift := 0
	if n := len(word); n > 0 {
		if i := strings.IndexByte("KMGT", word[n-1]); i >= 0 {
			word, shift = word[:n-1], 10*(i+1)
		}
	}
	f, err := strconv.ParseFloat(word, 64)
	if err != nil || strings.ContainsAny(word, "XPEN_+-") {
		return 0, fmt.Errorf("size %q: give bytes or a number with K, M, G or T", s)
	}
	f *= float64(int64(1) << shift)
	if f < 16<<20 || f > 1<<50 {
		return 0, fmt.Errorf("size %q: give 16M to 1024T", s)
	}
	return int64(f), nil
}

// ParseCPUs reads a number of processors, 0.01 to 4096.
func ParseCPUs(s string) (float64, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f >= 0.01 && f <= 4096) {
		return 0, fmt.Errorf("%q: give a number of processors, as in 1.5", s)
	}
	return f, nil
}

// ParseCount reads a number of processes, 1 to 4194304 (the kernel's PID_MAX_LIMIT).
func ParseCount(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 || n > 1<<22 {
		return 0, fmt.Errorf("%q: give a number from 1 to 4194304", s)
	}
	return n, nil
}

// ParseTimeout reads a duration with its unit (90s, 10m, 2h), or a whole number of seconds.
func ParseTimeout(s string) (time.Duration, error) {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil && n > 0 {
		return time.Duration(n) * time.Second, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q: give a duration, as in 90s, 10m or 2h", s)
	}
	return d, nil
}
