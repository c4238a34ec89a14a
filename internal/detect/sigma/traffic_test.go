package sigma

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What stands in records and rules of the generated kind.
var (
	genServices = []string{"sts", "s3", "ec2", "iam", "signin", "kms", "logs", "lambda", "dynamodb", "ssm", "rds", "ecs", "eks", "route53", "guardduty", "config", "cloudtrail", "secretsmanager", "organizations", "glue"}
	genVerbs    = []string{"Get", "List", "Describe", "Create", "Delete", "Update", "Put", "Attach", "Detach", "Start", "Stop", "Modify"}
	genNouns    = []string{"Role", "User", "Bucket", "Key", "Instance", "Policy", "Function", "Parameter", "Secret", "Trail", "Cluster", "Snapshot", "Image", "Domain", "Session", "Detector", "Stack", "Queue", "Topic", "Table"}
	genTools    = []string{"kali", "parrot", "pacu", "scoutsuite", "cloudsplaining", "prowler", "boto3/", "terraform", "aws-cli", "curl/", "go-http", "python-requests", "s3browser", "cyberduck"}
)

func pick[T any](rng *rand.Rand, list []T) T { return list[rng.IntN(len(list))] }

// generatedRules makes rules of many shapes. More than a fifth of them name no
// exact value: they look for texts, patterns, networks or keywords.
func generatedRules(t testing.TB, n int) []*Rule {
	t.Helper()
	rng := rand.New(rand.NewPCG(11, uint64(n)))
	word := func() string { return fmt.Sprintf("%s%s%d", pick(rng, genVerbs), pick(rng, genNouns), rng.IntN(40)) }
	tool := func() string { return pick(rng, genTools) + fmt.Sprint(rng.IntN(1000)) }
	var text strings.Builder
	var rules []*Rule
	for i := range n {
		text.Reset()
		fmt.Fprintf(&text, "title: Generated %d\nid: generated-%d\nlogsource: {product: aws, service: cloudtrail}\ndetection:\n", i, i)
		cond := "s"
		if i%9 < 7 {
			fmt.Fprintf(&text, "    s:\n        eventSource: %s.amazonaws.com\n        eventName: [%s, %s]\n", pick(rng, genServices), word(), word())
			switch rng.IntN(8) {
			case 0:
				fmt.Fprintf(&text, "        requestParameters|contains: '%s'\n", word())
			case 1:
				text.WriteString("        userIdentity.arn|endswith: ':root'\n")
			case 2:
				text.WriteString("        errorCode: null\n")
			case 3:
				fmt.Fprintf(&text, "        userAgent|contains: [%s, '%s']\n", tool(), tool())
			case 4:
				fmt.Fprintf(&text, "    f: {sourceIPAddress|cidr: 10.%d.0.0/16}\n", rng.IntN(256))
				cond = "s and not f"
			case 5:
				fmt.Fprintf(&text, "    f: {userIdentity.type: AWSService}\n    g: {userIdentity.sessionContext.sessionIssuer.userName|startswith: 'AWSReserved%d'}\n", i)
				cond = "s and not (f or g)"
			}
		} else {
			switch rng.IntN(10) {
			case 0:
				fmt.Fprintf(&text, "    s: {userAgent|contains: ['%s', '%s']}\n", tool(), tool())
			case 1:
				fmt.Fprintf(&text, "    s: {userIdentity.arn|re: '(?i)assumed-role/%s%d-[a-z]+/'}\n", pick(rng, genNouns), rng.IntN(500))
			case 2:
				fmt.Fprintf(&text, "    s: {requestParameters|contains|all: ['%s', '\"%s\"']}\n", pick(rng, genNouns), word())
			case 3:
				fmt.Fprintf(&text, "    s: {sourceIPAddress|cidr: ['%d.%d.%d.0/24', '2001:db8:%x::/48']}\n", 1+rng.IntN(220), rng.IntN(256), rng.IntN(256), rng.IntN(1<<16))
			case 4:
				fmt.Fprintf(&text, "    s: ['%s', 'x-%s']\n", tool(), word())
			case 5:
				fmt.Fprintf(&text, "    s: {eventName|startswith: '%s'}\n", word())
			case 6:
				fmt.Fprintf(&text, "    s: {requestParameters.roleName: '*-%s*admin?%d'}\n", pick(rng, genNouns), rng.IntN(100))
			case 7:
				fmt.Fprintf(&text, "    s: {errorMessage|contains: '%s', eventName|endswith: '%s'}\n", word(), pick(rng, genNouns))
			case 8:
				fmt.Fprintf(&text, "    s: {requestParameters.policyDocument|re: '\"(Action|Resource)\"\\s*:\\s*\"%s:\\*\"'}\n", tool())
			default:
				fmt.Fprintf(&text, "    s: {userIdentity.userName|endswith: '-%d', userAgent|contains: '%s'}\n", rng.IntN(1000), pick(rng, genTools))
			}
		}
		fmt.Fprintf(&text, "    condition: %s\n", cond)
		r, errs := Parse("generated.yml", []byte(text.String()), Options{})
		if len(errs) > 0 {
			t.Fatalf("%v\n%s", errs[0], text.String())
		}
		rules = append(rules, r...)
	}
	return rules
}

// generatedTraffic makes records of several services.
func generatedTraffic(n int, seed uint64) [][]byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	var recs [][]byte
	for i := range n {
		rec := cloudTrail(int(seed)*100_000 + i)
		rec = bytes.Replace(rec, []byte(`"eventName":"`), fmt.Appendf(nil, `"eventName":"%s%s%d`, pick(rng, genVerbs), pick(rng, genNouns), rng.IntN(60)), 1)
		rec = bytes.Replace(rec, []byte("aws-cli/2.15.0"), fmt.Appendf(nil, "%s%d", pick(rng, genTools), rng.IntN(3000)), 1)
		if i%7 == 0 {
			rec = bytes.Replace(rec, []byte(`"responseElements":null`), []byte(`"errorCode":"AccessDenied","errorMessage":"User is not authorised: \"sts:AssumeRole\" für diese Rolle"`), 1)
		}
		recs = append(recs, rec)
	}
	return recs
}

// corpusEvents reads the events of a file of the corpus: those of each line's
// "event" or "events".
func corpusEvents(t testing.TB, path ...string) [][]byte {
	t.Helper()
	f, err := os.Open(filepath.Join(append([]string{corpus(t)}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var recs [][]byte
	in := bufio.NewScanner(f)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var row struct {
			Event  json.RawMessage   `json:"event"`
			Events []json.RawMessage `json:"events"`
		}
		if err := json.Unmarshal(in.Bytes(), &row); err != nil {
			t.Fatal(err)
		}
		if row.Event != nil {
			row.Events = append(row.Events, row.Event)
		}
		for _, e := range row.Events {
			var b bytes.Buffer
			if err := json.Compact(&b, e); err != nil {
				t.Fatal(err)
			}
			recs = append(recs, b.Bytes())
		}
	}
	if err := in.Err(); err != nil {
		t.Fatal(err)
	}
	return recs
}

// corpusRules loads SigmaHQ's rules, those for one product where it is given.
func corpusRules(t testing.TB, product string) []*Rule {
	t.Helper()
	rules, _ := LoadPath(filepath.Join(corpus(t), "sigma"), Options{})
	var out []*Rule
	for _, r := range rules {
		if product == "" || r.Logsource.Product == product {
			out = append(out, r)
		}
	}
	return out
}
