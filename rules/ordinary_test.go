package rules_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/staunch-project/staunch/internal/config"
	"github.com/staunch-project/staunch/internal/detect/correlate"
	"github.com/staunch-project/staunch/internal/detect/sigma"
	"github.com/staunch-project/staunch/internal/format/jsondoc"
	"github.com/staunch-project/staunch/rules"
)

// ordinary are events that an estate has all day long, by the product and service
// that rules for them name. Each name is put into the event in place of NAME; a name
// that has spaces is several, for NAME, NAME2 and so on.
var ordinary = []struct {
	product, service, event string
	names                   []string
}{
	{"aws", "cloudtrail", `{"eventSource": "NAME.amazonaws.com", "eventName": "NAME2", "eventType": "AwsApiCall", "awsRegion": "eu-central-1", "sourceIPAddress": "10.0.4.21", "userAgent": "aws-sdk-go-v2/1.32", "recipientAccountId": "411198765432",
		"userIdentity": {"type": "AssumedRole", "principalId": "AROAZ3FQLK7N5EXAMPLE2:shop-1", "arn": "arn:aws:sts::411198765432:assumed-role/shop/shop-1", "accountId": "411198765432", "accessKeyId": "ASIAZ3FQLK7N5EXAMPLE"},
		"requestParameters": {"instanceType": "t3.micro", "bucketName": "shop", "name": "/shop/db", "withDecryption": true}}`, []string{
		"s3 GetObject", "s3 PutObject", "s3 ListObjects", "s3 HeadBucket", "s3 GetBucketAcl", "sts AssumeRole", "sts GetCallerIdentity", "ec2 DescribeInstances", "ec2 RunInstances", "ec2 StartInstances", "ec2 CreateTags", "ec2 CreateSnapshot",
		"logs CreateLogStream", "logs PutLogEvents", "lambda Invoke", "lambda ListFunctions20150331", "lambda UpdateFunctionCode20150331v2", "kms Decrypt", "kms GenerateDataKey", "dynamodb GetItem", "dynamodb PutItem", "ssm GetParameter", "ssm GetParameters", "ssm UpdateInstanceInformation",
		"secretsmanager GetSecretValue", "ecr GetAuthorizationToken", "ecr BatchGetImage", "ecr PutImage", "cloudformation DescribeStacks", "rds DescribeDBInstances", "iam GetRole", "iam ListRoles", "monitoring PutMetricData", "sqs SendMessage", "ecs UpdateService",
		"route53 ChangeResourceRecordSets", "cloudtrail DescribeTrails", "bedrock InvokeModel", "backup StartBackupJob", "rds CreateDBInstance", "rds RestoreDBInstanceFromDBSnapshot", "ec2 CreateFleet", "kms CreateGrant", "secretsmanager RotateSecret", "ec2 DescribeSnapshots",
		"cloudformation CreateStack", "securityhub BatchUpdateFindings", "events PutRule", "elasticloadbalancing ModifyLoadBalancerAttributes", "ebs GetSnapshotBlock", "codebuild StartBuild", "s3 PutObjectAcl",
	}},
	{"azure", "activitylogs", `{"category": "Administrative", "operationName": "NAME", "resultType": "Success", "callerIpAddress": "198.51.100.23", "properties": {"requestbody": "{\"properties\":{}}"}}`, []string{
		"Microsoft.Compute/virtualMachines/start/action", "Microsoft.Compute/virtualMachines/write", "Microsoft.Compute/disks/write", "Microsoft.Storage/storageAccounts/read", "Microsoft.Storage/storageAccounts/blobServices/containers/write", "Microsoft.Network/publicIPAddresses/write", "Microsoft.Network/networkInterfaces/write",
		"Microsoft.Resources/deployments/write", "Microsoft.Resources/tags/write", "Microsoft.Web/sites/write", "Microsoft.Web/sites/restart/action", "Microsoft.Insights/diagnosticSettings/write", "Microsoft.KeyVault/vaults/write", "Microsoft.Sql/servers/databases/write", "Microsoft.Authorization/roleAssignments/read",
		"Microsoft.Sql/servers/write", "Microsoft.RecoveryServices/vaults/backupconfig/write", "Microsoft.Insights/metricAlerts/write", "Microsoft.Storage/storageAccounts/managementPolicies/write", "Microsoft.Network/networkWatchers/flowLogs/write",
	}},
	{"azure", "auditlogs", `{"category": "AuditLogs", "operationName": "NAME", "properties": {"result": "success", "activityDisplayName": "NAME", "targetResources": [{"displayName": "x", "modifiedProperties": [{"displayName": "LastDirSyncTime", "newValue": "[]"}]}]}}`, []string{
		"Import", "Export", "Update user", "Access review ended",
	}},
	{"azure", "kube-audit", `{"category": "kube-audit", "properties": {"log": "{\"kind\":\"Event\",\"verb\":\"NAME\",\"user\":{\"username\":\"dana@contoso.example\"},\"sourceIPs\":[\"198.51.100.23\"],\"objectRef\":{\"resource\":\"NAME2\",\"namespace\":\"shop\",\"name\":\"x\"},\"responseStatus\":{\"code\":200},\"requestObject\":{\"spec\":{\"containers\":[{\"name\":\"a\",\"securityContext\":{\"runAsNonRoot\":true}}]}}}"}}`, inCluster},
	{"kubernetes", "audit", `{"kind": "Event", "verb": "NAME", "user": {"username": "dana@example.com", "groups": ["system:authenticated"]}, "sourceIPs": ["198.51.100.23"], "objectRef": {"resource": "NAME2", "namespace": "shop", "name": "x"}, "responseStatus": {"code": 200},
		"requestObject": {"spec": {"containers": [{"name": "a", "securityContext": {"runAsNonRoot": true}}]}}}`, inCluster},
	{"gcp", "gcp.audit", `{"protoPayload": {"methodName": "NAME", "serviceName": "k8s.io", "authenticationInfo": {"principalEmail": "dana@acme.example"}, "authorizationInfo": [{"granted": true, "permission": "NAME"}], "status": {}, "requestMetadata": {"callerIp": "198.51.100.23"}, "resourceName": "core/v1/namespaces/shop/x"}}`, []string{
		"storage.objects.get", "storage.objects.list", "storage.objects.create", "storage.buckets.get", "v1.compute.instances.list", "v1.compute.instances.insert", "v1.compute.instances.start", "v1.compute.instances.delete", "google.cloud.secretmanager.v1.SecretManagerService.ListSecrets",
		"google.iam.admin.v1.ListServiceAccounts", "google.pubsub.v1.Publisher.Publish", "google.cloud.bigquery.v2.JobService.InsertJob", "google.cloud.run.v1.Services.GetService", "google.container.v1.ClusterManager.GetCluster", "cloudsql.instances.connect",
		"v1.compute.snapshots.insert", "google.iam.admin.v1.DeleteServiceAccountKey", "google.cloud.secretmanager.v1.SecretManagerService.AddSecretVersion", "google.login.LoginService.loginSuccess",
		"google.iam.v2.Policies.ListPolicies", "v1.compute.instanceTemplates.insert", "cloudsql.instances.get",
		"io.k8s.core.v1.pods.list", "io.k8s.core.v1.configmaps.get", "io.k8s.apps.v1.deployments.patch", "io.k8s.coordination.v1.leases.update",
	}},
	{"gcp", "", `{"id": {"applicationName": "NAME"}, "actor": {"email": "dana@acme.example"}, "name": "NAME2", "parameters": {"login_type": "google_password", "is_suspicious": false, "visibility": "private", "scope": ["https://www.googleapis.com/auth/userinfo.email"]}}`, []string{
		"drive view", "drive change_user_access", "rules rule_match", "admin CHANGE_GROUP_SETTING", "drive download", "drive edit", "drive create", "login login_success", "login logout", "login login_failure", "token authorize", "token activity", "admin CREATE_USER", "admin ADD_GROUP_MEMBER", "admin SUSPEND_USER", "calendar create_event", "groups add_member", "user_accounts password_edit", "user_accounts 2sv_enroll", "mobile DEVICE_SYNC_EVENT",
	}},
	{"okta", "okta", `{"eventType": "NAME", "actor": {"id": "00u1", "type": "User", "alternateId": "dana@example.com"}, "outcome": {"result": "SUCCESS"}, "target": [{"id": "00u1", "type": "User", "alternateId": "dana@example.com"}], "securityContext": {"isProxy": false}, "debugContext": {"debugData": {"risk": "{level=LOW}", "behaviors": "{New Device=NEGATIVE, New IP=NEGATIVE}", "threatSuspected": "false"}}}`, []string{
		"user.session.start", "user.session.end", "user.authentication.auth_via_AD_agent", "app.oauth2.as.token.grant", "device.enrollment.create", "system.push.send_factor_verify_push", "pam.user_creds.issue", "user.authentication.sso", "policy.evaluate_sign_on", "user.authentication.auth_via_mfa", "app.oauth2.token.grant.access_token", "app.oauth2.token.grant.refresh_token", "user.account.update_profile", "user.account.update_password", "user.mfa.factor.activate", "group.user_membership.add", "application.user_membership.add", "system.email.delivery", "system.import.start",
	}},
	{"github", "audit", `{"action": "NAME", "actor": "dana", "org": "example-org", "repo": "example-org/shop", "user_agent": "git/2.47"}`, []string{
		"git.clone", "git.fetch", "git.push", "pull_request.merge", "workflows.completed_workflow_run", "workflows.created_workflow_run", "repo.download_zip", "repo.rename", "checks.auto_trigger_enabled", "packages.package_published", "codespaces.create", "protected_branch.create", "environment.create", "workflows.cancel_workflow_run", "pull_request.create", "packages.package_version_published", "secret_scanning.enable", "dependabot_alerts.enable", "team.rename",
	}},
	{"slack", "", `{"action": "NAME", "actor": {"type": "user", "user": {"id": "W1", "email": "dana@example.com"}}}`, []string{
		"user_login", "user_logout", "file_uploaded", "file_downloaded", "user_channel_join", "public_channel_created", "private_channel_created", "emoji_added", "workflow_created", "user_created", "user_login_failed", "file_shared", "connect_dm_invite_accepted",
	}},
	{"auth0", "", `{"data": {"type": "NAME", "description": "x", "details": {}}}`, []string{"s", "ss", "ssa", "seacft", "slo", "sertft", "fp", "gd_auth_succeed", "gd_start_auth", "scp", "mgmt_api_read"}},
	{"onelogin", "", `{"event_type_id": NAME, "actor_user_id": 1, "user_id": 1, "risk_score": 3}`, []string{"5", "6", "8", "29", "9", "64"}},
	{"cisco", "duo", `{"event_type": "authentication", "factor": "duo_push", "reason": "NAME", "result": "NAME2", "user": {"name": "dana"}}`, []string{"user_approved success", "remembered_device success", "no_response denied", "out_of_date denied"}},
	{"anthropic", "", `{"type": "NAME", "actor": {"type": "user_actor"}}`, []string{"claude_chat_created", "claude_chat_viewed", "claude_file_uploaded", "claude_project_created", "sso_login_succeeded", "org_ip_restriction_created"}},
	{"openai", "", `{"type": "NAME"}`, []string{"login.succeeded", "logout.succeeded", "project.created", "project.updated", "role.assignment.deleted"}},
	{"snowflake", "", `{"QUERY_TYPE": "NAME", "QUERY_TEXT": "SELECT user_name FROM query_history WHERE query_text ILIKE '%create user%' OR query_text ILIKE '%copy into @%'", "EXECUTION_STATUS": "SUCCESS", "USER_NAME": "DANA"}`, []string{"SELECT", "SHOW", "DESCRIBE", "INSERT", "MERGE"}},
	{"teleport", "", `{"event": "NAME", "program": "ls", "argv": ["-la"], "method": "saml", "success": true, "login": "deploy"}`, []string{"session.start", "session.end", "cert.create", "session.command", "session.data", "user.login", "resize", "kube.request", "db.session.query"}},
}

