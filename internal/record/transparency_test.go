package record

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"pgregory.net/rapid"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/record/rekor/fakelog"
)

func parseLog(t testing.TB, key, origin string) *TransparencyLog {
	t.Helper()
	l, err := ParseTransparencyLog(key, origin)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func testCheckpoint(t testing.TB, c *Chain, minute int) Checkpoint {
	t.Helper()
	cp, err := c.Checkpoint(time.Date(2026, 1, 2, 3, minute, 0, 0, time.UTC), []Head{{Lane: "a", Seq: 3, Hash: strings.Repeat("ab", 32)}})
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

// addEntry has a log take a checkpoint and returns the entry's number.
func addEntry(t testing.TB, c *Chain, l *fakelog.Log, cp Checkpoint) int64 {
	t.Helper()
	req, err := c.LogRequest(cp)
	if err != nil {
		t.Fatal(err)
	}
	body, err := fakelog.Entry(req)
	if err != nil {
		t.Fatalf("Rekor would refuse %s: %v", req, err)
	}
	return l.Add(body)
}

func answer(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// again returns v as it is after it was written and read.
func again(t testing.TB, cp Checkpoint) Checkpoint {
	t.Helper()
	var out Checkpoint
	if err := json.Unmarshal(answer(t, cp), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestLogged: what an honest log answers is a receipt, whatever its key and the
// size of its tree, and is one after it was kept.
func TestLogged(t *testing.T) {
	c := testChain(t, 7)
	for name, l := range map[string]*fakelog.Log{"ed25519": fakelog.Start(t, "log.example.org/one"), "ecdsa": fakelog.StartECDSA(t, "log.example.org/two")} {
		log := parseLog(t, l.Key, l.Origin)
		var entries []int64
		var cps []Checkpoint
		for i := range 9 {
			cps = append(cps, testCheckpoint(t, c, i))
			entries = append(entries, addEntry(t, c, l, cps[i]))
			l.Add([]byte("another's"))
		}
		for i, cp := range cps {
			for size := entries[i] + 1; size <= 18; size++ {
				r, logged, err := log.Receipt(answer(t, l.Answer(entries[i], size)), cp, c.PublicKey())
				want := Logged{Checked: true, Origin: l.Origin, Entry: entries[i], TreeSize: size}
				if err != nil || logged != want {
					t.Fatalf("%s: entry %d of %d: %v, %+v", name, entries[i], size, err, logged)
				}
				cp.Logged = r
				if logged, err := again(t, cp).VerifyLogged(c.PublicKey(), log); err != nil || logged != want {
					t.Errorf("%s: entry %d of %d, when it was kept: %v, %+v", name, entries[i], size, err, logged)
				}
			}
			// The checkpoint is what it was for who knows of no log.
			if err := again(t, cp).Verify(c.PublicKey()); err != nil {
				t.Error(err)
			}
		}
		if got := (Logged{Checked: true, Origin: "o", Entry: 0, TreeSize: 1}).String(); got != "logged by o as entry 0 of a tree of 1" {
			t.Error(got)
		}
	}
}

// TestLoggedWithWitnesses: others' signatures and further lines are passed over.
func TestLoggedWithWitnesses(t *testing.T) {
	c := testChain(t, 7)
	l := fakelog.Start(t, "log.example.org")
	log := parseLog(t, l.VerifierKey, "")
	cp := testCheckpoint(t, c, 1)
	n := addEntry(t, c, l, cp)
	skey, _, err := note.GenerateKey(rand.Reader, "witness.example.net")
	if err != nil {
		t.Fatal(err)
	}
	witness, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := strings.Cut(l.Tree(n+1), "\n\n")
	for _, envelope := range []string{l.Tree(n+1, witness), l.Sign(text+"\nan extension\n", witness)} {
		a := l.Answer(n, n+1)
		a["inclusionProof"].(map[string]any)["checkpoint"] = map[string]any{"envelope": envelope}
		if _, _, err := log.Receipt(answer(t, a), cp, c.PublicKey()); err != nil {
			t.Errorf("%q: %v", envelope, err)
		}
	}
}

// TestReceiptsThatLie: nothing but the log's proof of this very checkpoint counts.
func TestReceiptsThatLie(t *testing.T) {
	c, other := testChain(t, 7), testChain(t, 8)
	l, stranger := fakelog.Start(t, "log.example.org"), fakelog.Start(t, "log.example.org")
	log := parseLog(t, l.Key, l.Origin)
	cp, later := testCheckpoint(t, c, 1), testCheckpoint(t, c, 2)
	for range 5 {
		l.Add([]byte("another's"))
	}
	n := addEntry(t, c, l, cp)
	addEntry(t, c, stranger, cp)
	second := addEntry(t, c, l, later)
	size := second + 1
	b64 := base64.StdEncoding.EncodeToString
	proof := func(a map[string]any) map[string]any { return a["inclusionProof"].(map[string]any) }
	envelope := func(text string) func(map[string]any) {
		return func(a map[string]any) { proof(a)["checkpoint"] = map[string]any{"envelope": text} }
	}
	root := strings.Split(l.Tree(size), "\n")[2]
	// body has the entry altered, and the log have the altered one.
	body := func(from, to string) func(map[string]any) {
		return func(a map[string]any) {
			b, err := base64.StdEncoding.DecodeString(a["canonicalizedBody"].(string))
			if err != nil || !bytes.Contains(b, []byte(from)) {
				t.Fatalf("%v: no %q in %s", err, from, b)
			}
			k := l.Add(bytes.Replace(b, []byte(from), []byte(to), 1))
			for name, v := range l.Answer(k, k+1) {
				a[name] = v
			}
		}
	}
	// signedBy has the log have an entry of the right digest that sig is under.
	signedBy := func(sign func(digest []byte) (sig, key []byte)) func(map[string]any) {
		return func(a map[string]any) {
			digest := sha512.Sum512(cp.signed())
			sig, key := sign(digest[:])
			der, err := x509.MarshalPKIXPublicKey(ed25519.PublicKey(key))
			if err != nil {
				t.Fatal(err)
			}
			k := l.Add(canonicalEntry(digest[:], sig, der))
			clearInto(a, l.Answer(k, k+1))
		}
	}
	for name, tc := range map[string]struct {
		lie  func(a map[string]any)
		want error
	}{
		"nobody's signature":       {signedBy(func([]byte) ([]byte, []byte) { return make([]byte, 64), c.PublicKey() }), ErrSignature},
		"no signature":             {signedBy(func([]byte) ([]byte, []byte) { return nil, c.PublicKey() }), ErrSignature},
		"a plain signature":        {signedBy(func(d []byte) ([]byte, []byte) { return ed25519.Sign(c.sign, d), c.PublicKey() }), ErrSignature},
		"another's signature":      {signedBy(func(d []byte) ([]byte, []byte) { return phSign(t, other, d), other.PublicKey() }), ErrSignature},
		"another's key":            {signedBy(func(d []byte) ([]byte, []byte) { return phSign(t, c, d), other.PublicKey() }), ErrSignature},
		"another checkpoint's":     {func(a map[string]any) { clearInto(a, l.Answer(second, size)) }, ErrSignature},
		"nobody's entry":           {func(a map[string]any) { clearInto(a, l.Answer(0, size)) }, staunch.ErrInvalid},
		"another log's":            {func(a map[string]any) { clearInto(a, stranger.Answer(0, 1)) }, ErrWrongKey},
		"another log's tree":       {func(a map[string]any) { proof(a)["checkpoint"] = proof(stranger.Answer(0, 1))["checkpoint"] }, ErrSignature},
		"a tree without it":        {envelope(l.Tree(n)), ErrSignature},
		"an earlier tree":          {envelope(l.Tree(n + 1)), ErrSignature},
		"an unsigned tree":         {envelope("log.example.org\n7\n" + root + "\n"), ErrSignature},
		"an unsigned larger tree":  {envelope(strings.Replace(l.Tree(size), "\n7\n", "\n8\n", 1)), ErrSignature},
		"another origin":           {envelope(l.Sign("log.example.com\n7\n" + root + "\n")), ErrSignature},
		"a size in another form":   {envelope(l.Sign("log.example.org\n07\n" + root + "\n")), staunch.ErrInvalid},
		"a size below zero":        {envelope(l.Sign("log.example.org\n-7\n" + root + "\n")), staunch.ErrInvalid},
		"a size beyond all":        {envelope(l.Sign("log.example.org\n9223372036854775808\n" + root + "\n")), staunch.ErrInvalid},
		"a short root":             {envelope(l.Sign("log.example.org\n7\n" + b64([]byte("short")) + "\n")), staunch.ErrInvalid},
		"no root":                  {envelope(l.Sign("log.example.org\n7\n")), ErrSignature},
		"no tree":                  {envelope(""), ErrSignature},
		"a long tree":              {envelope(l.Sign("log.example.org\n7\n" + root + "\n" + strings.Repeat("x", maxEnvelope) + "\n")), staunch.ErrInvalid},
		"another number":           {func(a map[string]any) { a["logIndex"] = "4" }, ErrSignature},
		"a number out of the tree": {func(a map[string]any) { a["logIndex"] = "7" }, ErrSignature},
		"a number below zero":      {func(a map[string]any) { a["logIndex"] = "-1" }, staunch.ErrInvalid},
		"a number in another form": {func(a map[string]any) { a["logIndex"] = "05" }, staunch.ErrInvalid},
		"a number beyond all":      {func(a map[string]any) { a["logIndex"] = "9223372036854775808" }, staunch.ErrInvalid},
		"a number as a number":     {func(a map[string]any) { a["logIndex"] = 5 }, staunch.ErrInvalid},
		"no proof":                 {func(a map[string]any) { proof(a)["hashes"] = []any{} }, ErrSignature},
		"a hash too many":          {func(a map[string]any) { proof(a)["hashes"] = append(proof(a)["hashes"].([]any), root) }, ErrSignature},
		"another hash":             {func(a map[string]any) { proof(a)["hashes"].([]any)[0] = root }, ErrSignature},
		"hashes in another order":  {func(a map[string]any) { h := proof(a)["hashes"].([]any); h[0], h[1] = h[1], h[0] }, ErrSignature},
		"a short hash":             {func(a map[string]any) { proof(a)["hashes"].([]any)[0] = b64([]byte("short")) }, staunch.ErrInvalid},
		"a proof without end": {func(a map[string]any) {
			proof(a)["hashes"] = strings.Split(strings.Repeat(root+" ", 64)[:64*45-1], " ")
		}, staunch.ErrInvalid},
		"another kind":              {func(a map[string]any) { a["kindVersion"] = map[string]any{"kind": "dsse", "version": "0.0.2"} }, staunch.ErrInvalid},
		"another version":           {func(a map[string]any) { a["kindVersion"] = map[string]any{"kind": "hashedrekord", "version": "0.0.3"} }, staunch.ErrInvalid},
		"no log's id":               {func(a map[string]any) { delete(a, "logId") }, ErrWrongKey},
		"no body":                   {func(a map[string]any) { delete(a, "canonicalizedBody") }, staunch.ErrInvalid},
		"a long body":               {func(a map[string]any) { a["canonicalizedBody"] = b64([]byte("{}" + strings.Repeat(" ", maxEntry))) }, staunch.ErrInvalid},
		"a body with more":          {body(`"kind":`, `"hint":"x","kind":`), ErrSignature},
		"a body in another form":    {body(`"kind":`, `"kind": `), ErrSignature},
		"a body of another kind":    {body(`"hashedrekord"`, `"hashedrecord"`), ErrSignature},
		"a body of another details": {body(`PKIX_ED25519_PH`, `PKIX_ED25519`), ErrSignature},
	} {
		t.Run(name, func(t *testing.T) {
			a := l.Answer(n, size)
			tc.lie(a)
			if r, logged, err := log.Receipt(answer(t, a), cp, c.PublicKey()); !errors.Is(err, tc.want) || r != nil || logged != (Logged{}) {
				t.Errorf("%v, %+v, %+v", err, r, logged)
			}
		})
	}

	// What fits is refused with other keys and under another checkpoint.
	good := answer(t, l.Answer(n, size))
	r, _, err := log.Receipt(good, cp, c.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := log.Receipt(good, cp, other.PublicKey()); !errors.Is(err, ErrSignature) {
		t.Errorf("another chain's key: %v", err)
	}
	if _, _, err := log.Receipt(good, later, c.PublicKey()); !errors.Is(err, ErrSignature) {
		t.Errorf("another checkpoint: %v", err)
	}
	if _, _, err := parseLog(t, l.Key, "log.example.com").Receipt(good, cp, c.PublicKey()); !errors.Is(err, ErrWrongKey) {
		t.Errorf("another name of the log: %v", err)
	}
	if _, _, err := log.Receipt(append(good, bytes.Repeat([]byte(" "), MaxReceipt)...), cp, c.PublicKey()); !errors.Is(err, staunch.ErrInvalid) {
		t.Errorf("a long answer: %v", err)
	}
	if _, err := cp.VerifyLogged(c.PublicKey(), log); !errors.Is(err, staunch.ErrInvalid) {
		t.Errorf("no receipt: %v", err)
	}
	later.Logged = r
	if _, err := later.VerifyLogged(c.PublicKey(), log); !errors.Is(err, ErrSignature) {
		t.Errorf("the receipt of another checkpoint: %v", err)
	}
	edited := cp
	edited.Logged, edited.At = r, cp.At+1
	if _, err := edited.VerifyLogged(c.PublicKey(), log); !errors.Is(err, ErrSignature) {
		t.Errorf("an edited checkpoint: %v", err)
	}
	// The log knows nothing of the signature that the checkpoint has itself.
	edited = cp
	edited.Logged, edited.Signature = r, later.Signature
	if _, err := edited.VerifyLogged(c.PublicKey(), log); !errors.Is(err, ErrSignature) {
		t.Errorf("a checkpoint under another's signature: %v", err)
	}
	// The log's own operators cannot vouch for a checkpoint that nobody signed.
	forged := cp
	forged.Heads = []Head{{Lane: "a", Seq: 2, Hash: strings.Repeat("cd", 32)}}
	if _, err := c.LogRequest(forged); !errors.Is(err, ErrSignature) {
		t.Errorf("a request for what was not signed: %v", err)
	}
}

func phSign(t testing.TB, c *Chain, digest []byte) []byte {
	t.Helper()
	sig, err := c.sign.Sign(nil, digest, hashed)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// clearInto makes a what b is.
func clearInto(a, b map[string]any) {
	clear(a)
	for k, v := range b {
		a[k] = v
	}
}

// leaves calls fn with the place of every string in v.
func leaves(v any, path string, fn func(path, s string, set func(string))) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if s, ok := e.(string); ok {
				fn(path+"."+k, s, func(to string) { v[k] = to })
			}
			leaves(e, path+"."+k, fn)
		}
	case []any:
		for i, e := range v {
			if s, ok := e.(string); ok {
				fn(fmt.Sprintf("%s[%d]", path, i), s, func(to string) { v[i] = to })
			}
			leaves(e, path, fn)
		}
	}
}

// TestEveryByteOfAReceiptCounts: a receipt in which a character is another is
// refused, or says the same.
func TestEveryByteOfAReceiptCounts(t *testing.T) {
	c := testChain(t, 7)
	l := fakelog.Start(t, "log.example.org")
	log := parseLog(t, l.Key, l.Origin)
	cp := testCheckpoint(t, c, 1)
	for range 11 {
		l.Add([]byte("another's"))
	}
	n := addEntry(t, c, l, cp)
	for range 10 {
		l.Add([]byte("another's"))
	}
	r, _, err := log.Receipt(answer(t, l.Answer(n, n+9)), cp, c.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	cp.Logged = r
	whole := answer(t, cp)
	rapid.Check(t, func(rt *rapid.T) {
		var doc map[string]any
		if err := json.Unmarshal(whole, &doc); err != nil {
			rt.Fatal(err)
		}
		type leaf struct {
			s   string
			set func(string)
		}
		all, paths := map[string]leaf{}, []string{}
		leaves(doc["logged"], "", func(path, s string, set func(string)) {
			all[path] = leaf{s, set}
			paths = append(paths, path)
		})
		path := rapid.SampledFrom(paths).Draw(rt, "path")
		lf := all[path]
		b := []byte(lf.s)
		i := rapid.IntRange(0, len(b)-1).Draw(rt, "at")
		b[i] = rapid.SampledFrom([]byte("AZaz0189+/=\n- ")).Draw(rt, "to")
		lf.set(string(b))
		var bent Checkpoint
		if err := json.Unmarshal(answer(t, doc), &bent); err != nil {
			return // not even its form
		}
		logged, err := bent.VerifyLogged(c.PublicKey(), log)
		if err != nil {
			if !errors.Is(err, ErrSignature) && !errors.Is(err, ErrWrongKey) && !errors.Is(err, staunch.ErrInvalid) {
				rt.Fatalf("%s: an error of no kind: %v", path, err)
			}
			return
		}
		// Base64 that ends in bits which do not count says the same in several ways.
		text, _, _ := strings.Cut(bent.Logged.InclusionProof.Checkpoint.Envelope, "\n\n")
		bent.Logged.InclusionProof.Checkpoint = r.InclusionProof.Checkpoint
		if !reflect.DeepEqual(bent.Logged, r) || !strings.HasPrefix(r.InclusionProof.Checkpoint.Envelope, text+"\n\n") {
			rt.Fatalf("%s changed to %q at %d is taken: %+v", path, b, i, logged)
		}
	})
}

func TestParseTransparencyLog(t *testing.T) {
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := note.NewEd25519VerifierKey("log.example.org", pub)
	if err != nil {
		t.Fatal(err)
	}
	der := func(key any) []byte {
		b, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	big, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString(der(pub))
	text := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der(pub)}))
	for _, tc := range []struct{ key, origin, want string }{
		{vkey, "", "log.example.org"}, {" " + vkey + "\n", "log.example.org", "log.example.org"},
		{b64, "a", "a"}, {text, "a/b:1", "a/b:1"}, {base64.StdEncoding.EncodeToString(der(p256.Public())), "a", "a"},
	} {
		l, err := ParseTransparencyLog(tc.key, tc.origin)
		if err != nil || l.Origin() != tc.want || l.Name() != tc.want {
			t.Errorf("%q of %q: %v", tc.key, tc.origin, err)
			continue
		}
		// It has one form that gives the same again.
		if l2, err := ParseTransparencyLog(l.Key(), l.Origin()); err != nil || l2.id != l.id || l2.KeyHash() != l.KeyHash() {
			t.Errorf("%q of %q, again: %v", tc.key, tc.origin, err)
		}
	}
	for name, tc := range map[string]struct{ key, origin string }{
		"nothing": {"", "a"}, "no base64": {"!", "a"}, "no key": {"YWJj", "a"}, "no origin": {b64, ""}, "blank in origin": {b64, "a b"}, "plus in origin": {b64, "a+b"},
		"line feed in origin": {b64, "a\nb"}, "long origin": {b64, strings.Repeat("a", maxOrigin+1)}, "other name": {vkey, "log.example.com"}, "renamed": {"x" + vkey, ""},
		"p384": {base64.StdEncoding.EncodeToString(der(p384.Public())), "a"}, "rsa": {base64.StdEncoding.EncodeToString(der(big.Public())), "a"},
		"private": {"-----BEGIN PRIVATE KEY-----\nYWJj\n-----END PRIVATE KEY-----\n", "a"}, "two": {text + text, "a"}, "long": {strings.Repeat("A", maxLogKey+1), "a"},
		"escape in origin": {b64, "a\x1b[31m"},
	} {
		if _, err := ParseTransparencyLog(tc.key, tc.origin); !errors.Is(err, staunch.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestExportPastLogged: an export is held against a checkpoint that was logged.
func TestExportPastLogged(t *testing.T) {
	c := testChain(t, 7)
	l := fakelog.Start(t, "log.example.org")
	log := parseLog(t, l.Key, l.Origin)
	records := sample(t, c, 2, 4)
	export := exported(t, c, records)
	rep := verify(t, c, nil, records)
	cp, err := c.Checkpoint(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), rep.Heads)
	if err != nil {
		t.Fatal(err)
	}
	check := func(past *Checkpoint, log *TransparencyLog) (Report, error) {
		return VerifyExport(bytes.NewReader(export), VerifyOptions{PublicKey: c.PublicKey(), Past: past, Log: log})
	}
	if _, err := check(&cp, log); !errors.Is(err, staunch.ErrInvalid) {
		t.Errorf("a checkpoint that was not logged: %v", err)
	}
	if _, err := check(nil, log); !errors.Is(err, staunch.ErrInvalid) {
		t.Errorf("no checkpoint: %v", err)
	}
	if rep, err := check(&cp, nil); err != nil || rep.Logged != nil {
		t.Errorf("no log: %v, %+v", err, rep.Logged)
	}
	n := addEntry(t, c, l, cp)
	if cp.Logged, _, err = log.Receipt(answer(t, l.Answer(n, n+1)), cp, c.PublicKey()); err != nil {
		t.Fatal(err)
	}
	if rep, err := check(&cp, log); err != nil || rep.Err() != nil || rep.Logged == nil || !rep.Logged.Checked || rep.Logged.TreeSize != 1 {
		t.Errorf("a checkpoint that was logged: %v, %+v", err, rep)
	}
	if rep, err := check(&cp, nil); err != nil || rep.Logged == nil || rep.Logged.Checked {
		t.Errorf("a receipt that is not checked: %v, %+v", err, rep.Logged)
	}
	// An export's own checkpoint has none: nobody gives it one.
	with := bytes.TrimSuffix(bytes.TrimSpace(export), []byte("}}"))
	with = append(append(with, `,"logged":`...), answer(t, cp.Logged)...)
	if rep, err := VerifyExport(bytes.NewReader(append(with, "}}\n"...)), VerifyOptions{PublicKey: c.PublicKey()}); err != nil || rep.Err() == nil {
		t.Errorf("an export that was given a receipt: %v, %+v", err, rep)
	}
}

func TestClaims(t *testing.T) {
	r := LogReceipt{LogIndex: "12"}
	r.InclusionProof.Checkpoint.Envelope = "log.example.org\n13\n"
	if o, e := r.Claims(); o != "log.example.org" || e != "12" {
		t.Errorf("%q %q", o, e)
	}
	r.LogIndex, r.InclusionProof.Checkpoint.Envelope = "1\x1b[2J", "a\x1b[2J\n"
	if o, e := r.Claims(); o != "?" || e != "?" {
		t.Errorf("%q %q", o, e)
	}
}

// FuzzReceipt: whatever a log answers, it is refused or is verified again when it
// was kept.
func FuzzReceipt(f *testing.F) {
	c := testChain(f, 7)
	l := fakelog.StartSeed(f, "log.example.org", "fuzz") // for every process that fuzzes
	log := parseLog(f, l.Key, l.Origin)
	cp := testCheckpoint(f, c, 1)
	n := addEntry(f, c, l, cp)
	l.Add([]byte("another's"))
	for size := n + 1; size <= n+2; size++ {
		f.Add(answer(f, l.Answer(n, size)))
	}
	f.Add([]byte(`{"logIndex":"0","logId":{},"kindVersion":{"kind":"hashedrekord","version":"0.0.2"},"inclusionProof":{"hashes":[""],"checkpoint":{"envelope":"\n"}},"canonicalizedBody":"e30="}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, logged, err := log.Receipt(b, cp, c.PublicKey())
		if err != nil {
			return
		}
		kept := cp
		kept.Logged = r
		if l2, err := again(t, kept).VerifyLogged(c.PublicKey(), log); err != nil || l2 != logged {
			t.Fatalf("taken as %+v, and then %+v, %v", logged, l2, err)
		}
	})
}
