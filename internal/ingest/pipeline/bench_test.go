package pipeline_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/staunch-project/staunch"
	"github.com/staunch-project/staunch/internal/format"
	"github.com/staunch-project/staunch/internal/format/cloudtrail"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
	"github.com/staunch-project/staunch/internal/ingest"
	"github.com/staunch-project/staunch/internal/ingest/pipeline"
)

// trail makes a record shaped like CloudTrail's, of about 1.3 kB, that states no
// fact.
func trail(i int) string {
	rng := rand.New(rand.NewPCG(uint64(i), 7))
	calls := [...][2]string{{"s3", "GetObject"}, {"ec2", "DescribeInstances"}, {"iam", "ListUsers"}, {"s3", "ListBuckets"}, {"kms", "Decrypt"}, {"dynamodb", "Query"}}
	c := calls[rng.IntN(len(calls))]
	acct := fmt.Sprintf("%012d", rng.Int64N(1e12))
	return fmt.Sprintf(`{"eventVersion":"1.08","userIdentity":{"type":"AssumedRole","principalId":"AROA%012X:session-%d","arn":"arn:aws:sts::%s:assumed-role/Deploy/session-%d","accountId":"%s","accessKeyId":"ASIA%016X","sessionContext":{"sessionIssuer":{"type":"Role","principalId":"AROA%012X","arn":"arn:aws:iam::%s:role/Deploy","accountId":"%s","userName":"Deploy"},"webIdFederationData":{},"attributes":{"creationDate":"2026-03-01T11:04:05Z","mfaAuthenticated":"false"}}},"eventTime":"2026-03-01T11:%02d:%02dZ","eventSource":"%s.amazonaws.com","eventName":"%s","awsRegion":"eu-central-1","sourceIPAddress":"203.0.113.%d","userAgent":"aws-cli/2.15.0 Python/3.11.6 Linux/6.1.0 exe/x86_64.debian.12 prompt/off command/s3.cp","requestParameters":{"bucketName":"logs-%d","key":"2026/01/part.gz","Host":"s3.amazonaws.com"},"responseElements":null,"additionalEventData":{"SignatureVersion":"SigV4","CipherSuite":"ECDHE-RSA-AES128-GCM-SHA256","bytesTransferredIn":0,"AuthenticationMethod":"AuthHeader","bytesTransferredOut":%d},"requestID":"%016X","eventID":"%08x-0000-4000-8000-%012x","readOnly":true,"resources":[{"type":"AWS::S3::Object","ARN":"arn:aws:s3:::logs/2026"},{"accountId":"%s","type":"AWS::S3::Bucket","ARN":"arn:aws:s3:::logs"}],"eventType":"AwsApiCall","managementEvent":false,"recipientAccountId":"%s","eventCategory":"Data","tlsDetails":{"tlsVersion":"TLSv1.3","cipherSuite":"TLS_AES_128_GCM_SHA256"}}`,
		rng.Uint64()>>16, i, acct, i, acct, rng.Uint64(), rng.Uint64()>>16, acct, acct, rng.IntN(60), rng.IntN(60), c[0], c[1], rng.IntN(256), rng.IntN(1000), rng.IntN(1e6), rng.Uint64(), rng.Uint32(), rng.Uint64()>>16, acct, acct)
}

// trailRules makes n rules shaped like those for CloudTrail, one a file, none of
// which matches a trail.
func trailRules(n int) []string {
	rng := rand.New(rand.NewPCG(3, 5))
	extra := []string{"", "requestParameters|contains: 'Suspended'", "userIdentity.arn|endswith: ':root'", "errorCode: null", "userAgent|contains: [s3browser, kali]"}
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("title: R%d\nid: r%d\nlogsource: {product: aws, service: cloudtrail}\ndetection:\n    s:\n        eventSource: s%d.amazonaws.com\n        eventName: [Call%dA, Call%dB]\n        %s\n    f: {sourceIPAddress|cidr: 10.0.0.0/8}\n    condition: s and not f\n",
			i, i, rng.IntN(100), i, i, extra[i%len(extra)]))
	}
	return out
}