// inCluster are ordinary requests to a cluster, a verb and what it is about.
var inCluster = []string{"get pods", "list pods", "watch services", "create events", "update leases", "patch deployments", "create deployments", "create pods", "delete pods", "get configmaps", "create configmaps", "create subjectaccessreviews", "delete configmaps", "patch namespaces", "update serviceaccounts", "delete jobs"}

// TestOrdinary has no rule that tells by itself match what is ordinary. An act that
// is ordinary for some and telling for others has its near misses with its rule.
func TestOrdinary(t *testing.T) {
	var docs correlate.Reader
	loaded, refused := sigma.Load(rules.FS, sigma.Options{Placeholders: honeytokens, Correlation: docs.Read})
	for _, e := range refused {
		t.Error(e)
	}
	all, err := sigma.Compile(loaded)
	if err != nil {
		t.Fatal(err)
	}
	correlations, _ := docs.Compile(all, correlate.Options{Lateness: config.DefaultLateness}) // what is refused, TestPack tells
	var telling []*sigma.Rule
	for i, r := range all.Rules() {
		if !correlations.Hidden(i) {
			telling = append(telling, r)
		}
	}
	doc := jsondoc.New(jsondoc.DefaultLimits())
	for _, o := range ordinary {
		own := sigma.Within(telling, sigma.Logsource{Product: o.product, Service: o.service})
		if len(own) == 0 {
			t.Errorf("no rule is for %s %s", o.product, o.service)
			continue
		}
		set, err := sigma.Compile(own)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range o.names {
			event := o.event
			parts := strings.Split(name, " ")
			for i := len(parts) - 1; i > 0; i-- {
				event = strings.ReplaceAll(event, fmt.Sprintf("NAME%d", i+1), parts[i])
			}
			event = strings.ReplaceAll(event, "NAME", parts[0])
			if err := doc.Parse([]byte(event)); err != nil {
				t.Fatalf("%s: %v: %s", name, err, event)
			}
			for _, n := range set.Match(doc, sigma.Logsource{All: true}, nil, nil) {
				t.Errorf("%s %s: %s matches %s", o.product, name, set.Rules()[n].Path, event)
			}
		}
	}
}
