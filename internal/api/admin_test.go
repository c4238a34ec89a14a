package api

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/auth"
	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/record"
	"github.com/staunch-project/staunch/internal/store"
)

func TestTokens(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var nt NewToken
	r.want(r.do("admin", "POST", "/v1/tokens", TokenRequest{Name: "ann", Role: "responder", Owners: []string{"team-a"}, TTL: staunch.Duration(time.Hour)}), 201).into(&nt)
	if nt.V != 1 || !auth.LooksLikeToken(nt.Secret) || nt.Token.CreatedBy != "admin" || nt.Token.Expires.Sub(nt.Token.Created) != time.Hour {
		t.Fatalf("%+v", nt)
	}
	r.tokens["ann"] = nt.Secret
	r.want(r.do("ann", "GET", "/v1/containments", nil), 200)

	a := r.want(r.do("admin", "GET", "/v1/tokens", nil), 200)
	var ts Tokens
	a.into(&ts)
	if len(ts.Items) != 7 || strings.Contains(a.Body.String(), nt.Secret) || strings.Contains(a.Body.String(), auth.HashToken(nt.Secret)) {
		t.Errorf("%s", a.Body)
	}
	for range 2 { // again changes nothing
		if a := r.want(r.do("admin", "DELETE", "/v1/tokens/"+nt.Token.ID, nil), 204); a.Body.Len() != 0 {
			t.Errorf("%s", a.Body)
		}
	}
	r.want(r.do("ann", "GET", "/v1/containments", nil), 401).problem()
	r.want(r.do("admin", "DELETE", "/v1/tokens/tok_none", nil), 404).problem()
	recs := r.records(staunch.RecordToken)
	if len(recs) != 2 || recs[0].Actor != "admin" || recs[1].Actor != "admin" || recs[0].About != nt.Token.ID {
		t.Fatalf("%+v", recs)
	}
	for _, rec := range recs {
		if bytes.Contains(rec.Body, []byte(nt.Secret)) {
			t.Error("the secret is in a record")
		}
	}
	// Somebody has to be able to let others in.
	if p := r.want(r.do("admin", "DELETE", "/v1/tokens/tok_admin", nil), 409).problem(); p.Hint == "" {
		t.Errorf("%+v", p)
	}
	r.token(store.Token{Name: "part", Role: "admin", Owners: []string{"x"}}) // does not count
	r.want(r.do("admin", "DELETE", "/v1/tokens/tok_admin", nil), 409)
	r.token(store.Token{Name: "second", Role: "admin"})
	r.want(r.do("admin", "DELETE", "/v1/tokens/tok_admin", nil), 204)
	r.want(r.do("admin", "GET", "/v1/tokens", nil), 401)

	for body, place := range map[string]string{
		`{"name":"x","role":"root"}`:                                     "role",
		`{"name":"","role":"viewer"}`:                                    "name",
		`{"name":" x","role":"viewer"}`:                                  "name",
		`{"name":"x","role":"source"}`:                                   "source",
		`{"name":"x","role":"viewer","source":"s"}`:                      "source",
		`{"name":"x","role":"viewer","ttl":"-1h"}`:                       "ttl",
		`{"name":"x","role":"viewer","realms":["a\u0001"]}`:              "realms[0]",
		`{"name":"x","role":"pep","realms":["a"]}`:                       "role",
		`{"name":"x","role":"source","source":"s","environments":["a"]}`: "role",
	} {
		if p := r.want(r.do("second", "POST", "/v1/tokens", body), 400).problem(); p.Place != place {
			t.Errorf("%s: place %q, want %q (%s)", body, p.Place, place, p.Message)
		}
	}
}

// What is checked is what is used, however a body spells its names.
func TestNamesAreSpelledAsDescribed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	plan := `"plan":{"v":1,"kind":"staunch.plan","targets":[],"Targets":[{}]}`
	for path, body := range map[string]string{
		"/v1/tokens":        `{"name":"x","role":"viewer","ROLE":"admin"}`,
		"/v1/tokens?":       `{"Name":"x","role":"viewer"}`,
		"/v1/trust/promote": `{"rule":"a","to":"shadow","To":"bogus","reason":"x"}`,
		"/v1/containments":  `{"subject":"` + appRW.String() + `","tier":"restrict","Tier":"revoke","reason":"x"}`,
		pathApply:           `{"reason":"x",` + plan + `}`,
	} {
		if a := r.want(r.do("admin", "POST", path, body), 400); !strings.Contains(a.Body.String(), "unexpected property") {
			t.Errorf("%s %s: %s", path, body, a.Body)
		}
	}
}

