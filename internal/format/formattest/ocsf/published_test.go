package ocsf

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

var published = sync.OnceValues(func() (*Schema, error) {
	return Load(filepath.Join(os.Getenv("STAUNCH_CORPUS"), "ocsf-schema"))
})

// loadPublished loads the published schema of the test corpus, or skips.
func loadPublished(tb testing.TB) *Schema {
	tb.Helper()
	if os.Getenv("STAUNCH_CORPUS") == "" {
		tb.Skip("STAUNCH_CORPUS is not set: no published OCSF schema to test against")
	}
	s, err := published()
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// Events of the classes staunch maps to, each as full as is plausible.
const (
	apiActivity = `{
		"class_uid": 6003, "class_name": "API Activity", "category_uid": 6, "category_name": "Application Activity",
		"activity_id": 1, "activity_name": "Create", "type_uid": 600301, "type_name": "API Activity: Create",
		"severity_id": 1, "severity": "Informational", "status_id": 1, "status": "Success", "time": 1760000000000, "timezone_offset": 0,
		"metadata": {"version": "1.9.0-dev", "profiles": ["cloud", "datetime"], "uid": "e1", "event_code": "CreateAccessKey",
			"original_time": "2025-10-09T08:53:20Z", "logged_time": 1760000000500, "logged_time_dt": "2025-10-09T08:53:20.5Z",
			"product": {"name": "CloudTrail", "vendor_name": "AWS", "feature": {"name": "Management"}}},
		"actor": {"app_name": "aws-cli", "user": {"type_id": 1, "type": "User", "name": "alice", "uid": "AIDA1", "account": {"uid": "111122223333", "type_id": 10}},
			"session": {"uid": "ASIA1", "created_time": 1759999000000, "is_mfa": true}},
		"api": {"operation": "CreateAccessKey", "service": {"name": "iam.amazonaws.com"}, "request": {"uid": "r1", "data": {"userName": "bob"}}, "response": {"code": 200}},
		"src_endpoint": {"ip": "198.51.100.7", "port": 443, "mac": "18:36:F3:98:4F:9A", "location": {"country": "NO", "lat": 59.9, "long": 10}},
		"http_request": {"user_agent": "aws-cli/2.0", "http_method": "POST", "url": {"url_string": "https://iam.amazonaws.com/"}, "x_forwarded_for": ["2001:db8::1"]},
		"cloud": {"provider": "AWS", "region": "us-east-1", "account": {"uid": "111122223333"}},
		"resources": [{"uid": "arn:aws:iam::111122223333:user/bob", "name": "bob", "type": "AWS::IAM::User", "role_id": 1, "region": "us-east-1"}],
		"observables": [{"name": "src_endpoint.ip", "type_id": 2, "type": "IP Address", "value": "198.51.100.7"}, {"name": "actor.user.uid", "type_id": 31, "type": "User Object: uid", "value": "AIDA1"}],
		"unmapped": {"readOnly": false, "deep": {"er": [null, 1]}}}`
	authentication = `{
		"class_uid": 3002, "category_uid": 3, "category_name": "Identity & Access Management", "activity_id": 1, "type_uid": 300201,
		"severity_id": 1, "status_id": 2, "status": "Failure", "status_code": "50126", "status_detail": "INVALID_CREDENTIALS", "time": 1760000000000,
		"metadata": {"version": "1.5.0", "product": {"name": "Entra ID", "vendor_name": "Microsoft"}},
		"user": {"name": "alice@corp.example", "uid": "9f1c", "email_addr": "alice@corp.example", "has_mfa": true},
		"actor": {"user": {"uid": "9f1c"}, "idp": {"name": "Entra", "tenant_uid": "t-1"}},
		"session": {"uid": "s1", "uuid": "123e4567-e89b-12d3-a456-426614174000"}, "service": {"name": "Office 365"},
		"src_endpoint": {"ip": "203.0.113.9"}, "auth_protocol_id": 6, "auth_protocol": "OAUTH 2.0",
		"logon_type_id": 99, "logon_type": "interactiveUser", "auth_factors": [{"factor_type_id": 10, "factor_type": "WebAuthn"}]}`
	datastoreActivity = `{
		"class_uid": 6005, "category_uid": 6, "activity_id": 1, "type_uid": 600501, "severity_id": 1, "time": 1760000000000,
		"metadata": {"version": "1.9.0-dev", "profiles": ["cloud"], "product": {"uid": "ct"}},
		"actor": {"user": {"uid": "AIDA1"}}, "src_endpoint": {"svc_name": "athena.amazonaws.com"}, "type_id": 2, "type": "Databucket",
		"cloud": {"provider": "AWS"}, "api": {"operation": "GetObject"},
		"databucket": {"name": "secrets", "type_id": 1, "region": "eu-west-1", "file": {"name": "k.pem", "type_id": 1}}}`
	detectionFinding = `{
		"class_uid": 2004, "category_uid": 2, "activity_id": 1, "type_uid": 200401, "severity_id": 4, "status_id": 1, "status": "New", "time": 1760000000000,
		"is_alert": true, "confidence_id": 3, "risk_level_id": 3, "metadata": {"version": "1.9.0-dev", "product": {"name": "staunch"}},
		"finding_info": {"uid": "f1", "title": "Key used after revocation", "analytic": {"uid": "r1", "type_id": 1, "type": "Rule"},
			"attacks": [{"technique": {"uid": "T1078", "name": "Valid Accounts"}}], "related_events": [{"uid": "e1"}]},
		"evidences": [{"actor": {"user": {"uid": "AIDA1"}}, "api": {"operation": "GetObject"}, "src_endpoint": {"ip": "198.51.100.7"}}],
		"resources": [{"uid": "arn:aws:s3:::secrets"}]}`
	baseEvent = `{
		"class_uid": 0, "class_name": "Base Event", "category_uid": 0, "category_name": "Uncategorized", "activity_id": 99, "activity_name": "heartbeat",
		"type_uid": 99, "type_name": "Base Event: Other", "severity_id": 0, "time": 1760000000000, "message": "m", "raw_data": "{}",
		"metadata": {"version": "1.9.0-dev", "profiles": ["host"], "product": {"name": "GitHub"}}, "actor": {"user": {"name": "alice"}}}`
)

// minimal is an event of a class with what every event needs and more.
func minimal(class, activity int, more string) string {
	return fmt.Sprintf(`{"class_uid": %d, "category_uid": %d, "activity_id": %d, "type_uid": %d, "severity_id": 1, "time": 1760000000000,
		"metadata": {"version": "1.9.0-dev", "product": {"name": "p"}}, %s}`, class, class%100000/1000, activity, class*100+activity, more)
}

func TestPublishedValid(t *testing.T) {
	s := loadPublished(t)
	for name, event := range map[string]string{
		"API Activity":           apiActivity,
		"Authentication":         authentication,
		"Datastore Activity":     datastoreActivity,
		"Detection Finding":      detectionFinding,
		"Base Event":             baseEvent,
		"Account Change":         minimal(3001, 5, `"user": {"uid": "u", "type_id": 1}, "actor": {"user": {"name": "admin"}}, "policies": [{"name": "p"}]`),
		"Authorize Session":      minimal(3003, 1, `"user": {"uid": "u"}, "privileges": ["SeDebugPrivilege"]`),
		"Entity Management":      minimal(3004, 1, `"entity": {"name": "e", "type_id": 99, "type": "app registration"}`),
		"User Access Management": minimal(3005, 3, `"user": {"uid": "u"}, "iam_role": {"name": "admin"}`),
		"Group Management":       minimal(3006, 3, `"group": {"uid": "g"}, "users": [{"uid": "u"}]`),
		"User Management":        minimal(3007, 18, `"user": {"uid": "u", "programmatic_credentials": [{"uid": "AKIA1", "type": "access key"}]}`),
		"Role Management":        minimal(3008, 8, `"iam_role": {"uid": "r"}, "policies": [{"type": "inline"}]`),
		"Application Lifecycle":  minimal(6002, 6, `"app": {"name": "oauth app"}`),
		"Windows service, listed extension": strings.Replace(minimal(201004, 1, `"actor": {"process": {"pid": 4}}, "device": {"type_id": 1, "hostname": "h"}, "win_service": {"name": "s", "cmd_line": "s.exe"}`),
			`"product"`, `"extensions": [{"name": "win", "version": "1.9.0-dev"}], "product"`, 1),
		"constraint of paths": minimal(5004, 1, `"device": {"type_id": 1, "ip": "192.0.2.1", "os": {"name": "n", "type_id": 200, "version": "9"}}`),
	} {
		t.Run(name, func(t *testing.T) {
			for _, v := range s.Validate([]byte(event)) {
				t.Error(v)
			}
		})
	}
}

// edit sets a value deep in an event, or deletes it where value is nil.
func edit(tb testing.TB, event string, path string, value any) []byte {
	tb.Helper()
	var root map[string]any
	if err := json.Unmarshal([]byte(event), &root); err != nil {
		tb.Fatal(err)
	}
	segments := strings.Split(path, ".")
	at := any(root)
	for _, s := range segments[:len(segments)-1] {
		if list, ok := at.([]any); ok {
			i, err := strconv.Atoi(s)
			if err != nil {
				tb.Fatal(err)
			}
			at = list[i]
			continue
		}
		at = at.(map[string]any)[s]
	}
	last := segments[len(segments)-1]
	if value == nil {
		delete(at.(map[string]any), last)
	} else {
		at.(map[string]any)[last] = value
	}
	out, err := json.Marshal(root)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func TestPublishedViolations(t *testing.T) {
	s := loadPublished(t)
	type m = map[string]any
	tests := []struct {
		event, path string
		value       any
		want        string
	}{
		{apiActivity, "actor", nil, "actor required; observables[1].name observable"},
		{apiActivity, "src_endpoint.ip", "AWS Internal", "src_endpoint.ip format; observables[0].value observable"},
		{apiActivity, "src_endpoint.ip", strings.Repeat("1", 41), "src_endpoint.ip length; src_endpoint.ip format; observables[0].value observable"},
		{apiActivity, "src_endpoint.port", 65536, "src_endpoint.port range"},
		{apiActivity, "src_endpoint.mac", "1836F3984F9A", "src_endpoint.mac format"},
		{apiActivity, "src_endpoint.location", m{"continent": "EU"}, "src_endpoint.location constraint"},
		{apiActivity, "src_endpoint.user_agent", "x", "src_endpoint.user_agent unknown"},
		{apiActivity, "actor", m{}, "actor constraint; observables[1].name observable"},
		{apiActivity, "actor.user.email_addr", "alice", "actor.user.email_addr format"},
		{apiActivity, "actor.user.type_id", 9, "actor.user.type_id enum"},
		{apiActivity, "actor.user.type_id", 99, ""},
		{apiActivity, "actor.user.type", "Admin", "actor.user.type sibling"},
		{apiActivity, "actor.session.uuid", "s1", "actor.session.uuid format"},
		{apiActivity, "actor.session.created_time", "2025-10-09T08:53:20Z", "actor.session.created_time type"},
		{apiActivity, "actor.session.created_time", 1760000000, "actor.session.created_time timestamp"},
		{apiActivity, "api.request.uid", nil, "api.request.uid required"},
		{apiActivity, "api.response.code", "200", "api.response.code type"},
		{apiActivity, "http_request.http_method", "FETCH", "http_request.http_method enum"},
		{apiActivity, "http_request.url", m{"scheme": "https"}, "http_request.url constraint"},
		{apiActivity, "http_request.x_forwarded_for", "192.0.2.1", "http_request.x_forwarded_for type"},
		{apiActivity, "cloud.provider", nil, "cloud.provider required"},
		{apiActivity, "cloud", nil, "cloud required"},
		{apiActivity, "metadata.profiles", []string{"datetime"}, "resources[0].region profile; cloud profile"},
		{apiActivity, "metadata.profiles", []string{"cloud"}, "metadata.logged_time_dt profile"},
		{apiActivity, "metadata.profiles", []string{"cloud", "datetime", "incident"}, "metadata.profiles[2] profile"},
		{apiActivity, "metadata.profiles", []string{"cloud", "datetime", "osint"}, "osint required"},
		{apiActivity, "metadata.profiles", []string{"cloud", "datetime", "linux/linux_users"}, "metadata.profiles[2] extension"},
		{apiActivity, "metadata.logged_time_dt", "yesterday", "metadata.logged_time_dt format"},
		{apiActivity, "metadata.version", "1.9.0", "metadata.version version"},
		{apiActivity, "metadata.product", m{"vendor_name": "AWS"}, "metadata.product constraint"},
		{apiActivity, "resources.0.role_id", 7, "resources[0].role_id enum"},
		{apiActivity, "resources.0.unmapped", m{}, "resources[0].unmapped unknown"},
		{apiActivity, "user", m{"uid": "u"}, "user unknown"},
		{apiActivity, "disposition_id", 2, "disposition_id profile"},
		{apiActivity, "type_uid", 600302, "type_name sibling; type_uid type_uid"},
		{apiActivity, "category_uid", 3, "category_uid category"},
		{apiActivity, "status", "success", "status sibling"},
		{apiActivity, "severity_id", 9, "severity_id enum"},
		{apiActivity, "severity_id", "1", "severity_id type"},
		{apiActivity, "status_code", 403, "status_code type"},
		{apiActivity, "class_uid", 6099, "class_uid class"},
		{authentication, "service", nil, " constraint"},
		{authentication, "logon_type_id", 6, "logon_type_id enum"},
		{authentication, "logon_type", nil, "logon_type sibling"},
		{authentication, "auth_factors.0.factor_type_id", nil, "auth_factors[0].factor_type_id required"},
		{authentication, "resources", []any{}, "resources unknown"},
		{datastoreActivity, "databucket", nil, " constraint"},
		{datastoreActivity, "databucket.type_id", nil, "databucket.type_id required"},
		{datastoreActivity, "metadata.profiles", nil, "databucket.region profile; api profile; cloud profile"},
		{datastoreActivity, "query_info", m{"query_string": "select 1"}, "query_info constraint"},
		{detectionFinding, "finding_info.uid", nil, "finding_info.uid required"},
		{detectionFinding, "finding_info.attacks", []any{m{"version": "12"}}, "finding_info.attacks[0] constraint"},
		{detectionFinding, "evidences", []any{m{"http_request": m{}}}, "evidences[0] constraint"},
		{detectionFinding, "evidences", []any{m{"resources": []any{m{"uid": "r"}}}}, ""},
		{detectionFinding, "metadata.extensions", []any{m{"name": "win", "version": "1.9.0-dev"}}, ""},
		{detectionFinding, "evidences.0.reg_key", m{"path": "HKLM"}, "evidences[0].reg_key extension"},
		{detectionFinding, "status", "Success", "status sibling"},
		{detectionFinding, "is_alert", "true", "is_alert type"},
		{detectionFinding, "actor", m{"user": m{"uid": "u"}}, "actor profile"},
		{baseEvent, "activity_id", 1, "activity_id enum; type_uid type_uid"},
		{baseEvent, "activity_name", nil, "activity_name sibling"},
		{baseEvent, "src_endpoint", m{"ip": "192.0.2.1"}, "src_endpoint unknown"},
		{baseEvent, "metadata.profiles", nil, "actor profile"},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s=%v", tt.path, tt.value), func(t *testing.T) {
			event := edit(t, tt.event, tt.path, tt.value)
			vs := s.Validate(event)
			if got := violated(vs); got != tt.want {
				t.Errorf("violations\n got %s\nwant %s\n%v", got, tt.want, vs)
			}
		})
	}
}

