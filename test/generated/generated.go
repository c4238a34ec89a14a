// Package generated makes rules and records of any number, for tests that need
// more than anybody would write down. It knows no other package, so that each can
// use it in its tests.
package generated

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
)

// What stands in records and rules of the generated kind.
var (
	services = []string{"sts", "s3", "ec2", "iam", "signin", "kms", "logs", "lambda", "dynamodb", "ssm", "rds", "ecs", "eks", "route53", "guardduty", "config", "cloudtrail", "secretsmanager", "organizations", "glue"}
	verbs    = []string{"Get", "List", "Describe", "Create", "Delete", "Update", "Put", "Attach", "Detach", "Start", "Stop", "Modify"}
	nouns    = []string{"Role", "User", "Bucket", "Key", "Instance", "Policy", "Function", "Parameter", "Secret", "Trail", "Cluster", "Snapshot", "Image", "Domain", "Session", "Detector", "Stack", "Queue", "Topic", "Table"}
	tools    = []string{"kali", "parrot", "pacu", "scoutsuite", "cloudsplaining", "prowler", "boto3/", "terraform", "aws-cli", "curl/", "go-http", "python-requests", "s3browser", "cyberduck"}
)

func pick[T any](rng *rand.Rand, list []T) T { return list[rng.IntN(len(list))] }

// Rules makes n Sigma documents of many shapes for aws/cloudtrail. More than a
// fifth of them name no exact value: they look for texts, patterns, networks or
// keywords. The same n makes the same rules.
func Rules(n int) [][]byte {
	rng := rand.New(rand.NewPCG(11, uint64(n)))
	word := func() string { return fmt.Sprintf("%s%s%d", pick(rng, verbs), pick(rng, nouns), rng.IntN(40)) }
	tool := func() string { return pick(rng, tools) + fmt.Sprint(rng.IntN(1000)) }
	var docs [][]byte
	for i := range n {
		var text strings.Builder
		fmt.Fprintf(&text, "title: Generated %d\nid: generated-%d\nlogsource: {product: aws, service: cloudtrail}\ndetection:\n", i, i)
		cond := "s"
		if i%9 < 7 {
			fmt.Fprintf(&text, "    s:\n        eventSource: %s.amazonaws.com\n        eventName: [%s, %s]\n", pick(rng, services), word(), word())
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
				fmt.Fprintf(&text, "    s: {userIdentity.arn|re: '(?i)assumed-role/%s%d-[a-z]+/'}\n", pick(rng, nouns), rng.IntN(500))
			case 2:
				fmt.Fprintf(&text, "    s: {requestParameters|contains|all: ['%s', '\"%s\"']}\n", pick(rng, nouns), word())
			case 3:
				fmt.Fprintf(&text, "    s: {sourceIPAddress|cidr: ['%d.%d.%d.0/24', '2001:db8:%x::/48']}\n", 1+rng.IntN(220), rng.IntN(256), rng.IntN(256), rng.IntN(1<<16))
			case 4:
				fmt.Fprintf(&text, "    s: ['%s', 'x-%s']\n", tool(), word())
			case 5:
				fmt.Fprintf(&text, "    s: {eventName|startswith: '%s'}\n", word())
			case 6:
				fmt.Fprintf(&text, "    s: {requestParameters.roleName: '*-%s*admin?%d'}\n", pick(rng, nouns), rng.IntN(100))
			case 7:
				fmt.Fprintf(&text, "    s: {errorMessage|contains: '%s', eventName|endswith: '%s'}\n", word(), pick(rng, nouns))
			case 8:
				fmt.Fprintf(&text, "    s: {requestParameters.policyDocument|re: '\"(Action|Resource)\"\\s*:\\s*\"%s:\\*\"'}\n", tool())
			default:
				fmt.Fprintf(&text, "    s: {userIdentity.userName|endswith: '-%d', userAgent|contains: '%s'}\n", rng.IntN(1000), pick(rng, tools))
			}
		}
		fmt.Fprintf(&text, "    condition: %s\n", cond)
		docs = append(docs, []byte(text.String()))
	}
	return docs
}

