package s3

import (
	"encoding/base64"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/deliveryd/deliveryd/sdk/nametemplate"
	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// Values of Config.Body and Config.IfExists.
const (
	bodyData        = "data"
	existsSkip      = "skip"
	existsOverwrite = "overwrite"
)

// Config is what a destination of type s3 may hold.
type Config struct {
	Bucket      string       `config:"bucket,required" pattern:"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]" doc:"Name of the bucket." example:"\"acme-archive\""`
	Region      string       `config:"region" pattern:"[a-z0-9-]{1,64}" doc:"Region of the bucket. Required without an endpoint; with one, us-east-1 unless the server wants another." example:"\"eu-central-1\""`
	Endpoint    string       `config:"endpoint" format:"url" pattern:"https?://.+" doc:"URL of a server that speaks S3, in place of Amazon's." example:"\"https://minio.example:9000\""`
	PathStyle   *bool        `config:"path_style" doc:"Whether the bucket stands in the path of a URL and not in its host name. On with an endpoint, off without."`
	CA          string       `config:"ca" format:"pem" doc:"Certificates of authorities to trust beside the system's." example:"file(\"ca.pem\")"`
	Credentials *Credentials `config:"credentials,required" doc:"Who writes. Exactly one source: a pair of keys, environment, profile, web_identity or instance_role; assume_role may come on top."`

	Key      string `config:"key" default:"{organization}/{destination}/{yyyy}/{mm}/{dd}/{delivery_id}.{ext}" min:"1" max:"1024" doc:"Key of the object. Placeholders: {id} (unique for each delivery and destination), {delivery_id} (shared by all destinations of a submission), {organization}, {destination}, {type}, {filename} (an artifact's name, else the type with its extension), {ext}, {sha256} (of the content), {yyyy} {mm} {dd} {hh} {mi} {ss} (when the delivery was accepted, UTC). The same delivery has the same key at each attempt. A value cannot leave its place: a slash in it becomes %2F."`
	Body     string `config:"body" enum:"envelope,data" default:"envelope" doc:"What to write for a payload: envelope is a JSON object of id, type, timestamp, organization_id, data and metadata; data is the payload's data alone, with its own content type. Artifacts always go as they are."`
	IfExists string `config:"if_exists" enum:"fail,skip,overwrite" default:"fail" doc:"What to do where the key is taken by something else. What this delivery, or one of the same bytes, has written before counts as delivered. fail makes a dead letter, skip counts as delivered and leaves the object alone. Both are decided by the server (If-None-Match); with overwrite no condition is sent."`

	PartSize    schema.Size `config:"part_size" default:"5MiB" min:"5MiB" max:"512MiB" doc:"Size of the parts of an artifact that is larger than one; it grows where 10,000 of them would not do."`
	Parallelism int         `config:"parallelism" default:"4" min:"1" max:"32" doc:"Most parts of an artifact on their way at once. Each takes part_size of memory; beyond one for each artifact, all destinations together take at most 16 MiB, or one part."`

	ContentType  string            `config:"content_type" max:"255" doc:"Content type of the objects, in place of the delivery's own." example:"\"application/json\""`
	Metadata     map[string]string `config:"metadata" max:"50" doc:"User metadata of the objects. Names that start with deliveryd- are the transport's." example:"{ retention = \"7y\" }"`
	Tags         map[string]string `config:"tags" max:"10" doc:"Tags of the objects." example:"{ class = \"compliance\" }"`
	StorageClass string            `config:"storage_class" pattern:"[A-Z0-9_]{1,64}" doc:"Storage class of the objects; the bucket's default without." example:"\"STANDARD_IA\""`

	Encryption *Encryption `config:"encryption" doc:"Encryption by the server. Without it, the bucket's default."`
	ObjectLock *ObjectLock `config:"object_lock" doc:"Write once, read many: nobody can change or remove an object before its time. The bucket must have object lock."`
}

// Credentials of the writer.
type Credentials struct {
	AccessKeyID     string `config:"access_key_id" max:"128" doc:"Access key." example:"env(\"AWS_ACCESS_KEY_ID\")"`
	SecretAccessKey string `config:"secret_access_key,secret" doc:"Secret of the access key." example:"env(\"AWS_SECRET_ACCESS_KEY\")"`
	SessionToken    string `config:"session_token,secret" doc:"Token of a temporary access key."`

	Environment  bool         `config:"environment" default:"false" doc:"Use AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN of the plugin's environment. Belongs to the host: the operator must permit it."`
	Profile      string       `config:"profile" max:"128" doc:"Profile in a shared configuration file. Belongs to the host: the operator must permit it."`
	ProfileFiles []string     `config:"profile_files" max:"4" format:"path" doc:"Files with the profile, absolute." example:"[\"/etc/deliveryd/aws.ini\"]"`
	InstanceRole bool         `config:"instance_role" default:"false" doc:"Use the role of this instance, from the metadata service (IMDSv2). Belongs to the host: the operator must permit it, and its address, 169.254.169.254, in egress."`
	WebIdentity  *WebIdentity `config:"web_identity" doc:"Exchange a token in a file for temporary keys, as on Kubernetes. Belongs to the host: the operator must permit it."`
	AssumeRole   *AssumeRole  `config:"assume_role" doc:"A role to take on with the credentials above."`
	STSEndpoint  string       `config:"sts_endpoint" format:"url" pattern:"https?://.+" doc:"URL of the Security Token Service for web_identity and assume_role; Amazon's in the region without. It obeys the egress policy."`
}

// WebIdentity exchanges a token for keys.
type WebIdentity struct {
	RoleARN     string `config:"role_arn,required" pattern:"arn:.+" doc:"Role to take on."`
	TokenFile   string `config:"token_file,required" format:"path" pattern:"/.+" doc:"File with the token, absolute; read again for each exchange."`
	SessionName string `config:"session_name" pattern:"[\\w+=,.@-]{2,64}" default:"deliveryd" doc:"Name of the session in the audit log."`
}

// AssumeRole is a role to take on.
type AssumeRole struct {
	RoleARN     string        `config:"role_arn,required" pattern:"arn:.+" doc:"Role to take on." example:"\"arn:aws:iam::123456789012:role/archive\""`
	ExternalID  string        `config:"external_id" max:"1224" doc:"External id that the role's trust policy asks for."`
	SessionName string        `config:"session_name" pattern:"[\\w+=,.@-]{2,64}" default:"deliveryd" doc:"Name of the session in the audit log."`
	Duration    time.Duration `config:"duration" default:"1h" min:"15m" max:"12h" doc:"Lifetime of the temporary keys, which are renewed before it ends."`
}

// Encryption by the server.
type Encryption struct {
	Mode        string `config:"mode,required" enum:"s3,kms,kms_dsse,customer" doc:"s3 is SSE-S3, kms is SSE-KMS, kms_dsse the same in two layers, customer is SSE-C."`
	KMSKey      string `config:"kms_key" max:"2048" doc:"Key of SSE-KMS: id or ARN; the account's default key without."`
	BucketKey   *bool  `config:"bucket_key" doc:"Whether a bucket key saves calls of KMS; the bucket's own setting without."`
	CustomerKey string `config:"customer_key,secret" doc:"Key of SSE-C: 32 bytes in base64. Who loses it loses the objects." example:"env(\"ARCHIVE_KEY\")"`
}

// ObjectLock keeps an object as it is.
type ObjectLock struct {
	Mode      string        `config:"mode" enum:"governance,compliance" doc:"Governance can be lifted by who has the permission, compliance by nobody."`
	RetainFor time.Duration `config:"retain_for" min:"1m" max:"876000h" doc:"How long from the moment of writing." example:"\"61368h\""`
	// RetainUntil is text, since the schema has no type for moments.
	RetainUntil string `config:"retain_until" doc:"Until when, RFC 3339, in place of retain_for." example:"\"2036-01-01T00:00:00Z\""`
	LegalHold   bool   `config:"legal_hold" default:"false" doc:"Keep the object until somebody lifts the hold, whatever the mode says."`
}

// Validate checks what tags cannot say.
func (c *Config) Validate() transport.Diagnostics {
	var d findings
	if c.Endpoint == "" && c.Region == "" {
		d.add(schema.At("region"), "neither region nor endpoint", "give the region of the bucket, such as eu-central-1")
	}
	d.url(schema.At("endpoint"), c.Endpoint)
	if _, err := parseKey(c.Key); err != nil {
		d.add(schema.At("key"), err.Error(), "placeholders: "+strings.Join(nametemplate.Placeholders(), " "))
	}
	if c.CA != "" {
		if _, err := newTLS(c.CA); err != nil {
			d.add(schema.At("ca"), err.Error(), "want PEM")
		}
	}
	if !httpguts.ValidHeaderFieldValue(c.ContentType) {
		d.add(schema.At("content_type"), "control characters cannot be in a header", "")
	}
	c.checkMetadata(&d)
	c.checkCredentials(&d)
	c.checkEncryption(&d)
	c.checkObjectLock(&d)
	return transport.Diagnostics(d)
}

// findings collects diagnostics.
type findings transport.Diagnostics

func (f *findings) add(at schema.Path, summary, detail string) {
	finding := schema.Errorf(at, "%s", summary)
	if detail != "" {
		finding = finding.WithDetail("%s", detail)
	}
	*f = append(*f, finding)
}

func (f *findings) url(at schema.Path, text string) {
	u, err := url.Parse(text)
	switch {
	case err != nil: // the format says so already
	case u.User != nil:
		f.add(at, "the URL holds credentials", "they would reach logs; use credentials {}")
	case u.RawQuery != "" || u.Fragment != "":
		f.add(at, "the URL has a query or a fragment", "want scheme, host and port")
	}
}

func (c *Config) checkMetadata(d *findings) {
	size := 0
	for _, name := range slices.Sorted(maps.Keys(c.Metadata)) {
		at, value := schema.At("metadata").Key(name), c.Metadata[name]
		size += len(name) + len(value)
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			d.add(at, "not a name that a header may have", "letters, digits and '-'")
		case strings.HasPrefix(strings.ToLower(name), metaPrefix):
			d.add(at, "the name is the transport's own", "names that start with "+metaPrefix+" are taken")
		case headerText(value) != value:
			d.add(at, "the value is not printable ASCII", "")
		}
	}
	if size > 1<<10 {
		d.add(schema.At("metadata"), "more than 1 KiB of metadata", "S3 takes 2 KiB in all, and the transport needs a part of it")
	}
}