func TestBreakers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var bs Breakers
	if r.want(r.do("viewer", "GET", "/v1/breakers", nil), 200).into(&bs); bs.Items == nil {
		t.Error("null for none")
	}
	must(t, r.store.Update(t.Context(), func(tx store.Tx) error {
		return tx.PutBreaker(store.Breaker{Scope: "source/trail", Open: true, Reason: "31 containments in 10m", Changed: 5, By: "engine"})
	}))
	var b BreakerChanged
	r.want(r.do("admin", "POST", "/v1/breakers/reset", BreakerRequest{Scope: "source/trail"}), 200).into(&b)
	if b.Breaker.Open || b.Breaker.By != "admin" || b.Breaker.Changed < 10 {
		t.Errorf("%+v", b)
	}
	if recs := r.records(staunch.RecordBreaker); len(recs) != 1 || recs[0].Actor != "admin" || recs[0].About != "source/trail" || !strings.Contains(string(recs[0].Body), "31 containments") {
		t.Errorf("%+v", recs)
	}
	r.want(r.do("admin", "POST", "/v1/breakers/reset", BreakerRequest{Scope: "source/trail"}), 409).problem()
	r.want(r.do("admin", "POST", "/v1/breakers/reset", BreakerRequest{Scope: "source/none"}), 404).problem()
	r.want(r.do("admin", "POST", "/v1/breakers/reset", `{}`), 400).problem()
}

func TestOperator(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.oper.checks = []Check{{Name: "store", Status: "ok"}, {Name: "realm pg/main", Status: "warning", Message: "slow"}}
	var st Storage
	if r.want(r.do("admin", "GET", "/v1/store", nil), 200).into(&st); st.V != 1 || st.Tables == nil || st.Ages["events"] != "30d" {
		t.Errorf("%+v", st)
	}
	var next StoragePreview
	if r.want(r.do("admin", "GET", "/v1/store/preview", nil), 200).into(&next); next.V != 1 || next.Sweep.Kinds == nil || next.Sweep.At != 5 {
		t.Errorf("%+v", next)
	}
	var d Diagnosis
	if r.want(r.do("admin", "GET", "/v1/doctor", nil), 200).into(&d); !d.Healthy || len(d.Checks) != 2 {
		t.Errorf("%+v", d)
	}
	r.oper.checks[1].Status = "error"
	if r.want(r.do("admin", "GET", "/v1/doctor", nil), 200).into(&d); d.Healthy {
		t.Errorf("%+v", d)
	}
	var rl Reloaded
	if r.want(r.do("admin", "POST", "/v1/reload", nil), 200).into(&rl); !rl.Changed || rl.V != 1 {
		t.Errorf("%+v", rl)
	}
	r.oper.refused = maxFaults + 7
	if p := r.want(r.do("admin", "POST", "/v1/reload", nil), 400).problem(); p.Place != "rules/0.yml:3" {
		t.Errorf("%+v", p)
	}
	if r.want(r.do("admin", "POST", "/v1/reload?keep_going=true", nil), 200).into(&rl); len(rl.Refused) != maxFaults || rl.Refused[0].Place != "rules/0.yml:3" || len(rl.Notes) != 1 {
		t.Errorf("%+v", rl)
	}
	r.want(r.do("admin", "POST", "/v1/reload?keep_going=perhaps", nil), 400).problem()
	r.oper.refused = 0
	r.oper.reload = errors.Join(
		&staunch.Problem{Place: "rules/a.yml:3", Reason: "unknown modifier", Hint: "see the docs"},
		errors.Join(&staunch.Problem{Place: "policies/b.yaml:9", Reason: "no such playbook"}))
	p := r.want(r.do("admin", "POST", "/v1/reload", nil), 400).problem()
	if len(p.Problems) != 2 || p.Problems[1].Place != "policies/b.yaml:9" || p.Problems[0].Hint == "" {
		t.Errorf("%+v", p)
	}
}