// CloudTrail makes a record shaped like CloudTrail's, of about 1.3 kB. The same i
// makes the same record.
func CloudTrail(i int) []byte {
	rng := rand.New(rand.NewPCG(uint64(i), 7))
	calls := [...][2]string{{"sts", "AssumeRole"}, {"s3", "GetObject"}, {"ec2", "DescribeInstances"}, {"iam", "ListUsers"}, {"iam", "GetUser"},
		{"signin", "ConsoleLogin"}, {"s3", "ListBuckets"}, {"kms", "Decrypt"}, {"logs", "PutLogEvents"}, {"lambda", "GetFunction"}, {"dynamodb", "Query"}, {"ssm", "GetParameter"}}
	c := calls[rng.IntN(len(calls))]
	acct := fmt.Sprintf("%012d", rng.Int64N(1e12))
	return fmt.Appendf(nil, `{"eventVersion":"1.08","userIdentity":{"type":"AssumedRole","principalId":"AROA%012X:session-%d","arn":"arn:aws:sts::%s:assumed-role/Deploy/session-%d","accountId":"%s","accessKeyId":"ASIA%016X","sessionContext":{"sessionIssuer":{"type":"Role","principalId":"AROA%012X","arn":"arn:aws:iam::%s:role/Deploy","accountId":"%s","userName":"Deploy"},"webIdFederationData":{},"attributes":{"creationDate":"2024-01-02T03:04:05Z","mfaAuthenticated":"false"}}},"eventTime":"2024-01-02T03:%02d:%02dZ","eventSource":"%s.amazonaws.com","eventName":"%s","awsRegion":"eu-central-1","sourceIPAddress":"203.0.113.%d","userAgent":"aws-cli/2.15.0 Python/3.11.6 Linux/6.1.0 exe/x86_64.debian.12 prompt/off command/s3.cp","requestParameters":{"bucketName":"logs-%d","key":"2024/01/part.gz","Host":"s3.amazonaws.com"},"responseElements":null,"additionalEventData":{"SignatureVersion":"SigV4","CipherSuite":"ECDHE-RSA-AES128-GCM-SHA256","bytesTransferredIn":0,"AuthenticationMethod":"AuthHeader","bytesTransferredOut":%d},"requestID":"%016X","eventID":"%08x-0000-4000-8000-%012x","readOnly":true,"resources":[{"type":"AWS::S3::Object","ARN":"arn:aws:s3:::logs/2024"},{"accountId":"%s","type":"AWS::S3::Bucket","ARN":"arn:aws:s3:::logs"}],"eventType":"AwsApiCall","managementEvent":false,"recipientAccountId":"%s","eventCategory":"Data","tlsDetails":{"tlsVersion":"TLSv1.3","cipherSuite":"TLS_AES_128_GCM_SHA256"}}`,
		rng.Uint64()>>16, i, acct, i, acct, rng.Uint64(), rng.Uint64()>>16, acct, acct, rng.IntN(60), rng.IntN(60), c[0], c[1], rng.IntN(256), rng.IntN(1000), rng.IntN(1e6), rng.Uint64(), rng.Uint32(), rng.Uint64()>>16, acct, acct)
}

// Traffic makes n records of several services, some of which some of the Rules
// match. The same n and seed make the same records.
func Traffic(n int, seed uint64) [][]byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	var recs [][]byte
	for i := range n {
		rec := CloudTrail(int(seed)*100_000 + i)
		rec = bytes.Replace(rec, []byte(`"eventName":"`), fmt.Appendf(nil, `"eventName":"%s%s%d`, pick(rng, verbs), pick(rng, nouns), rng.IntN(60)), 1)
		rec = bytes.Replace(rec, []byte("aws-cli/2.15.0"), fmt.Appendf(nil, "%s%d", pick(rng, tools), rng.IntN(3000)), 1)
		if i%7 == 0 {
			rec = bytes.Replace(rec, []byte(`"responseElements":null`), []byte(`"errorCode":"AccessDenied","errorMessage":"User is not authorised: \"sts:AssumeRole\" für diese Rolle"`), 1)
		}
		recs = append(recs, rec)
	}
	return recs
}
