package sigma

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/staunch-project/staunch/internal/format/jsondoc"
)

// cloudTrail makes a record shaped like CloudTrail's, of about 1.3 kB.
func cloudTrail(i int) []byte {
	rng := rand.New(rand.NewPCG(uint64(i), 7))
	calls := [...][2]string{{"sts", "AssumeRole"}, {"s3", "GetObject"}, {"ec2", "DescribeInstances"}, {"iam", "ListUsers"}, {"iam", "GetUser"},
		{"signin", "ConsoleLogin"}, {"s3", "ListBuckets"}, {"kms", "Decrypt"}, {"logs", "PutLogEvents"}, {"lambda", "GetFunction"}, {"dynamodb", "Query"}, {"ssm", "GetParameter"}}
	c := calls[rng.IntN(len(calls))]
	acct := fmt.Sprintf("%012d", rng.Int64N(1e12))
	return fmt.Appendf(nil, `{"eventVersion":"1.08","userIdentity":{"type":"AssumedRole","principalId":"AROA%012X:session-%d","arn":"arn:aws:sts::%s:assumed-role/Deploy/session-%d","accountId":"%s","accessKeyId":"ASIA%016X","sessionContext":{"sessionIssuer":{"type":"Role","principalId":"AROA%012X","arn":"arn:aws:iam::%s:role/Deploy","accountId":"%s","userName":"Deploy"},"webIdFederationData":{},"attributes":{"creationDate":"2024-01-02T03:04:05Z","mfaAuthenticated":"false"}}},"eventTime":"2024-01-02T03:%02d:%02dZ","eventSource":"%s.amazonaws.com","eventName":"%s","awsRegion":"eu-central-1","sourceIPAddress":"203.0.113.%d","userAgent":"aws-cli/2.15.0 Python/3.11.6 Linux/6.1.0 exe/x86_64.debian.12 prompt/off command/s3.cp","requestParameters":{"bucketName":"logs-%d","key":"2024/01/part.gz","Host":"s3.amazonaws.com"},"responseElements":null,"additionalEventData":{"SignatureVersion":"SigV4","CipherSuite":"ECDHE-RSA-AES128-GCM-SHA256","bytesTransferredIn":0,"AuthenticationMethod":"AuthHeader","bytesTransferredOut":%d},"requestID":"%016X","eventID":"%08x-0000-4000-8000-%012x","readOnly":true,"resources":[{"type":"AWS::S3::Object","ARN":"arn:aws:s3:::logs/2024"},{"accountId":"%s","type":"AWS::S3::Bucket","ARN":"arn:aws:s3:::logs"}],"eventType":"AwsApiCall","managementEvent":false,"recipientAccountId":"%s","eventCategory":"Data","tlsDetails":{"tlsVersion":"TLSv1.3","cipherSuite":"TLS_AES_128_GCM_SHA256"}}`,
		rng.Uint64()>>16, i, acct, i, acct, rng.Uint64(), rng.Uint64()>>16, acct, acct, rng.IntN(60), rng.IntN(60), c[0], c[1], rng.IntN(256), rng.IntN(1000), rng.IntN(1e6), rng.Uint64(), rng.Uint32(), rng.Uint64()>>16, acct, acct)
}

// syntheticRules makes rules shaped like those for CloudTrail: a source with
// some event names, some with a filter or a second selection.
func syntheticRules(t testing.TB, n int) []*Rule {
	var rules []*Rule
	rng := rand.New(rand.NewPCG(3, 5))
	extra := []string{"", "requestParameters|contains: 'Suspended'", "userIdentity.arn|endswith: ':root'", "errorCode: null", "userAgent|contains: [s3browser, kali]", "userIdentity.arn|re: '.+:assumed-role/aws:.+'"}
	for i := range n {
		text := fmt.Sprintf("title: R%d\nid: r%d\nlogsource: {product: aws, service: cloudtrail}\ndetection:\n    s:\n        eventSource: s%d.amazonaws.com\n        eventName: [Call%dA, Call%dB]\n        %s\n    f: {sourceIPAddress|cidr: 10.0.0.0/8}\n    condition: s and not f\n",
			i, i, rng.IntN(100), i, i, extra[i%len(extra)])
		if i%10 == 0 { // not every rule names what it wants so plainly
			text = fmt.Sprintf("title: R%d\nid: r%d\nlogsource: {product: aws}\ndetection:\n    s: {eventName|startswith: Call%d, userAgent|contains: tool%d}\n    condition: s\n", i, i, i, i)
		}
		r, errs := Parse("s.yml", []byte(text), Options{})
		if len(errs) > 0 {
			t.Fatal(errs[0])
		}
		rules = append(rules, r...)
	}
	return rules
}

var trailSource = Logsource{Product: "aws", Service: "cloudtrail"}

func TestMatchDoesNotAllocate(t *testing.T) {
	s := compile(t, syntheticRules(t, 57)...)
	d := jsondoc.New(jsondoc.Limits{})
	var sc Scratch
	var dst []int
	var recs [][]byte
	for i := range 50 {
		recs = append(recs, cloudTrail(i))
	}
	run := func() {
		for _, r := range recs {
			if err := d.Parse(r); err != nil {
				t.Fatal(err)
			}
			dst = s.Match(d, trailSource, &sc, dst[:0])
			if len(dst) != 0 {
				t.Fatal("matched")
			}
		}
	}
	run()
	if n := testing.AllocsPerRun(20, run); n != 0 {
		t.Errorf("%v allocations for %d records", n, len(recs))
	}
}

func benchMatch(b *testing.B, rules []*Rule) {
	s := compile(b, rules...)
	var recs [][]byte
	size := 0
	for i := range 1000 {
		recs = append(recs, cloudTrail(i))
		size += len(recs[i])
	}
	d := jsondoc.New(jsondoc.Limits{})
	var sc Scratch
	var dst []int
	b.SetBytes(int64(size / len(recs)))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if err := d.Parse(recs[i%len(recs)]); err != nil {
			b.Fatal(err)
		}
		dst = s.Match(d, trailSource, &sc, dst[:0])
		i++
	}
}

func BenchmarkMatchSynthetic(b *testing.B) {
	for _, n := range []int{57, 500, 3000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchMatch(b, syntheticRules(b, n)) })
	}
}

// The rules of the corpus for AWS.
func BenchmarkMatchCorpus(b *testing.B) {
	rules, _ := LoadPath(filepath.Join(corpus(b), "sigma"), Options{})
	var aws []*Rule
	for _, r := range rules {
		if r.Logsource.Product == "aws" {
			aws = append(aws, r)
		}
	}
	b.Run(fmt.Sprint(len(aws)), func(b *testing.B) { benchMatch(b, aws) })
}

// The floors: reading the record only, and what most would do instead.
func BenchmarkFloor(b *testing.B) {
	var recs [][]byte
	for i := range 1000 {
		recs = append(recs, cloudTrail(i))
	}
	b.Run("parse", func(b *testing.B) {
		d := jsondoc.New(jsondoc.Limits{})
		i := 0
		for b.Loop() {
			if err := d.Parse(recs[i%len(recs)]); err != nil {
				b.Fatal(err)
			}
			i++
		}
	})
	b.Run("unmarshal", func(b *testing.B) {
		i := 0
		for b.Loop() {
			var m map[string]any
			if err := json.Unmarshal(recs[i%len(recs)], &m); err != nil {
				b.Fatal(err)
			}
			i++
		}
	})
}