// TestPublishedExtensionConstraint pins that an extension's patch of a core
// object's constraint counts only where the extension is listed: that of win
// leaves out resources.
func TestPublishedExtensionConstraint(t *testing.T) {
	s := loadPublished(t)
	event := string(edit(t, detectionFinding, "evidences", []any{map[string]any{"resources": []any{map[string]any{"uid": "r"}}}}))
	if vs := s.Validate([]byte(event)); len(vs) > 0 {
		t.Errorf("core: %v", vs)
	}
	listed := edit(t, event, "metadata.extensions", []any{map[string]any{"name": "win", "version": "1.9.0-dev"}})
	if got := violated(s.Validate(listed)); got != "evidences[0] constraint" {
		t.Errorf("win: %q", got)
	}
}

// TestPublishedFacts holds the compiled schema to facts read from its sources.
func TestPublishedFacts(t *testing.T) {
	s := loadPublished(t)
	core, err := s.with(nil)
	if err != nil {
		t.Fatal(err)
	}
	all, err := s.with(s.exts)
	if err != nil {
		t.Fatal(err)
	}
	// Count the sources without the loader: every concrete class has to be there.
	concrete := 0
	err = filepath.WalkDir(filepath.Join(os.Getenv("STAUNCH_CORPUS"), "ocsf-schema"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(path, "/events/") {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var it struct {
			Name string
			UID  *int
		}
		if err := json.Unmarshal(data, &it); err != nil {
			return err
		}
		if it.UID != nil || it.Name == baseClass {
			concrete++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all.classes) != concrete {
		t.Errorf("%d classes, sources have %d", len(all.classes), concrete)
	}
	if all.classes[201001] == nil || all.classes[201001].caption != "Registry Key Activity" || core.classes[201001] != nil {
		t.Error("class 201001 belongs to the win extension")
	}
	status := func(uid int64) map[string]string { return core.classes[uid].attributes["status_id"].enum }
	if want := map[string]string{"0": "Unknown", "1": "Success", "2": "Failure", "99": "Other"}; !maps.Equal(status(6003), want) {
		t.Errorf("status_id of API Activity %v", status(6003))
	}
	if status(2004)["1"] != "New" || status(2004)["6"] != "Deleted" {
		t.Errorf("status_id of Detection Finding %v", status(2004))
	}
	for name, profiles := range map[string]string{"actor": "", "api": "", "cloud": "cloud", "device": "host", "malware": "security_control", "time_dt": "datetime", "trace": "trace"} {
		if got := strings.Join(core.classes[6003].attributes[name].profiles, ","); got != profiles {
			t.Errorf("API Activity %s is of profiles %q, want %q", name, got, profiles)
		}
	}
	if got := core.objects["user"].attributes["name"].typ.name; got != "username_t" {
		t.Errorf("user.name is a %s", got)
	}
	if n := len(core.objects["file"].constraints); n != 0 {
		t.Errorf("file has %d constraints, it takes back those of its parent", n)
	}
}

// build makes a minimal value for an attribute: what is required, and the first
// usable name of each constraint.
func build(tb testing.TB, a *attribute, depth int) any {
	tb.Helper()
	if a.array {
		one := *a
		one.array = false
		return []any{build(tb, &one, depth)}
	}
	if a.object != nil {
		return buildItem(tb, a.object, depth+1)
	}
	if a.enum != nil {
		keys := slices.Sorted(maps.Keys(a.enum))
		if a.typ.primitive == typeString {
			return keys[0]
		}
		return json.Number(keys[0])
	}
	switch a.typ.primitive {
	case typeBoolean:
		return true
	case typeFloat:
		return 1.5
	case typeInteger:
		return 1
	case typeLong:
		return 1760000000000
	case typeJSON:
		return map[string]any{}
	}
	samples := []string{"text", "192.0.2.1", "18:36:F3:98:4F:9A", "a@b.example", "123e4567-e89b-12d3-a456-426614174000", "2025-10-09T08:53:20Z", "YWJj"}
	for _, s := range samples {
		v := &validation{}
		v.text("", a.typ, s)
		if len(v.violations) == 0 {
			return s
		}
	}
	tb.Fatalf("no sample of %s", a.typ.name)
	return nil
}

func buildItem(tb testing.TB, it *item, depth int) map[string]any {
	tb.Helper()
	if depth > 10 {
		tb.Fatalf("required attributes nest without end at %s", it.name)
	}
	obj := map[string]any{}
	for _, a := range it.attributes {
		if a.required && len(a.profiles) == 0 {
			obj[a.name] = build(tb, a, depth)
		}
	}
	for _, names := range it.constraints {
		met := slices.ContainsFunc(names, func(n string) bool { return len(lookup(obj, strings.Split(n, "."))) > 0 })
		for _, n := range names {
			if met {
				break
			}
			head, tail, nested := strings.Cut(n, ".")
			a := it.attributes[head]
			if a == nil || len(a.profiles) > 0 {
				continue
			}
			if obj[head] == nil {
				obj[head] = build(tb, a, depth)
			}
			for at, o := obj[head], a.object; nested; {
				head, tail, nested = strings.Cut(tail, ".")
				inner := at.(map[string]any)
				if inner[head] == nil {
					inner[head] = build(tb, o.attributes[head], depth)
				}
				at, o = inner[head], o.attributes[head].object
			}
			met = true
		}
	}
	return obj
}

// TestPublishedEveryClass builds a minimal event of each class, which has to be
// valid, and takes away each required attribute, which has to be noticed.
func TestPublishedEveryClass(t *testing.T) {
	s := loadPublished(t)
	all, err := s.with(s.exts)
	if err != nil {
		t.Fatal(err)
	}
	for uid, class := range all.classes {
		t.Run(strconv.FormatInt(uid, 10), func(t *testing.T) {
			event := buildItem(t, class, 0)
			event["metadata"].(map[string]any)["version"] = s.Version()
			event["metadata"].(map[string]any)["extensions"] = []any{
				map[string]any{"name": "linux", "version": "1"}, map[string]any{"name": "macos", "version": "1"}, map[string]any{"name": "win", "version": "1"},
			}
			event["activity_id"], event["type_uid"] = 0, uid*100
			validate := func() string {
				data, err := json.Marshal(event)
				if err != nil {
					t.Fatal(err)
				}
				return violated(s.Validate(data))
			}
			if got := validate(); got != "" {
				t.Fatalf("minimal event: %s\n%v", got, event)
			}
			for name, a := range class.attributes {
				if !a.required || len(a.profiles) > 0 || name == "class_uid" {
					continue
				}
				whole := event[name]
				delete(event, name)
				if got := validate(); !slices.Contains(strings.Split(got, "; "), name+" required") && name != "metadata" {
					t.Errorf("without %s: %q", name, got)
				}
				event[name] = whole
			}
		})
	}
}

func TestConcurrentValidate(t *testing.T) {
	s, err := loadFS(mini())
	if err != nil {
		t.Fatal(err)
	}
	event := []byte(`{"class_uid": 903001, "category_uid": 3, "activity_id": 1, "type_uid": 90300101, "metadata": {"version": "2.1.0", "extensions": [{"name": "farm"}]}, "soil": "clay", "item": {"uid": "i", "type_id": 1}}`)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if vs := s.Validate(event); len(vs) > 0 {
				t.Error(vs)
			}
		})
	}
	wg.Wait()
}

func BenchmarkLoad(b *testing.B) {
	loadPublished(b)
	for b.Loop() {
		if _, err := Load(filepath.Join(os.Getenv("STAUNCH_CORPUS"), "ocsf-schema")); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkValidate(b *testing.B) {
	s := loadPublished(b)
	event := []byte(apiActivity)
	for b.Loop() {
		if vs := s.Validate(event); len(vs) > 0 {
			b.Fatal(vs)
		}
	}
}
