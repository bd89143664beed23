package sftp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// hostKeys decides whether a server is the one that was meant.
type hostKeys struct {
	fingerprints []string
	authorities  []string            // keys in wire form
	known        ssh.HostKeyCallback // nil without known_hosts
	certificates bool                // host certificates may be accepted
}

// hostKeyError is a server that showed another key than it should.
type hostKeyError struct{ err error }

func (e *hostKeyError) Error() string { return e.err.Error() }
func (e *hostKeyError) Unwrap() error { return e.err }

func newHostKeys(s *Server, at schema.Path) (*hostKeys, *transport.Diagnostic) {
	h := &hostKeys{}
	wrong := func(path schema.Path, format string, args ...any) *transport.Diagnostic {
		d := schema.Errorf(path, format, args...)
		return &d
	}
	for i, text := range s.Fingerprints {
		if !strings.HasPrefix(text, "SHA256:") || len(text) != len("SHA256:")+43 {
			return nil, wrong(at.Attribute("host_fingerprints").Index(i), "not a fingerprint: want SHA256: and 43 characters, as ssh-keygen -l prints it")
		}
		h.fingerprints = append(h.fingerprints, text)
	}
	for i, text := range s.HostAuthorities {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
		if err != nil {
			return nil, wrong(at.Attribute("host_authorities").Index(i), "not a public key: want ssh-ed25519 AAAA... or the like")
		}
		h.authorities = append(h.authorities, string(key.Marshal()))
	}
	h.certificates = len(h.authorities) > 0
	if s.KnownHosts == "" {
		return h, nil
	}
	if err := h.readKnownHosts(s.KnownHosts); err != nil {
		return nil, wrong(at.Attribute("known_hosts"), "%v", err)
	}
	return h, nil
}

// readKnownHosts hands the text to package knownhosts, which only reads files.
func (h *hostKeys) readKnownHosts(text string) error {
	lines := 0
	for rest := []byte(text); ; lines++ {
		marker, _, _, _, next, err := ssh.ParseKnownHosts(rest)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("entry %d cannot be read: want a line as in ssh's known_hosts", lines+1)
		}
		h.certificates = h.certificates || marker == "cert-authority"
		rest = next
	}
	if lines == 0 {
		return errors.New("it holds no entry: want a line as in ssh's known_hosts")
	}
	file, err := os.CreateTemp("", "known-hosts-")
	if err != nil {
		return fmt.Errorf("reading it: %w", err)
	}
	defer func() { _ = os.Remove(file.Name()) }()
	if _, err := file.WriteString(text); err != nil {
		return errors.Join(fmt.Errorf("reading it: %w", err), file.Close())
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("reading it: %w", err)
	}
	h.known, err = knownhosts.New(file.Name())
	if err != nil {
		return errors.New(strings.ReplaceAll(err.Error(), file.Name(), "line "))
	}
	return nil
}

// check is an ssh.HostKeyCallback.
func (h *hostKeys) check(address string, remote net.Addr, key ssh.PublicKey) error {
	err := h.verdict(address, remote, key)
	if err == nil {
		return nil
	}
	shown := key
	if certificate, ok := key.(*ssh.Certificate); ok {
		shown = certificate.Key
	}
	return &hostKeyError{fmt.Errorf("the server at %s shows the host key %s (%s), which is not the one that was given: %w", address, ssh.FingerprintSHA256(shown), shown.Type(), err)}
}

func (h *hostKeys) verdict(address string, remote net.Addr, key ssh.PublicKey) error {
	if _, ok := key.(*ssh.Certificate); ok && len(h.authorities) > 0 {
		checker := ssh.CertChecker{IsHostAuthority: func(authority ssh.PublicKey, _ string) bool {
			return slices.Contains(h.authorities, string(authority.Marshal()))
		}}
		err := checker.CheckHostKey(address, remote, key)
		if err == nil || h.known == nil {
			return err
		}
	}
	if slices.Contains(h.fingerprints, ssh.FingerprintSHA256(key)) {
		return nil
	}
	if h.known == nil {
		return errors.New("no fingerprint matches")
	}
	var unknown *knownhosts.KeyError
	if err := h.known(address, remote, key); errors.As(err, &unknown) && len(unknown.Want) == 0 {
		return fmt.Errorf("known_hosts has no entry for %s", knownhosts.Normalize(address))
	} else if err != nil {
		return errors.New(withoutPath(err.Error()))
	}
	return nil
}

// withoutPath cuts what package knownhosts says of its file, which is gone.
func withoutPath(text string) string {
	before, _, _ := strings.Cut(text, " /")
	return before
}

// probe is a key that nobody has: what known_hosts wants instead is what the
// server should be asked for.
type probe struct{}

func (probe) Type() string { return "ssh-ed25519" }
func (probe) Marshal() []byte {
	return ssh.Marshal(struct{ Name, Key string }{"ssh-ed25519", strings.Repeat("\x00", 32)})
}
func (probe) Verify([]byte, *ssh.Signature) error { return errors.New("not a key") }

// choices are the algorithms to ask a server for, one list for each try: a server
// shows one key only, the first that both sides can, so one that is not known
// would hide one that is. Fingerprints do not say of what kind a key is, so each
// kind has its turn.
func (h *hostKeys) choices(address string) [][]string {
	var certificates []string
	if h.certificates {
		certificates = []string{ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01, ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01}
	}
	var wanted []string
	if h.known != nil {
		var err *knownhosts.KeyError
		if errors.As(h.known(address, &net.TCPAddr{IP: net.IPv4zero}, probe{}), &err) {
			for _, key := range err.Want {
				wanted = append(wanted, algorithmsOf(key.Key.Type())...)
			}
		}
	}
	if len(h.fingerprints) == 0 {
		return [][]string{append(certificates, wanted...)}
	}
	return [][]string{
		append(append(certificates, wanted...), ssh.KeyAlgoED25519),
		{ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521},
		algorithmsOf(ssh.KeyAlgoRSA),
	}
}

// algorithmsOf are the signature algorithms of a type of key; SHA-1 is not among
// them.
func algorithmsOf(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}
