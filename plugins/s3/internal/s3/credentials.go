package s3

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/deliveryd/deliveryd/sdk/egress"
	"github.com/deliveryd/deliveryd/sdk/schema"
)

// Names of the sources that belong to the host.
const (
	sourceEnvironment = "environment"
	sourceProfile     = "profile"
	sourceWebIdentity = "web_identity"
	sourceInstance    = "instance_role"
)

// hostCredentialsEnv names the organizations, separated by commas, whose
// destinations may use credentials of this host; * for all. Without it none may:
// whoever writes a destination chooses the bucket and the token service, and
// could so use the operator's role, or read any file of the daemon's user.
const hostCredentialsEnv = "DELIVERYD_S3_HOST_CREDENTIALS"

// checkHostCredentials refuses what the operator did not permit.
func checkHostCredentials(c *Credentials, organization, permitted string) error {
	for _, source := range c.sources() {
		if !slices.Contains([]string{sourceEnvironment, sourceProfile, sourceWebIdentity, sourceInstance}, source) {
			continue
		}
		list := strings.FieldsFunc(permitted, func(r rune) bool { return r == ',' || r == ' ' })
		if slices.Contains(list, "*") || slices.Contains(list, organization) {
			return nil
		}
		return schema.Errorf(schema.At("credentials", source), "organization %q may not use credentials of this host", organization).
			WithDetail("The operator permits it by the variable %s in the plugin's environment; or give access_key_id and secret_access_key.", hostCredentialsEnv)
	}
	return nil
}

// checkInstanceRole says early, and with its place, what would be a refused
// connection later.
func checkInstanceRole(c *Credentials, guard *egress.Guard) error {
	if !c.InstanceRole {
		return nil
	}
	const service = "169.254.169.254"
	if err := guard.Check(service, netip.MustParseAddr(service)); err != nil {
		return schema.Errorf(schema.At("credentials", sourceInstance), "%v", err)
	}
	return nil
}

// newCredentials makes the source of keys. Its errors hold none. Every
// connection that it makes goes through client, and so through the guard.
func newCredentials(ctx context.Context, c *Config, client *httpClient, getenv func(string) string) (aws.CredentialsProvider, error) {
	base, err := newSource(ctx, c, client, getenv)
	if err != nil {
		return nil, err
	}
	if role := c.Credentials.AssumeRole; role != nil {
		base = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(newSTS(c, client, base), role.RoleARN, func(o *stscreds.AssumeRoleOptions) {
			o.RoleSessionName, o.Duration = role.SessionName, role.Duration
			if role.ExternalID != "" {
				o.ExternalID = aws.String(role.ExternalID)
			}
		}))
	}
	return base, nil
}

func newSource(ctx context.Context, c *Config, client *httpClient, getenv func(string) string) (aws.CredentialsProvider, error) {
	cr := c.Credentials
	switch {
	case cr.Environment:
		id, secret := getenv("AWS_ACCESS_KEY_ID"), getenv("AWS_SECRET_ACCESS_KEY")
		if id == "" || secret == "" {
			return nil, schema.Errorf(schema.At("credentials", sourceEnvironment), "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not in the plugin's environment")
		}
		return credentials.NewStaticCredentialsProvider(id, secret, getenv("AWS_SESSION_TOKEN")), nil
	case cr.Profile != "":
		return profile(ctx, c, client)
	case cr.WebIdentity != nil:
		web := cr.WebIdentity
		provider := stscreds.NewWebIdentityRoleProvider(newSTS(c, client, aws.AnonymousCredentials{}), web.RoleARN, stscreds.IdentityTokenFile(web.TokenFile),
			func(o *stscreds.WebIdentityRoleOptions) { o.RoleSessionName = web.SessionName })
		return aws.NewCredentialsCache(provider), nil
	case cr.InstanceRole:
		metadata := imds.New(imds.Options{HTTPClient: client.Client, Retryer: aws.NopRetryer{}, EnableFallback: aws.FalseTernary})
		return aws.NewCredentialsCache(ec2rolecreds.New(func(o *ec2rolecreds.Options) { o.Client = metadata })), nil
	}
	return credentials.NewStaticCredentialsProvider(cr.AccessKeyID, cr.SecretAccessKey, cr.SessionToken), nil
}

// profile reads the operator's files with all that the SDK knows of them: keys,
// roles, single sign-on, credential processes.
func profile(ctx context.Context, c *Config, client *httpClient) (aws.CredentialsProvider, error) {
	// Only a client of this type can be given a bundle of authorities, which a
	// profile or AWS_CA_BUNDLE may name.
	guarded := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.DialContext, t.Proxy = client.dial, nil
		t.TLSClientConfig = client.tls.Clone()
	})
	loaded, err := awsconfig.LoadDefaultConfig(ctx,
		awsconfig.WithSharedConfigProfile(c.Credentials.Profile), awsconfig.WithSharedConfigFiles(c.Credentials.ProfileFiles),
		awsconfig.WithSharedCredentialsFiles(c.Credentials.ProfileFiles), awsconfig.WithRegion(c.region()), awsconfig.WithHTTPClient(guarded),
		awsconfig.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }))
	if err != nil {
		// The text of a parse error could quote a key.
		return nil, schema.Errorf(schema.At("credentials", sourceProfile), "profile %q cannot be read from its files", c.Credentials.Profile)
	}
	return loaded.Credentials, nil
}

func newSTS(c *Config, client *httpClient, provider aws.CredentialsProvider) *sts.Client {
	options := sts.Options{Region: c.region(), Credentials: provider, HTTPClient: client.Client, Retryer: aws.NopRetryer{}}
	if c.Credentials.STSEndpoint != "" {
		options.BaseEndpoint = aws.String(c.Credentials.STSEndpoint)
	}
	return sts.New(options)
}