func TestAudit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for range 3 {
		r.contain(staunch.Ref{Kind: staunch.KindAccount, Realm: "pg/main", Scheme: "role", Value: rand.Text()})
	}
	const logPage = 500 // more than a page of records
	must(t, r.store.Update(t.Context(), func(tx store.Tx) error {
		for range logPage + 20 {
			if _, err := tx.AppendRecord(staunch.Record{Kind: staunch.RecordNode, Actor: "engine", Time: 9, Body: []byte(`{}`)}); err != nil {
				return err
			}
		}
		return nil
	}))
	var rep record.Report
	r.want(r.do("admin", "GET", "/v1/records/verify", nil), 200).into(&rep)
	if rep.Records < logPage+23 || !rep.Keyed || len(rep.Breaks) != 0 {
		t.Fatalf("%+v", rep)
	}
	a := r.want(r.do("admin", "GET", "/v1/records/export", nil), 200)
	if ct := a.Header().Get("Content-Type"); ct != "application/x-ndjson" {
		t.Errorf("type %q", ct)
	}
	out, err := record.VerifyExport(bytes.NewReader(a.Body.Bytes()), record.VerifyOptions{PublicKey: r.chain.PublicKey()})
	if err != nil || !out.Signed || out.Records != rep.Records {
		t.Fatalf("%v %+v", err, out)
	}
	cut := bytes.TrimRight(a.Body.Bytes(), "\n")
	cut = cut[:bytes.LastIndexByte(cut, '\n')+1]
	if out, err := record.VerifyExport(bytes.NewReader(cut), record.VerifyOptions{Chain: r.chain}); err == nil && out.Err() == nil {
		t.Error("an export without its end was found whole")
	}
}

// TestAuditOfAChangedLog: the server reports it, and an export of it is not
// vouched for.
func TestAuditOfAChangedLog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	con := r.contain(appRW)
	r.s.opt.Store = forger{r.store, con.ID}
	var rep record.Report
	r.want(r.do("admin", "GET", "/v1/records/verify", nil), 200).into(&rep)
	if rep.Err() == nil || rep.Breaks[0].Kind != record.BreakEdited {
		t.Fatalf("%+v", rep)
	}
	a := r.want(r.do("admin", "GET", "/v1/records/export", nil), 200)
	if strings.Contains(a.Body.String(), `{"checkpoint"`) || !strings.Contains(a.Body.String(), con.ID) {
		t.Errorf("%s", a.Body)
	}
	if !strings.Contains(r.logged(), "changed") {
		t.Error("nothing in the log")
	}
	// Cut at the end: the lanes end before the heads that the store names.
	r.s.opt.Store = forger{r.store, "cut"}
	r.want(r.do("admin", "GET", "/v1/records/verify", nil), 200).into(&rep)
	if rep.Err() == nil || rep.Breaks[0].Kind != record.BreakTruncated {
		t.Errorf("%+v", rep)
	}
}

// forger changes records on their way out of the store.
type forger struct {
	store.Store
	about string
}

type forged struct {
	store.Reader
	about string
}

func (f forger) View(ctx context.Context, fn func(store.Reader) error) error {
	return f.Store.View(ctx, func(r store.Reader) error { return fn(forged{r, f.about}) })
}

func (f forged) Records(lane string, after int64, limit int) ([]staunch.Record, error) {
	rs, err := f.Reader.Records(lane, after, limit)
	if f.about == "cut" && len(rs) > 0 {
		return rs[:len(rs)-1], err
	}
	for i := range rs {
		if rs[i].About == f.about {
			rs[i].Actor = "mallory"
		}
	}
	return rs, err
}

