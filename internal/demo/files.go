package demo

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// files are the configuration that a person would write for this estate.
//
//go:embed files
var files embed.FS

// WriteConfig writes the engine's configuration for the estate into dir and
// returns the path of staunch.yaml. listen is where the engine is to listen.
func (e *Estate) WriteConfig(dir, listen string) (string, error) {
	replace := strings.NewReplacer(
		"@LISTEN@", listen, "@AUTH@", e.AuthURL, "@WORKLOAD_CLIENT@", WorkloadClient,
		"@WORKLOAD_SECRET@", e.secretOf(WorkloadClient), "@PROOF_CLIENT@", ProofClient, "@PROOF_SECRET@", e.secretOf(ProofClient),
		"@WORKLOAD_RANGE@", WorkloadRange, "@REALM@", Realm, "@SUBJECT_TYPE@", SubjectType,
		"@SOURCE_ACCESS_LOG@", SourceAccessLog, "@SOURCE_LEAKS@", SourceLeaks,
	)
	entries, err := files.ReadDir("files")
	if err != nil {
		return "", fmt.Errorf("reading the demo's files: %w", err)
	}
	for _, en := range entries {
		b, err := files.ReadFile("files/" + en.Name())
		if err != nil {
			return "", fmt.Errorf("reading the demo's files: %w", err)
		}
		// The client's secret stands in it.
		if err := os.WriteFile(filepath.Join(dir, en.Name()), []byte(replace.Replace(string(b))), 0o600); err != nil {
			return "", fmt.Errorf("writing the demo's configuration: %w", err)
		}
	}
	return filepath.Join(dir, "staunch.yaml"), nil
}
