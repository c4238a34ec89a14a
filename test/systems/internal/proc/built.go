package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Built returns where a program is looked for that a script of the build puts into
// the cache of test systems: what the environment variable says, or name in the
// cache's folder dir.
func Built(variable, dir, name string) (string, error) {
	if bin := os.Getenv(variable); bin != "" {
		return bin, nil
	}
	cache := os.Getenv("STAUNCH_SYSTEMS_CACHE")
	if cache == "" {
		base := os.Getenv("XDG_CACHE_HOME")
		if base == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return "", fmt.Errorf("looking for the cache of test systems: %w", err)
			}
			base = filepath.Join(home, ".cache")
		}
		cache = filepath.Join(base, "staunch-systems")
	}
	return filepath.Join(cache, dir, name), nil
}

// Missing skips tb since a system is missing, or fails it where the environment
// variable is 1. why is what was looked for and not found, hint how to have it.
func Missing(tb testing.TB, system, variable string, why error, hint string) {
	tb.Helper()
	if os.Getenv(variable) == "1" {
		tb.Fatalf("%s is missing: %v; %s", system, why, hint)
	}
	tb.Skipf("%s is missing: %v; %s", system, why, hint)
}
