package mapping

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

var env = format.Env{Source: "s", Realm: "r", Received: 1_767_225_600_000_000}

func mustCompile(t testing.TB, src string) *Format {
	t.Helper()
	f, err := Compile([]byte(src), "test.yaml", Options{})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func parsed(t testing.TB, raw string) *jsondoc.Doc {
	t.Helper()
	d := jsondoc.New(jsondoc.Limits{})
	if err := d.Parse([]byte(raw)); err != nil {
		t.Fatal(err)
	}
	return d
}

const head = "v: 1\nname: t\nproduct: {name: T}\n"

func TestCompileErrors(t *testing.T) {
	for _, tc := range []struct{ name, src, place, reason string }{
		{"not yaml", "v: [", "test.yaml:", "is not YAML"},
		{"empty", "", "test.yaml:1", "is empty"},
		{"no version", "name: t\nproduct: {name: T}\n", "test.yaml:1", "v is missing"},
		{"other version", "v: 2\nname: t\nproduct: {name: T}\n", "test.yaml:1", "v has to be 1"},
		{"no product", "v: 1\nname: t\n", "test.yaml:1", "product is missing"},
		{"unknown key", head + "keyz: {}\n", "test.yaml:4", `no key "keyz"`},
		{"repeated key", head + "keys: {id: a, id: b}\n", "test.yaml:4", "given twice"},
		{"unknown ref", head + "keys:\n  actor: [nobody]\n", "test.yaml:5", `no ref "nobody"`},
		{"bad kind", head + "keys:\n  actor: [{kind: person, scheme: x, from: a}]\n", "test.yaml:5", "not a kind"},
		{"bad scheme", head + "keys:\n  actor: [{kind: account, scheme: 'a b', from: a}]\n", "test.yaml:5", "scheme"},
		{"resource acts", head + "keys:\n  actor: [{kind: resource, scheme: x, from: a}]\n", "test.yaml:5", "does not act"},
		{"no from", head + "keys:\n  actor: [{kind: account, scheme: x}]\n", "test.yaml:5", "needs from"},
		{"bad path", head + "keys: {id: 'a..b'}\n", "test.yaml:4", "empty key"},
		{"derived", head + "keys: {id: $nope}\n", "test.yaml:4", "no derived value"},
		{"two sources", head + "keys:\n  id: {from: a, const: b}\n", "test.yaml:5", "exactly one"},
		{"bad conversion", head + "keys:\n  id: {from: a, as: rot13}\n", "test.yaml:5", "not a conversion"},
		{"bad regexp", head + "keys:\n  id: {from: a, match: '('}\n", "test.yaml:5", "match"},
		{"else without table", head + "keys:\n  id: {from: a, else: b}\n", "test.yaml:5", "belongs to a table"},
		{"template", head + "keys:\n  id: 'a {b'\n", "test.yaml:5", "{ without }"},
		{"outcome", head + "keys:\n  outcome: maybe\n", "test.yaml:5", "not an outcome"},
		{"outcome table", head + "keys:\n  outcome: {value: {from: a, table: {x: fine}}}\n", "test.yaml:5", "not an outcome"},
		{"unit", head + "keys:\n  time: {from: a, unit: weeks}\n", "test.yaml:5", "unit has to be"},
		{"zone", head + "keys:\n  time: {from: a, zones: {X: later}}\n", "test.yaml:5", "not an offset"},
		{"condition", head + "keys:\n  id: {from: a, when: {}}\n", "test.yaml:5", "empty condition"},
		{"test", head + "keys:\n  id: {from: a, when: {b: {like: c}}}\n", "test.yaml:5", `no key "like"`},
		{"fact type", head + "facts:\n  - {type: rumour, subject: {kind: account, scheme: x, from: a}}\n", "test.yaml:5", "not a fact"},
		{"fact of", head + "facts:\n  - {type: same_as, subject: {kind: account, scheme: x, from: a}}\n", "test.yaml:5", "needs of"},
		{"finding", head + "findings:\n  - {confidence: 1}\n", "test.yaml:5", "whom to accuse"},
		{"accused resource", head + "findings:\n  - {confidence: 1, accuse: [{kind: resource, scheme: x, from: a}]}\n", "test.yaml:5", "cannot be accused"},
		{"secret", head + "secrets:\n  at: [{kind: credential}]\n", "test.yaml:5", "needs its path"},
		{"secret keep", head + "secrets:\n  at: [{path: a, keep: true}]\n", "test.yaml:5", "keep needs kind"},
		{"secret inside", head + "secrets:\n  at: [{path: a, inside: true}]\n", "test.yaml:5", "needs match"},
		{"class", head + "ocsf:\n  classes: [{class: Gardening}]\n", "test.yaml:5", "not a class"},
		{"attribute", head + "ocsf:\n  classes:\n    - class: API Activity\n      set: {user.name: a}\n", "test.yaml:7", "API Activity has no attribute user"},
		{"deep attribute", head + "ocsf:\n  common: {actor.user.nickname: a}\n", "test.yaml:5", "no attribute nickname"},
		{"not nested", head + "ocsf:\n  common: {message.text: a}\n", "test.yaml:5", "has no attribute"},
		{"an object", head + "ocsf:\n  common: {actor: a}\n", "test.yaml:5", "is an object"},
		{"engine's", head + "ocsf:\n  common: {time: a}\n", "test.yaml:5", "filled in by the engine"},
		{"missing required", head + "ocsf:\n  classes:\n    - class: Authentication\n      set: {user.name: a}\n", "test.yaml:6", "at least one of service"},
		{"missing attribute", head + "ocsf:\n  classes:\n    - class: Authentication\n      set: {service.name: a}\n", "test.yaml:6", "needs user"},
		{"enum", head + "ocsf:\n  common: {actor.user.name: a, actor.user.type_id: 17}\n", "test.yaml:5", "no value"},
		{"enum as path", head + "ocsf:\n  common: {actor.user.name: a, actor.user.type_id: Admin}\n", "test.yaml:5", "read as a path"},
		{"activity", head + "ocsf:\n  classes:\n    - class: Authentication\n      activity: =Dance\n      set: {user.name: a, service.name: b}\n", "test.yaml:7", "no activity"},
		{"array", head + "ocsf:\n  classes:\n    - class: API Activity\n      set: {resources: a, actor.user.name: a, api.operation: b, src_endpoint.ip: c}\n", "test.yaml:7", "array of objects"},
		{"no class has it", head + "ocsf:\n  common: {databucket.name: a}\n", "test.yaml:5", "no class"},
		{"alias bomb", head + "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nkeys: {id: [*b,*b,*b]}\n", "test.yaml:4", `no key "a"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Compile([]byte(tc.src), "test.yaml", Options{})
			if err == nil {
				t.Fatal("compiled")
			}
			var p *staunch.Problem
			if !errors.As(err, &p) || !errors.Is(err, staunch.ErrInvalid) {
				t.Fatalf("%v is not a Problem", err)
			}
			found := false
			for _, line := range strings.Split(err.Error(), "\n") {
				found = found || strings.HasPrefix(line, tc.place) && strings.Contains(line, tc.reason)
			}
			if !found {
				t.Errorf("want %s … %s, have:\n%v", tc.place, tc.reason, err)
			}
		})
	}
}

func TestValues(t *testing.T) {
	const record = `{"a":"x","n":7,"b":true,"z":null,"e":"","o":{"k.d":"dot","list":[{"t":"A","v":"1"},{"t":"B","v":"2"},{"t":"B","v":"3"}]},"s":["p","q"],"arn":"arn:aws:iam::1:user/dev/alice","ip":"[2001:DB8::1]:443"}`
	for _, tc := range []struct{ expr, want string }{
		{"a", "x"},
		{"n", "7"},
		{"b", "true"},
		{"z", ""},
		{"e", ""},
		{"o", ""},
		{"nope", ""},
		{"=const", "const"},
		{"5", "5"},
		{`'o."k.d"'`, "dot"},
		{`'o.list[1].v'`, "2"},
		{`'o.list[].v'`, "1"},
		{`'o.list[t=B].v'`, "2"},
		{`'o.list[t=X|B].v'`, "2"},
		{`'o.list[t=X].v'`, ""},
		{`'s[1]'`, "q"},
		{"'{a}/{n}'", "x/7"},
		{"'{a}/{nope}'", ""},
		{"[nope, z, e, a]", "x"},
		{"{from: arn, as: base}", "alice"},
		{"{from: arn, as: dir}", "arn:aws:iam::1:user/dev"},
		{"{from: arn, as: [base, upper]}", "ALICE"},
		{"{from: arn, match: 'user/(.+)$'}", "dev/alice"},
		{"{from: arn, match: 'role/(.+)$'}", ""},
		{"{from: ip, as: ip}", "2001:db8::1"},
		{"{from: ip, as: port}", "443"},
		{"{from: ip, as: not_ip}", ""},
		{"{from: a, as: not_ip}", "x"},
		{"{from: a, as: ip}", ""},
		{"{from: a, as: digest}", "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"},
		{"{from: a, table: {x: y}}", "y"},
		{"{from: a, table: {w: y}}", ""},
		{"{from: a, table: {w: y}, else: v}", "v"},
		{"{from: a, except: [x]}", ""},
		{"{from: a, when: {n: 7}}", "x"},
		{"{from: a, when: {n: 8}}", ""},
		{"{from: a, when: {n: {not: 8}}}", "x"},
		{"{from: a, when: {n: [6, 7]}}", "x"},
		{"{from: a, when: [{n: 8}, {b: true}]}", "x"},
		{"{from: a, when: {n: 7, b: false}}", ""},
		{"{from: a, when: {nope: {exists: false}}}", "x"},
		{"{from: a, when: {e: {exists: true}}}", ""},
		{"{from: a, when: {nope: {not: x}}}", "x"},
		{"{from: a, when: {arn: {prefix: 'arn:', suffix: alice, contains: iam}}}", "x"},
		{"{from: a, when: {arn: {matches: '^arn:.*bob'}}}", ""},
		{"{from: a, when: {'o.list[].t': B}}", "x"},
		{"{from: a, when: {'o.list[].t': {not: B}}}", ""},
		{"{from: a, when: {o: {kind: object}}}", "x"},
		{"{from: [nope, arn], as: base}", "alice"},
		{"{first: [{from: a, table: {w: 1}}, n]}", "7"},
	} {
		f := mustCompile(t, head+"keys:\n  id: "+tc.expr+"\n")
		k, err := f.Keys(parsed(t, record), env)
		if err != nil {
			t.Errorf("%s: %v", tc.expr, err)
		} else if k.VendorID != tc.want {
			t.Errorf("%s = %q, want %q", tc.expr, k.VendorID, tc.want)
		}
	}
}

func TestTimes(t *testing.T) {
	for _, tc := range []struct{ spec, value, want string }{
		{"t", `"2026-11-22T10:00:00Z"`, "2026-11-22T10:00:00.000000Z"},
		{"t", `"2026-11-22T10:00:00.1234567+02:00"`, "2026-11-22T08:00:00.123456Z"},
		{"t", `"2026-11-22T10:00:00"`, "2026-11-22T10:00:00.000000Z"},
		{"t", `"2026-11-22 10:00:00.5"`, "2026-11-22T10:00:00.500000Z"},
		{"t", `"2026-11-22 10:00:00.123000000"`, "2026-11-22T10:00:00.123000Z"},
		{"t", `1795341600`, "2026-11-22T10:00:00.000000Z"},
		{"t", `1795341600.25`, "2026-11-22T10:00:00.250000Z"},
		{"t", `"1795341600123"`, "2026-11-22T10:00:00.123000Z"},
		{"t", `1795341600123456`, "2026-11-22T10:00:00.123456Z"},
		{"t", `1795341600123456789`, "2026-11-22T10:00:00.123456Z"},
		{"{from: t, unit: ms}", `1795341600123`, "2026-11-22T10:00:00.123000Z"},
		{"{from: t, unit: s}", `1795341600123`, "!"},
		{"{from: t, layouts: ['02.01.2006 15:04']}", `"22.11.2026 10:00"`, "2026-11-22T10:00:00.000000Z"},
		{"{from: t, zones: {CET: '+01:00'}}", `"2026-11-22 10:00:00.5 CET"`, "2026-11-22T09:00:00.500000Z"},
		{"{from: t, zones: {CET: '+01:00'}}", `"2026-11-22 10:00:00.5 XYZ"`, "!"},
		{"t", `"2026-11-22 10:00:00 PST"`, "!"}, // never taken for UTC
		{"t", `"soon"`, "!"},
		{"{from: t, lenient: true}", `"soon"`, ""},
		{"t", `true`, "!"},
		{"t", `{"a":1}`, "!"},
		{"t", `null`, ""},
		{"t", `""`, ""},
		{"t", `5`, "!"},
		{"t", `1e300`, "!"},
		{"t", `-1`, "!"},
		{"[u, t]", `"2026-11-22T10:00:00Z"`, "2026-11-22T10:00:00.000000Z"},
	} {
		f := mustCompile(t, head+"keys:\n  time: "+tc.spec+"\n")
		k, err := f.Keys(parsed(t, `{"t":`+tc.value+`}`), env)
		if tc.want == "!" {
			var p *staunch.Problem
			if !errors.As(err, &p) || p.Place != "t" {
				t.Errorf("%s of %s: %v %v, want a Problem at t", tc.spec, tc.value, k.Time, err)
			}
			continue
		}
		if err != nil || k.Time.String() != tc.want {
			t.Errorf("%s of %s = %q %v, want %q", tc.spec, tc.value, k.Time, err, tc.want)
		}
	}
}

func TestIgnoreCase(t *testing.T) {
	f := mustCompile(t, head+"ignore_case: eventType\nkeys: {id: eventType, operation: actor.alternateId}\n")
	for raw, want := range map[string]string{
		`{"eventtype":"x","actor":{"alternateid":"a"}}`: "x a",
		`{"eventType":"x","actor":{"alternateId":"a"}}`: "x a",
		// One exact key says that the record is written exactly.
		`{"eventType":"x","actor":{"alternateid":"a"}}`: "x ",
	} {
		k, err := f.Keys(parsed(t, raw), env)
		if got := k.VendorID + " " + k.Operation; err != nil || got != want {
			t.Errorf("%s: %q %v, want %q", raw, got, err, want)
		}
	}
}

func TestSplit(t *testing.T) {
	f := mustCompile(t, head+`envelopes:
  - Records
  - path: detail
    when: {detail-type: {exists: true}}
  - {path: "logEvents[].message", decode: true}
  - {path: Message, decode: true, when: {Type: Notification}}
`)
	for _, tc := range []struct{ in, want string }{
		{`{"a":1}`, `{"a":1}`},
		{`{"Records":[{"a":1},{"a":2},7]}`, `{"a":1}|{"a":2}|7`},
		{`{"Records":[]}`, ``},
		{`{"Records":"no"}`, `{"Records":"no"}`},
		{`{"detail-type":"x","detail":{"a":1}}`, `{"a":1}`},
		{`{"detail":{"a":1}}`, `{"detail":{"a":1}}`},
		{`{"logEvents":[{"message":"{\"a\":1}"},{"message":"{\"Records\":[{\"b\":2}]}"}]}`, `{"a":1}|{"b":2}`},
		{`{"Type":"Notification","Message":"{\"Records\":[{\"c\":3}]}"}`, `{"c":3}`},
		{`{"Type":"Notification","Message":"not json"}`, `!Message 1`},
		{`{"logEvents":[{"message":"{\"a\":1}"},{"message":5}]}`, `{"a":1}|!logEvents[].message 2`},
		{`[1]`, `[1]`},
	} {
		var got []string
		err := f.Split(parsed(t, tc.in), func(raw []byte) error { got = append(got, string(raw)); return nil })
		var p *staunch.Problem
		if errors.As(err, &p) {
			got = append(got, "!"+p.Place)
		} else if err != nil {
			t.Errorf("%s: %v is not a Problem", tc.in, err)
		}
		if s := strings.Join(got, "|"); s != tc.want {
			t.Errorf("%s gives %s, want %s", tc.in, s, tc.want)
		}
	}
	stop := errors.New("enough")
	if err := f.Split(parsed(t, `{"Records":[1,2]}`), func([]byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("Split returns %v, not what yield returned", err)
	}
}

func TestSecrets(t *testing.T) {
	f := mustCompile(t, head+`
secrets:
  names: [pin]
  except: [idToken]
  at:
    - {path: headers.authorization, kind: credential, keep: true, match: "^Bearer (.+)$"}
    - {path: sql, inside: true, match: "password '([^']*)'"}
    - data
keys:
  actor: [{kind: credential, scheme: sha256, from: headers.authorization}, {kind: account, scheme: x, from: password}]
ocsf:
  common: {message: sql, status_detail: "saw {headers.authorization}"}
`)
	raw := `{"headers":{"authorization":"Bearer tok-123456"},"password":"hunter2!","api_key":["k-1234567","***"],"pin":1234,` +
		`"idToken":"name","sql":"alter password 'abc' x password 'defghij'","url":"/?t=tok-123456","data":{"n":5,"at":"2026-01-01T00:00:00Z","v":"private!"},"token":{"type":"x"},"Secret":""}`
	d := parsed(t, raw)
	secrets := f.Secrets(d, env)
	var got []string
	for _, s := range secrets {
		got = append(got, raw[s.Start:s.End]+"="+s.Value.Reveal())
	}
	want := `"Bearer tok-123456"=tok-123456,"hunter2!"=hunter2!,"k-1234567"=k-1234567,1234=1234,"alter password 'abc' x password 'defghij'"=abc,"private!"=private!`
	if s := strings.Join(got, ","); s != want {
		t.Errorf("secrets\n%s, want\n%s", s, want)
	}
	digest := staunch.NewSecret("tok-123456").Digest()
	k, err := f.Keys(d, env)
	if err != nil || len(k.Actor) != 2 || k.Actor[0].Value != digest || k.Actor[1].Value != hidden || !secrets[0].Keep || secrets[0].Ref != k.Actor[0] {
		t.Errorf("actor %v (%v), want the token's digest, which is the secret's ref, and %s", k.Actor, err, hidden)
	}
	m, err := f.Map(d, k, env)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"tok-123456", "hunter2!", "k-1234567", "defghij", "'abc'", "private!"} {
		if strings.Contains(string(m.OCSF), s) {
			t.Errorf("%s is in %s", s, m.OCSF)
		}
	}
	for _, s := range []string{`"message":"alter password '***' x password '***'"`, `"status_detail":"saw ` + digest + `"`, `"url":"/?t=` + digest + `"`, `"idToken":"name"`} {
		if !strings.Contains(string(m.OCSF), s) {
			t.Errorf("%s is not in %s", s, m.OCSF)
		}
	}
	red := Redact([]byte(raw), secrets)
	if !json.Valid(red) || strings.Contains(string(red), "hunter2!") || !strings.Contains(string(red), digest) {
		t.Errorf("redacted: %s", red)
	}
}

// TestSecretsAgree checks that keys and the event take the same values for
// secrets: a flag in a token's place is none.
func TestSecretsAgree(t *testing.T) {
	f := mustCompile(t, head+`
secrets: {at: [{path: token, kind: credential, keep: true}]}
refs: {token: {kind: credential, scheme: sha256, from: {from: token, match: "^sha256:.+"}}, user: {kind: account, scheme: x, from: user}}
keys: {actor: [token, user]}
facts:
  - {type: same_as, subject: user, of: token}
ocsf: {}
`)
	for _, token := range []string{`"tok-123456"`, `1234567`, `true`, `false`, `null`, `{}`, `{"a": "tok-123456"}`, `["tok-123456"]`, `""`} {
		d := parsed(t, `{"user":"ann","token":`+token+`}`)
		k, err := f.Keys(d, env)
		if err != nil {
			t.Fatal(err)
		}
		m, err := f.Map(d, k, env)
		if err != nil {
			t.Fatal(err)
		}
		if named := len(k.Actor) == 2; named != k.Facts || k.Facts != (len(m.Facts) == 1) {
			t.Errorf("token %s: actor %v, keys say facts %v, the mapping states %v", token, k.Actor, k.Facts, m.Facts)
		}
	}
}

// TestOneWrongValue checks that a value of the wrong type costs that value
// alone.
func TestOneWrongValue(t *testing.T) {
	f := mustCompile(t, head+`
keys: {operation: op}
ocsf:
  common:
    actor.user: {name: user, uid: uid, email_addr: user}
    src_endpoint: {ip: ip, port: port, name: =unknown}
    cloud: {provider: provider, region: region}
  classes:
    - class: API Activity
      when: {op: {exists: true}}
      set:
        api: {operation: op, request: {uid: rid, data: params}, response.code: code}
        resources: {each: res, item: {uid: id, region: region, role_id: 1}}
`)
	d := parsed(t, `{"op":"Do","user":{"x":1},"uid":42,"ip":"here","port":"70000","code":"4o4","params":{"a":[1]},"region":"eu","res":[{"id":"1","region":"eu"},{"noid":1},5,{"id":{}}]}`)
	k, err := f.Keys(d, env)
	if err != nil {
		t.Fatal(err)
	}
	m, err := f.Map(d, k, env)
	if err != nil {
		t.Fatal(err)
	}
	var ev map[string]any
	if err := json.Unmarshal(m.OCSF, &ev); err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(map[string]any{"actor": ev["actor"], "src": ev["src_endpoint"], "cloud": ev["cloud"], "api": ev["api"], "res": ev["resources"], "un": ev["unmapped"], "profiles": ev["metadata"].(map[string]any)["profiles"]})
	want := `{"actor":{"user":{"uid":"42"}},"api":{"operation":"Do"},"cloud":null,"profiles":null,` +
		`"res":[{"role":"Target","role_id":1,"uid":"1"}],"src":{"name":"unknown"},` +
		`"un":{"code":"4o4","ip":"here","params":{"a":[1]},"port":"70000","region":"eu","res":[{"region":"eu"},{"noid":1},5,{"id":{}}],"user":{"x":1}}}`
	if string(got) != want {
		t.Errorf("have %s\nwant %s", got, want)
	}
}

// TestSchemaTable compares the embedded table with the schema's own files, as
// far as one can without compiling them: version, classes, and that each
// attribute is in the dictionary with that type.
func TestSchemaTable(t *testing.T) {
	corpus := os.Getenv("STAUNCH_CORPUS")
	if corpus == "" {
		t.Skip("STAUNCH_CORPUS is not set: it names the folder of third-party corpora")
	}
	read := func(name string, into any) {
		b, err := os.ReadFile(filepath.Join(corpus, "ocsf-schema", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, into); err != nil {
			t.Fatal(err)
		}
	}
	var v struct{ Version string }
	read("version.json", &v)
	if v.Version != SchemaVersion {
		t.Errorf("the schema is %s, the engine writes %s", v.Version, SchemaVersion)
	}
	var dict struct {
		Attributes map[string]struct {
			Type    string                              `json:"type"`
			IsArray bool                                `json:"is_array"`
			Enum    map[string]struct{ Caption string } `json:"enum"`
		}
	}
	read("dictionary.json", &dict)
	types := map[string]attrType{"string_t": typeString, "integer_t": typeInt, "long_t": typeLong, "float_t": typeFloat, "boolean_t": typeBool,
		"timestamp_t": typeTime, "json_t": typeJSON, "ip_t": typeIP, "port_t": typePort, "email_t": typeEmail, "uuid_t": typeUUID, "url_t": typeURL,
		"mac_t": typeMAC, "subnet_t": typeSubnet, "bytestring_t": typeBytes, "datetime_t": typeDatetime,
		"hostname_t": typeString, "username_t": typeString, "resource_uid_t": typeString, "file_name_t": typeString, "file_path_t": typeString,
		"process_name_t": typeString, "file_hash_t": typeString, "object": typeJSON}
	s, err := loadSchema()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, set := range []map[string]*object{s.classes, s.objects} {
		for _, o := range set {
			for name, a := range o.attrs {
				d, ok := dict.Attributes[name]
				if !ok {
					t.Errorf("%s.%s is not in the dictionary", o.name, name)
					continue
				}
				n++
				if k, scalar := types[d.Type]; scalar && k != a.kind || !scalar && (a.kind != typeObject) {
					t.Errorf("%s.%s is of type %s in the dictionary", o.name, name, d.Type)
				}
				if d.IsArray != a.array {
					t.Errorf("%s.%s: array %v in the dictionary", o.name, name, d.IsArray)
				}
			}
		}
	}
	if n < 500 {
		t.Errorf("only %d attributes were compared", n)
	}
}

func TestConcurrentUse(t *testing.T) {
	f := mustCompile(t, head+"keys: {id: a, operation: b.c, actor: [{kind: account, scheme: x, from: '{a}/{b.c}'}]}\nocsf: {common: {message: a}}\n")
	done := make(chan error)
	for i := range 8 {
		go func() {
			d := jsondoc.New(jsondoc.Limits{})
			var err error
			for range 200 {
				want := string(rune('a' + i))
				if e := d.Parse([]byte(`{"a":"` + want + `","b":{"c":"x"}}`)); e != nil {
					err = e
					break
				}
				k, e := f.Keys(d, env)
				if e != nil || k.VendorID != want || k.Actor[0].Value != want+"/x" {
					err = errors.Join(errors.New("keys of another record"), e)
					break
				}
				if m, e := f.Map(d, k, env); e != nil || !strings.Contains(string(m.OCSF), `"message":"`+want+`"`) {
					err = errors.Join(errors.New("event of another record"), e)
					break
				}
			}
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func FuzzCompile(f *testing.F) {
	f.Add([]byte(head + "keys: {id: a, time: {from: t, unit: ms}}\n"))
	f.Add([]byte(head + "ocsf: {classes: [{class: 6003, activity: 1, set: {api.operation: a, actor.user.name: b, src_endpoint.ip: c}}]}\n"))
	f.Add([]byte(head + "refs: {r: [{kind: account, scheme: x, from: a}]}\nfacts: [{type: session_ended, subject: r}]\n"))
	f.Add([]byte("a: &a {b: *a}\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		c, err := Compile(src, "fuzz.yaml", Options{})
		if err != nil {
			if !errors.Is(err, staunch.ErrInvalid) {
				t.Errorf("%v is not a Problem", err)
			}
			return
		}
		d := jsondoc.New(jsondoc.Limits{})
		if err := d.Parse([]byte(`{"a":{"b":["x",1,null]},"t":5}`)); err != nil {
			t.Fatal(err)
		}
		if k, err := c.Keys(d, env); err == nil {
			if m, err := c.Map(d, k, env); err == nil && !json.Valid(m.OCSF) {
				t.Errorf("not JSON: %s", m.OCSF)
			}
		}
	})
}

func FuzzRecord(f *testing.F) {
	src := head + `
ignore_case: true
secrets: {at: [{path: token, kind: credential, keep: true}]}
keys: {id: "{id}/{n}", time: {from: time, lenient: true}, source_ip: ip, actor: [{kind: credential, scheme: sha256, from: token}], targets: [{kind: resource, scheme: x, each: "list[]", from: .}]}
ocsf: {common: {message: msg, actor.user.name: user, enrichments: {each: list, item: {name: =n, value: ., data: .}}}}
`
	c, err := Compile([]byte(src), "fuzz.yaml", Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"id":"a","n":1,"time":"2026-11-22T10:00:00Z","ip":"::1","token":"secret-token","list":["a",1,{}],"user":"u","password":"pw"}`))
	f.Add([]byte(`{"ID":"\u0000","token":["x","yyyyyyyyyy"],"msg":{"token":"zzzzzzzzzzz"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d := jsondoc.New(jsondoc.Limits{Bytes: 1 << 16, Nodes: 1 << 12})
		if d.Parse(raw) != nil {
			return
		}
		k, err := c.Keys(d, env)
		if err != nil {
			return
		}
		for _, r := range append(k.Actor, k.Targets...) {
			if err := r.Validate(); err != nil {
				t.Errorf("ref %v: %v", r, err)
			}
		}
		m, err := c.Map(d, k, env)
		if err != nil {
			t.Fatalf("keys but no event: %v", err)
		}
		if !json.Valid(m.OCSF) {
			t.Errorf("not JSON: %s", m.OCSF)
		}
		if red := Redact(raw, c.Secrets(d, env)); !json.Valid(red) {
			t.Errorf("redacted to no JSON: %s", red)
		}
	})
}
