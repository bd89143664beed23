package email

import (
	"time"

	"github.com/deliveryd/deliveryd/sdk/oauth2"
	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/tlsconfig"
)

// Config is what a destination of type email may hold.
type Config struct {
	Provider string        `config:"provider" enum:"ses,sendgrid,resend,mailgun,postmark" doc:"A mail provider: sets host, port and the provider's convention for the user name. What is given beside it wins."`
	Region   string        `config:"region" pattern:"[a-z0-9-]+" doc:"Region of the provider: of ses, such as eu-west-1; for mailgun, eu." example:"\"eu-west-1\""`
	Host     string        `config:"host" max:"260" doc:"Host of the SMTP server, or host:port. Required without a provider." example:"\"smtp.example.com\""`
	Port     int           `config:"port" default:"0" min:"0" max:"65535" doc:"Port. 0 means 587, with security = \"implicit\" 465, with \"none\" 25."`
	Security string        `config:"security" enum:"starttls,implicit,none" default:"starttls" doc:"How the connection is protected. starttls is never given up: a server that does not offer it is refused. none is for servers on the same machine or a private network."`
	Hello    string        `config:"hello" format:"host" default:"localhost" doc:"Name of this host in EHLO."`
	Timeout  time.Duration `config:"timeout" default:"2m" min:"1s" max:"30m" doc:"Greatest length of one attempt, from connecting to the last reply. The destination's own timeout bounds it too."`

	Username     string            `config:"username" doc:"User name. Without one no authentication is tried."`
	Password     string            `config:"password,secret" doc:"Password."`
	Mechanism    string            `config:"mechanism" enum:"auto,plain,login,cram-md5,scram-sha-256,xoauth2" default:"auto" doc:"SASL mechanism. auto takes the best that the server offers: scram-sha-256, plain, login, cram-md5; on a connection without TLS only those that do not show the password."`
	PlaintextOK  bool              `config:"allow_plaintext_password" default:"false" doc:"Let plain, login and xoauth2 send credentials over a connection without TLS."`
	OAuth2       *oauth2.Config    `config:"oauth2" doc:"Where access tokens for xoauth2 come from: client credentials, or the refresh token."`
	RefreshToken string            `config:"refresh_token,secret" doc:"Refresh token that a person granted; without one the client's own credentials are used."`
	TLS          *tlsconfig.Config `config:"tls" doc:"TLS settings."`

	MaxConnections        int           `config:"max_connections" default:"10" min:"1" max:"200" doc:"Most connections at once. They are never shared with another destination."`
	MessagesPerConnection int           `config:"messages_per_connection" default:"100" min:"0" max:"100000" doc:"Most messages over one connection; 0 means any number."`
	IdleTimeout           time.Duration `config:"idle_timeout" default:"30s" min:"1s" max:"10m" doc:"When an idle connection is closed."`

	From         string      `config:"from,required" doc:"Sender: an address, or a name and an address." example:"\"Acme Reports <reports@acme.example>\""`
	EnvelopeFrom string      `config:"envelope_from" doc:"Return path, where bounces go. Default: the address of from."`
	ReplyTo      []string    `config:"reply_to" max:"10" doc:"Where answers should go."`
	To           []string    `config:"to" max:"1000" doc:"Recipients."`
	CC           []string    `config:"cc" max:"1000" doc:"Recipients of copies."`
	BCC          []string    `config:"bcc" max:"1000" doc:"Recipients whom nobody sees."`
	Recipients   *Recipients `config:"recipients" doc:"Lets a delivery name its own recipients in its metadata."`

	Subject string            `config:"subject" default:"{{.Type | default \"delivery\"}} {{.DeliveryID}}" doc:"Template of the subject."`
	Text    string            `config:"text" doc:"Template (Go text/template) of the plain text body. Default: what was delivered (type, ids, time, file name, size, SHA-256), never the data; or, with html, the text of that."`
	HTML    string            `config:"html" doc:"Template (Go html/template, escaped by context) of the HTML body. Default: none, and without text the default body in HTML too."`
	Headers map[string]string `config:"headers" max:"50" doc:"Headers to add. Those that the transport sets cannot be." example:"{ \"X-SES-CONFIGURATION-SET\" = \"reports\" }"`

	Inline           []Inline     `config:"inline" max:"20" doc:"An image that the HTML body shows as <img src=\"cid:ID\">."`
	Attachments      []Attachment `config:"attachment" max:"10" doc:"A file made of the payload's data."`
	AttachmentsField string       `config:"attachments_field" doc:"Field of the data that lists further attachments: objects of name, content (base64) and, optionally, content_type." example:"\"attachments\""`
	ArtifactName     string       `config:"artifact_name" default:"{filename}" doc:"Template of the name under which an artifact is attached, with the placeholders of attachment names."`

	ListUnsubscribe *ListUnsubscribe `config:"list_unsubscribe" doc:"List-Unsubscribe header (RFC 2369, RFC 8058)."`
	DKIM            *DKIM            `config:"dkim" doc:"DKIM signature (RFC 6376). Providers sign by themselves."`
	Limits          Limits           `config:"limits" doc:"Limits, checked before anything is sent."`
}

