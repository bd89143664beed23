package sftp

import (
	"errors"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// What to do about a file that is there already.
const (
	existsFail      = "fail"
	existsSkip      = "skip"
	existsOverwrite = "overwrite"
)

// How to make sure that a file arrived.
const (
	verifySize   = "size"
	verifySHA256 = "sha256"
)

// Config is what a destination of type sftp may hold.
type Config struct {
	Server
	Jump []Server `config:"jump" max:"4" doc:"Hosts to go through, in order, as ssh's ProxyJump does. Each has credentials and host keys of its own. A target behind a jump host obeys the egress policy as well: its name must resolve here to addresses that are allowed, or be allowed by name."`

	Directory       string        `config:"directory" default:"." doc:"Directory to write into; relative to the login directory unless it begins with a slash. Placeholders as in filename." example:"\"/inbox/{organization}/{yyyy}-{mm}\""`
	Filename        string        `config:"filename" default:"{id}-{filename}" doc:"Name of the file. Placeholders: {id} (unique for each delivery and destination, the same for each attempt), {delivery_id} (shared by all destinations of a submission), {organization}, {destination}, {type}, {filename} (an artifact's name, else the type with its extension), {ext}, {sha256} (of the content), {yyyy} {mm} {dd} {hh} {mi} {ss} (when the delivery was accepted, UTC). What a placeholder brings cannot leave the directory: slashes, control characters and \\\"<>:|?* become _." example:"\"{yyyy}{mm}{dd}-{id}.{ext}\""`
	IfExists        string        `config:"if_exists" enum:"fail,skip,overwrite" default:"fail" doc:"What to do when the file is there already with other content: fail makes the delivery a dead letter, skip counts it as delivered, overwrite replaces the file. A file with the same content is an earlier attempt of the same delivery and always counts as delivered. Where the name holds {id}, or {delivery_id} and {destination}, only an earlier attempt of the same delivery can have written the file: other content, as encryption gives each attempt, is replaced. Unless it overwrites, the transport never replaces another's file on servers, such as OpenSSH's, whose rename refuses to."`
	MakeDirectories bool          `config:"make_directories" default:"true" doc:"Make directories that are missing."`
	Permissions     string        `config:"permissions" pattern:"0?[0-7]{3}" doc:"Permissions of the file, octal. Without it the server decides." example:"\"0640\""`
	Verify          string        `config:"verify" enum:"size,sha256" default:"size" doc:"How to check the file before it gets its final name: size asks the server, sha256 reads the whole file back. What goes on where an earlier attempt stopped is always read back."`
	Fsync           bool          `config:"fsync" default:"true" doc:"Ask the server to write the file to its disk before it gets its final name, where the server can (fsync@openssh.com)."`
	Resume          bool          `config:"resume" default:"true" doc:"Let an artifact that was cut go on at the next attempt where it stopped."`
	MaxConnections  int           `config:"max_connections" default:"4" min:"1" max:"64" doc:"Most connections at once, each with one file at a time."`
	ConnectTimeout  time.Duration `config:"connect_timeout" default:"20s" min:"100ms" max:"5m" doc:"Time for connecting and logging in, all hops together."`
	Timeout         time.Duration `config:"timeout" default:"0s" max:"24h" doc:"Greatest length of one attempt, where it should end before the daemon's own deadline; 0s: that alone."`
	Keepalive       time.Duration `config:"keepalive" default:"30s" min:"1s" max:"1h" doc:"How often an open connection is asked for a sign of life; without an answer until the next time it is closed."`
	IdleTimeout     time.Duration `config:"idle_timeout" default:"1m" min:"1s" max:"1h" doc:"How long a connection is kept for the next file."`
}

// Server is one SSH server with what it must show and what it is shown.
type Server struct {
	Host     string `config:"host,required" format:"host" doc:"Name or address of the server." example:"\"sftp.bank.example\""`
	Port     int    `config:"port" default:"22" min:"1" max:"65535" doc:"Its port."`
	Username string `config:"username,required" doc:"Who to log in as."`

	KnownHosts      string   `config:"known_hosts" doc:"Lines as in ssh's known_hosts, hashed names, @cert-authority and @revoked included; for a port other than 22 the name is written [name]:port. One of known_hosts, host_fingerprints and host_authorities is required: a server's key is never taken on trust." example:"file(\"known_hosts\")"`
	Fingerprints    []string `config:"host_fingerprints" max:"20" doc:"Fingerprints of host keys as ssh-keygen -l prints them." example:"[\"SHA256:uNiVztksCsDhcc0u9e8BrrkG8nTPnnTiR3hTcSSAfhI\"]"`
	HostAuthorities []string `config:"host_authorities" max:"20" doc:"Public keys of authorities whose host certificates are accepted for this host." example:"[\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI...\"]"`

	Password    string            `config:"password,secret" doc:"Password; also answers the prompts of keyboard-interactive that do not echo." example:"env(\"SFTP_PASSWORD\")"`
	Answers     map[string]string `config:"answers,secret" max:"10" doc:"Answers to other prompts of keyboard-interactive: a part of the prompt and the answer."`
	PrivateKey  string            `config:"private_key,secret" format:"pem" doc:"Private key, in OpenSSH's form or another PEM." example:"file(\"id_ed25519\")"`
	Passphrase  string            `config:"passphrase,secret" doc:"Passphrase of the private key."`
	Certificate string            `config:"certificate" doc:"OpenSSH certificate for the private key: the line of a -cert.pub file." example:"file(\"id_ed25519-cert.pub\")"`
	AgentSocket string            `config:"agent_socket" format:"path" doc:"Socket of an ssh-agent whose keys are tried. The plugin's process must be allowed to use it."`
}

// Validate checks what tags cannot say.
func (c *Config) Validate() transport.Diagnostics {
	d := c.check(nil)
	for i := range c.Jump {
		d = append(d, c.Jump[i].check(schema.At("jump").Index(i))...)
	}
	_, findings := parseTemplates(c)
	return append(d, findings...)
}

// check checks one server, which is at a path of the configuration.
func (s *Server) check(at schema.Path) (d transport.Diagnostics) {
	if s.KnownHosts == "" && len(s.Fingerprints) == 0 && len(s.HostAuthorities) == 0 {
		d = append(d, schema.Errorf(at.Attribute("known_hosts"), "no host key is given for %q", s.Host).
			WithDetail("Give known_hosts, host_fingerprints or host_authorities. `ssh-keyscan HOST` prints what a server shows: compare it with what its owner says."))
	}
	if _, finding := newHostKeys(s, at); finding != nil {
		d = append(d, *finding)
	}
	if s.Password == "" && s.PrivateKey == "" && s.AgentSocket == "" && len(s.Answers) == 0 {
		d = append(d, schema.Errorf(at.Attribute("username"), "no credentials are given for %q", s.Username).
			WithDetail("Give password, private_key, agent_socket or answers."))
	}
	if _, finding := s.signer(at); finding != nil {
		d = append(d, *finding)
	}
	return d
}

// signer is the private key with its certificate; nil where there is none.
func (s *Server) signer(at schema.Path) (ssh.Signer, *transport.Diagnostic) {
	wrong := func(name, format string, args ...any) *transport.Diagnostic {
		d := schema.Errorf(at.Attribute(name), format, args...)
		return &d
	}
	if s.PrivateKey == "" {
		if s.Certificate != "" {
			return nil, wrong("certificate", "a certificate without its private_key")
		}
		if s.Passphrase != "" {
			return nil, wrong("passphrase", "a passphrase without a private_key")
		}
		return nil, nil
	}
	key, finding := s.parseKey(wrong)
	if finding != nil || s.Certificate == "" {
		return key, finding
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s.Certificate))
	if err != nil {
		return nil, wrong("certificate", "not an OpenSSH certificate: want the line of a -cert.pub file")
	}
	certificate, ok := public.(*ssh.Certificate)
	if !ok {
		return nil, wrong("certificate", "a public key and no certificate: want the line of a -cert.pub file")
	}
	signer, err := ssh.NewCertSigner(certificate, key)
	if err != nil {
		return nil, wrong("certificate", "the certificate is for another key than private_key")
	}
	return signer, nil
}

// parseKey never passes on an error's text: it may quote the key.
func (s *Server) parseKey(wrong func(name, format string, args ...any) *transport.Diagnostic) (ssh.Signer, *transport.Diagnostic) {
	if s.Passphrase != "" {
		key, err := ssh.ParsePrivateKeyWithPassphrase([]byte(s.PrivateKey), []byte(s.Passphrase))
		if err != nil {
			return nil, wrong("passphrase", "the private key cannot be decrypted with the passphrase")
		}
		return key, nil
	}
	key, err := ssh.ParsePrivateKey([]byte(s.PrivateKey))
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		return nil, wrong("passphrase", "the private key is encrypted and no passphrase is given")
	}
	if err != nil {
		return nil, wrong("private_key", "not a private key that can be used: want RSA, ECDSA or Ed25519 in OpenSSH's or PKCS form")
	}
	return key, nil
}