func TestOpenAPI(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.want(r.do("viewer", "GET", "/openapi.json", nil), 200)
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			Security   []map[string][]string
			Responses  map[string]any
			Parameters []struct{ Name, In string }
		}
		Components struct{ Schemas map[string]any }
	}
	must(t, json.Unmarshal(a.Body.Bytes(), &doc))
	if doc.OpenAPI != "3.1.0" {
		t.Errorf("version %q", doc.OpenAPI)
	}
	described := 0
	for _, rt := range r.s.Routes() {
		op, ok := doc.Paths[rt.Path][strings.ToLower(rt.Method)]
		if !ok {
			t.Errorf("%s is not described", rt.pattern())
			continue
		}
		described++
		if (len(op.Security) == 1) != (rt.Verb != "") {
			t.Errorf("%s: security %v", rt.pattern(), op.Security)
		}
		if _, ok := op.Responses["422"]; ok {
			t.Errorf("%s says 422", rt.pattern())
		}
		for _, seg := range strings.Split(rt.Path, "/") {
			if !strings.HasPrefix(seg, "{") {
				continue
			}
			found := false
			for _, p := range op.Parameters {
				found = found || p.In == "path" && p.Name == strings.Trim(seg, "{}")
			}
			if !found {
				t.Errorf("%s does not describe %s", rt.pattern(), seg)
			}
		}
	}
	for path, ops := range doc.Paths {
		described -= len(ops)
		if path == "" {
			t.Error("an empty path")
		}
	}
	if described != 0 {
		t.Errorf("%d more operations are described than served", -described)
	}
	// Every reference leads somewhere.
	for _, ref := range strings.Split(a.Body.String(), `"#/components/schemas/`)[1:] {
		name, _, _ := strings.Cut(ref, `"`)
		if doc.Components.Schemas[name] == nil {
			t.Errorf("schema %s is missing", name)
		}
	}
	y, err := OpenAPI()
	must(t, err)
	if !bytes.Contains(y, []byte("openapi: 3.1.0")) {
		t.Errorf("%.200s", y)
	}
	again, err := OpenAPI()
	if err != nil || !bytes.Equal(y, again) {
		t.Error("the description is not the same every time")
	}
	r.want(r.do("viewer", "GET", "/openapi.yaml", nil), 200)
}

// TestServe goes over a real connection with TLS, and ends in an orderly way.
func TestServe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "staunch"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	must(t, err)
	kb, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	files := &config.TLS{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")}
	must(t, os.WriteFile(files.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(files.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kb}), 0o600))
	r := newRig(t, func(o *Options) { o.TLS = files })

	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- r.s.Serve(ctx, l) }()
	pool := x509.NewCertPool()
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	pool.AddCert(cert)
	for version, ok := range map[uint16]bool{tls.VersionTLS13: true, tls.VersionTLS12: true, tls.VersionTLS11: false} {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS10, MaxVersion: version}}
		c := &http.Client{Transport: tr}
		resp, err := c.Get("https://" + l.Addr().String() + "/healthz")
		if (err == nil) != ok {
			t.Errorf("TLS %x: %v", version, err)
		}
		if err == nil {
			if resp.StatusCode != 204 {
				t.Errorf("healthz: %d", resp.StatusCode)
			}
			must(t, resp.Body.Close())
		}
		tr.CloseIdleConnections()
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		_ = c.Close()
		t.Error("it still listens")
	}

	broken := newRig(t, func(o *Options) { o.TLS = &config.TLS{Cert: files.Cert, Key: files.Cert} })
	l2, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	if err := broken.s.Serve(t.Context(), l2); err == nil {
		t.Error("it served without a key")
	}
}

// TestServeFinishes lets what is under way finish when it is told to end.
func TestServeFinishes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.ingest.block, r.ingest.began = make(chan struct{}), make(chan struct{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended, got := make(chan error, 1), make(chan int, 1)
	go func() { ended <- r.s.Serve(ctx, l) }()
	tr := &http.Transport{}
	go func() {
		req, _ := http.NewRequest("POST", "http://"+l.Addr().String()+"/v1/ingest/trail", strings.NewReader("{}"))
		req.Header.Set("Authorization", "Bearer "+r.tokens["source"])
		resp, err := tr.RoundTrip(req)
		if err != nil {
			got <- 0
			return
		}
		_ = resp.Body.Close()
		got <- resp.StatusCode
	}()
	<-r.ingest.began
	cancel()
	close(r.ingest.block)
	if code := <-got; code != 200 {
		t.Errorf("the request under way got %d", code)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	tr.CloseIdleConnections()
}