// Recipients of a delivery's own.
type Recipients struct {
	Field          string   `config:"field" default:"email" doc:"Field of the metadata that holds an object with to, cc and bcc, each an address or a list of them."`
	AllowedDomains []string `config:"allowed_domains,required" min:"1" max:"1000" doc:"Domains that a delivery may name, exactly; \"*\" allows any. Those of the configuration are always allowed." example:"[\"acme.example\"]"`
	Add            bool     `config:"add" default:"false" doc:"Add to the recipients of the configuration instead of replacing them."`
}

// Inline is an image in the HTML body.
type Inline struct {
	ID          string `config:"id,required" pattern:"[A-Za-z0-9._-]{1,100}" doc:"Content id."`
	Name        string `config:"name,required" max:"255" doc:"File name; its extension gives the type."`
	Content     string `config:"content,required" doc:"The image, base64." example:"file(\"logo.png.b64\")"`
	ContentType string `config:"content_type" doc:"MIME type. Default: by extension."`
}

// Attachment is a file made of the payload's data.
type Attachment struct {
	Name        string `config:"name,required" doc:"Template of the file name; its extension gives the type. Placeholders are those of the other transports: {id}, {delivery_id}, {organization}, {destination}, {type}, {filename}, {ext}, {sha256}, {yyyy}, {mm}, {dd}, {hh}, {mi}, {ss}." example:"\"{type}-{delivery_id}.{ext}\""`
	Field       string `config:"field" doc:"Field of the data, with dots: report.pdf. Default: all of the data."`
	Encoding    string `config:"encoding" enum:"none,base64" default:"none" doc:"How the field is encoded. Without encoding, a text goes as it is and anything else as JSON."`
	ContentType string `config:"content_type" doc:"MIME type. Default: by extension."`
	Optional    bool   `config:"optional" default:"false" doc:"Leave the attachment out where the field is absent; otherwise the delivery fails for good."`
}

// ListUnsubscribe says how to unsubscribe.
type ListUnsubscribe struct {
	URL      string `config:"url" doc:"Template of an https URL." example:"\"https://acme.example/unsubscribe?d={{.DeliveryID | urlquery}}\""`
	Mailto   string `config:"mailto" format:"email" doc:"Address."`
	OneClick bool   `config:"one_click" default:"false" doc:"The URL unsubscribes by a POST (RFC 8058)."`
}

// DKIM says how to sign.
type DKIM struct {
	Domain   string `config:"domain,required" format:"host" doc:"Signing domain."`
	Selector string `config:"selector,required" format:"host" doc:"Selector of the key in DNS."`
	Key      string `config:"key,required,secret" format:"pem" doc:"Private key, RSA of at least 1024 bits or Ed25519."`
}

// Limits of one message.
type Limits struct {
	Total       schema.Size `config:"total" default:"25MiB" min:"1KiB" max:"150MiB" doc:"Greatest size of all attachments together."`
	Attachment  schema.Size `config:"attachment" default:"10MiB" min:"1KiB" max:"150MiB" doc:"Greatest size of one attachment."`
	Attachments int         `config:"attachments" default:"10" min:"0" max:"100" doc:"Most attachments."`
	Recipients  int         `config:"recipients" default:"50" min:"1" max:"1000" doc:"Most recipients."`
}