func (c *Config) checkCredentials(d *findings) {
	at := schema.At("credentials")
	given := c.Credentials.sources()
	switch {
	case len(given) == 0:
		d.add(at, "no source of credentials", "give access_key_id and secret_access_key, or one of environment, profile, web_identity, instance_role")
	case len(given) > 1:
		d.add(at, "more than one source of credentials: "+strings.Join(given, ", "), "exactly one")
	}
	cr := c.Credentials
	if (cr.AccessKeyID == "") != (cr.SecretAccessKey == "") || (cr.SessionToken != "" && cr.AccessKeyID == "") {
		d.add(at, "access_key_id and secret_access_key belong together", "")
	}
	for i, file := range cr.ProfileFiles {
		if !strings.HasPrefix(file, "/") {
			d.add(at.Attribute("profile_files").Index(i), "not an absolute path", "")
		}
	}
	if cr.Profile != "" && len(cr.ProfileFiles) == 0 {
		d.add(at.Attribute("profile"), "a profile without profile_files", "a plugin has a home directory of its own, without ~/.aws")
	}
	d.url(at.Attribute("sts_endpoint"), cr.STSEndpoint)
}

// sources names the ways to authenticate that are given.
func (c *Credentials) sources() (given []string) {
	for _, source := range []struct {
		name string
		set  bool
	}{
		{"access_key_id", c.AccessKeyID != "" || c.SecretAccessKey != ""},
		{sourceEnvironment, c.Environment},
		{sourceProfile, c.Profile != ""},
		{sourceWebIdentity, c.WebIdentity != nil},
		{sourceInstance, c.InstanceRole},
	} {
		if source.set {
			given = append(given, source.name)
		}
	}
	return given
}