func trailRig(t testing.TB, rules int) (*rig, *pipeline.Source, string, int) {
	t.Helper()
	r := newRig(t)
	f, err := cloudtrail.New()
	if err != nil {
		t.Fatal(err)
	}
	r.pipe.SetBundle(&pipeline.Bundle{Hash: "sha256:trail", Rules: compileRules(t, trailRules(rules)...), Policy: r.bundle.Policy})
	src := &pipeline.Source{
		Name: "trail", Realm: "aws/test", Format: f, Ceiling: staunch.TierRevoke,
		Skew: staunch.Duration(5 * time.Minute), Lateness: staunch.Duration(time.Hour),
	}
	const n = 1000
	var b strings.Builder
	for i := range n {
		b.WriteString(trail(i))
		b.WriteByte('\n')
	}
	return r, src, b.String(), n
}

// keysAllocs is what Keys needs for one record.
func keysAllocs(t testing.TB, f format.Format) float64 {
	doc := jsondoc.New(jsondoc.Limits{})
	raw := []byte(trail(1))
	run := func() {
		if err := doc.Parse(raw); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Keys(doc, format.Env{Source: "trail", Realm: "aws/test"}); err != nil {
			t.Fatal(err)
		}
	}
	run()
	return testing.AllocsPerRun(200, run)
}

// TestNoMatchAllocatesNothing: beside the keys, a record that causes nothing
// costs no allocation.
func TestNoMatchAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates, and empties pools at random")
	}
	r, src, body, n := trailRig(t, 57)
	run := func() {
		rep, err := r.pipe.Ingest(t.Context(), src, strings.NewReader(body), "")
		if err != nil || rep.Accepted != n || rep.Kept != 0 || len(rep.Rejected) != 0 {
			t.Fatalf("%+v %v", rep, err)
		}
	}
	run()
	each := testing.AllocsPerRun(5, run) / float64(n)
	if keys := keysAllocs(t, src.Format); each > keys+0.1 {
		t.Errorf("%.2f allocations a record, of which keys %.2f", each, keys)
	}
}

// BenchmarkNoMatch has a body of records that cause nothing, beside what
// parsing alone and the keys cost. Figures are for a record.
func BenchmarkNoMatch(b *testing.B) {
	per := func(b *testing.B, body string, n int, fn func()) {
		b.SetBytes(int64(len(body)))
		b.ReportAllocs()
		for b.Loop() {
			fn()
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/record")
		b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
	}
	r, src, body, n := trailRig(b, 57)
	read := func(keys bool) {
		rd, err := ingest.NewReader(strings.NewReader(body), src.Format, jsondoc.Limits{})
		if err != nil {
			b.Fatal(err)
		}
		for {
			rec, err := rd.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil || rec.Err != nil {
				b.Fatal(err, rec.Err)
			}
			if keys {
				if _, err := src.Format.Keys(rec.Doc, format.Env{Source: "trail", Realm: "aws/test"}); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	b.Run("parse", func(b *testing.B) {
		doc := jsondoc.New(jsondoc.Limits{})
		lines := strings.Split(strings.TrimSpace(body), "\n")
		raw := make([][]byte, len(lines))
		for i, l := range lines {
			raw[i] = []byte(l)
		}
		per(b, body, n, func() {
			for _, l := range raw {
				if err := doc.Parse(l); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
	b.Run("read", func(b *testing.B) { per(b, body, n, func() { read(false) }) })
	b.Run("keys", func(b *testing.B) { per(b, body, n, func() { read(true) }) })
	for _, rules := range []int{57, 3000} {
		if rules != 57 {
			r, src, body, n = trailRig(b, rules)
		}
		b.Run(fmt.Sprintf("pipeline/rules=%d", rules), func(b *testing.B) {
			per(b, body, n, func() {
				if _, err := r.pipe.Ingest(b.Context(), src, strings.NewReader(body), ""); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

// BenchmarkDecision has one record that matches, to the commit of its event,
// signal, decision, case, hold and record.
func BenchmarkDecision(b *testing.B) {
	r := newRig(b)
	i := 0
	for b.Loop() {
		i++
		r.ingest(r.rec(fmt.Sprint(i), "low", fmt.Sprintf("u%d", i)))
	}
}
