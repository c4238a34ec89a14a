package main

import (
	"strings"
	"testing"
)

const skipped = `{"Action":"run","Package":"p","Test":"TestS"}
{"Action":"output","Package":"p","Test":"TestS","Output":"=== RUN   TestS\n"}
{"Action":"output","Package":"p","Test":"TestS","Output":"    s_test.go:7: PostgreSQL is missing: no initdb\n"}
{"Action":"output","Package":"p","Test":"TestS","Output":"--- SKIP: TestS (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestS"}
`

const passed = `{"Action":"output","Package":"p","Test":"TestP","Output":"=== RUN   TestP\n"}
{"Action":"pass","Package":"p","Test":"TestP"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.01s\n"}
{"Action":"pass","Package":"p"}
{"Action":"skip","Package":"empty"}
`

func TestRun(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		in, forbid string
		ok         bool
		want       []string
		not        []string
	}{
		"passed": {in: passed, ok: true, want: []string{"ok  \tp\t0.01s\n", "\n1 passed, 0 failed, 0 skipped\n"}, not: []string{"=== RUN", "empty"}},
		"skip with reason": {
			in: passed + skipped, forbid: "Vault is missing", ok: true,
			want: []string{"  PostgreSQL is missing: no initdb\n      p TestS\n", "1 passed, 0 failed, 1 skipped"},
		},
		"forbidden skip": {in: passed + skipped, forbid: "PostgreSQL is missing", want: []string{"FAIL: must not be skipped here"}},
		"silent skip": {
			in:   passed + `{"Action":"skip","Package":"p","Test":"TestQuiet"}` + "\n",
			want: []string{"FAIL: no reason given\n      p TestQuiet"},
		},
		"failed": {
			in: passed + `{"Action":"output","Package":"p","Test":"TestF","Output":"    f_test.go:3: got 1\n"}
{"Action":"fail","Package":"p","Test":"TestF"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.01s\n"}
{"Action":"fail","Package":"p"}
`,
			want: []string{"f_test.go:3: got 1", "FAIL\tp", "Failed:\n  p TestF\n  p\n", "1 passed, 1 failed, 0 skipped"},
		},
		"does not compile": {
			in: `{"ImportPath":"p","Action":"build-output","Output":"p/x.go:1:1: syntax error\n"}
{"Action":"fail","Package":"p","FailedBuild":"p"}
`,
			want: []string{"syntax error", "Failed:\n  p\n", "0 passed, 1 failed, 0 skipped"},
		},
		"panicked": {
			in:   passed + `{"Action":"output","Package":"p","Test":"TestX","Output":"panic: boom\n"}` + "\n",
			want: []string{"panic: boom", "p TestX (did not end)"},
		},
		"nothing ran":  {in: "", want: []string{"No test ran."}},
		"not all JSON": {in: "go: downloading x\n" + passed, ok: true, want: []string{"go: downloading x\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			ok, err := run(strings.NewReader(tc.in), &out, tc.forbid)
			if err != nil || ok != tc.ok {
				t.Errorf("run() = %v, %v, want %v", ok, err, tc.ok)
			}
			for _, w := range tc.want {
				if !strings.Contains(out.String(), w) {
					t.Errorf("the output lacks %q:\n%s", w, out.String())
				}
			}
			for _, n := range tc.not {
				if strings.Contains(out.String(), n) {
					t.Errorf("the output has %q:\n%s", n, out.String())
				}
			}
		})
	}
}

func TestForbidMustCompile(t *testing.T) {
	t.Parallel()
	if _, err := run(strings.NewReader(passed), &strings.Builder{}, "("); err == nil {
		t.Error("a broken expression is accepted")
	}
}