func (c *Config) checkEncryption(d *findings) {
	e := c.Encryption
	if e == nil {
		return
	}
	at := schema.At("encryption")
	kms := strings.HasPrefix(e.Mode, "kms")
	if !kms && (e.KMSKey != "" || e.BucketKey != nil) {
		d.add(at.Attribute("mode"), "kms_key and bucket_key need mode kms or kms_dsse", "")
	}
	if (e.Mode == "customer") != (e.CustomerKey != "") {
		d.add(at.Attribute("customer_key"), "mode customer and customer_key belong together", "")
	}
	if e.CustomerKey == "" {
		return
	}
	if key, err := base64.StdEncoding.DecodeString(e.CustomerKey); err != nil || len(key) != 32 {
		d.add(at.Attribute("customer_key"), "not 32 bytes in base64", "openssl rand -base64 32")
	}
	if strings.HasPrefix(c.Endpoint, "http:") {
		d.add(at.Attribute("customer_key"), "the key would travel without TLS", "use an https endpoint")
	}
}

func (c *Config) checkObjectLock(d *findings) {
	l := c.ObjectLock
	if l == nil {
		return
	}
	at := schema.At("object_lock")
	if l.RetainFor != 0 && l.RetainUntil != "" {
		d.add(at.Attribute("retain_until"), "retain_for and retain_until exclude each other", "")
	}
	if l.RetainUntil != "" {
		if _, err := time.Parse(time.RFC3339, l.RetainUntil); err != nil {
			d.add(at.Attribute("retain_until"), "not a moment", "RFC 3339, such as 2036-01-01T00:00:00Z")
		}
	}
	retained := l.RetainFor != 0 || l.RetainUntil != ""
	if (l.Mode != "") != retained {
		d.add(at.Attribute("mode"), "mode and retain_for, or retain_until, belong together", "")
	}
	if !retained && !l.LegalHold {
		d.add(at, "nothing is locked", "give mode and retain_for, or legal_hold = true")
	}
}
