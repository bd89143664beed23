package sftp

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/deliveryd/deliveryd/plugins/sftp/internal/peer"
	"github.com/deliveryd/deliveryd/sdk/egress"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

func TestWaysToLogIn(t *testing.T) {
	t.Parallel()
	s := startSSHD(t, "")
	agent := s.agent(t)
	for name, change := range map[string]func(*Config){
		"key":         func(*Config) {},
		"passphrase":  func(c *Config) { c.PrivateKey, c.Passphrase = s.read(t, "locked"), "open sesame" },
		"certificate": func(c *Config) { c.PrivateKey, c.Certificate = s.read(t, "certified"), s.read(t, "certified-cert.pub") },
		"agent":       func(c *Config) { c.PrivateKey, c.AgentSocket = "", agent },
	} {
		c := s.config(t)
		change(c)
		if _, err := opened(t, c).Deliver(t.Context(), order("dlv_"+name, "x")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := s.config(t)
	c.PrivateKey = s.read(t, "stranger")
	_, err := opened(t, c).Deliver(t.Context(), order("dlv_1", "x"))
	wantClass(t, err, transport.ClassAuth, "ssh.auth")
	c = s.config(t)
	c.AgentSocket = s.Path("no.socket")
	_, err = opened(t, c).Deliver(t.Context(), order("dlv_1", "x"))
	wantClass(t, err, transport.ClassConfig, "ssh.agent")
}

// agent starts an ssh-agent that holds the key id.
func (s *sshd) agent(t *testing.T) string {
	t.Helper()
	socket := s.Path("agent.socket")
	ctx, cancel := context.WithCancel(context.Background())
	command := exec.CommandContext(ctx, program(t, "ssh-agent", "openssh-client"), "-D", "-a", socket)
	out, err := command.StdoutPipe()
	must(t, err)
	must(t, command.Start())
	t.Cleanup(func() {
		cancel()
		_ = command.Wait()
	})
	_, err = out.Read(make([]byte, 1)) // it says where it listens once it does
	must(t, err)
	add := exec.CommandContext(t.Context(), program(t, "ssh-add", "openssh-client"), s.Path("id"))
	add.Env = []string{"SSH_AUTH_SOCK=" + socket}
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("ssh-add: %v\n%s", err, out)
	}
	return socket
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	fingerprint, err := peer.Fingerprint()
	must(t, err)
	for name, test := range map[string]struct {
		passwordOff bool
		change      func(*Config)
		code        string // empty: it works
	}{
		"password":             {false, func(*Config) {}, ""},
		"keyboard-interactive": {true, func(c *Config) { c.Answers = map[string]string{"CODE": peer.Code} }, ""},
		"no answer":            {true, func(*Config) {}, "ssh.auth"},
		"wrong password":       {false, func(c *Config) { c.Password = "nonsense" }, "ssh.auth"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, err := peer.New()
			must(t, err)
			t.Cleanup(server.Close)
			server.PasswordOff = test.passwordOff
			c := (&sshd{}).passwordConfig(server, fingerprint)
			test.change(c)
			_, err = opened(t, c).Deliver(t.Context(), order("dlv_1", "x"))
			if test.code != "" {
				wantClass(t, err, transport.ClassAuth, test.code)
				if strings.Contains(err.Error(), c.Password) {
					t.Errorf("the error holds the password: %v", err)
				}
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

func (*sshd) passwordConfig(server *peer.Server, fingerprint string) *Config {
	return &Config{
		Server:    Server{Host: "127.0.0.1", Port: server.Port(), Username: peer.User, Password: peer.Password, Fingerprints: []string{fingerprint}},
		Directory: ".", Filename: "{id}", IfExists: existsOverwrite, MaxConnections: 2, ConnectTimeout: patience, Keepalive: patience, IdleTimeout: patience,
	}
}

// OpenSSH's own password and keyboard-interactive (by PAM), where the server can
// have users of its own.
func TestPasswordsOfOpenSSH(t *testing.T) {
	t.Parallel()
	if !mayMount(t) {
		t.Log("not as root: TestPasswords has another server")
		return
	}
	const password = "correct horse"
	dir := t.TempDir()
	hash, err := exec.CommandContext(t.Context(), "openssl", "passwd", "-6", password).Output()
	must(t, err)
	must(t, writeFile(filepath.Join(dir, "shadow"), "nobody:"+strings.TrimSpace(string(hash))+":19000:0:99999:7:::\n"))
	must(t, writeFile(filepath.Join(dir, "pam"), "auth required pam_unix.so nodelay\naccount required pam_unix.so\nsession required pam_permit.so\n"))
	before := mounting("mount --bind "+filepath.Join(dir, "shadow")+" /etc/shadow", "mount --bind "+filepath.Join(dir, "pam")+" /etc/pam.d/sshd")
	for way, lines := range map[string][]string{
		"password":             {"PasswordAuthentication yes", "AuthenticationMethods password"},
		"keyboard-interactive": {"UsePAM yes", "KbdInteractiveAuthentication yes", "AuthenticationMethods keyboard-interactive"},
	} {
		s := startSSHD(t, before, lines...)
		c := s.config(t)
		c.PrivateKey, c.Password = "", password
		if _, err := opened(t, c).Deliver(t.Context(), order("dlv_1", "x")); err != nil {
			t.Errorf("%s: %v", way, err)
		}
		if !strings.Contains(s.Log(), "Accepted "+way) {
			t.Errorf("not by %s:\n%s", way, s.Log())
		}
		c.Password = "wrong"
		_, err := opened(t, c).Deliver(t.Context(), order("dlv_2", "x"))
		wantClass(t, err, transport.ClassAuth, "ssh.auth")
	}
}

func TestHostKeys(t *testing.T) {
	t.Parallel()
	s := startSSHD(t, "")
	fingerprint := func(key string) string {
		out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-l", "-f", s.Path(key+".pub")).Output()
		must(t, err)
		return strings.Fields(string(out))[1]
	}
	must(t, writeFile(s.Path("hashed"), s.knownHosts(t, "host_rsa")))
	must(t, s.Keygen("-H", "-f", s.Path("hashed")))
	known := func(lines ...string) func(*Config) {
		return func(c *Config) { c.KnownHosts = strings.Join(lines, "\n") }
	}
	for name, change := range map[string]func(*Config){
		"ed25519":     known(s.knownHosts(t, "host_ed25519")),
		"ecdsa":       known("# a comment", s.knownHosts(t, "host_ecdsa")),
		"rsa":         known(s.knownHosts(t, "host_rsa")),
		"hashed":      known(s.read(t, "hashed")),
		"authority":   known(fmt.Sprintf("@cert-authority [127.0.0.*]:%d %s", s.Port, s.read(t, "ca.pub"))),
		"fingerprint": func(c *Config) { c.KnownHosts, c.Fingerprints = "", []string{fingerprint("host_ed25519")} },
		"fingerprints": func(c *Config) {
			c.KnownHosts, c.Fingerprints = "", []string{fingerprint("stranger"), fingerprint("host_rsa")}
		},
		"ecdsa's":     func(c *Config) { c.KnownHosts, c.Fingerprints = "", []string{fingerprint("host_ecdsa")} },
		"authorities": func(c *Config) { c.KnownHosts, c.HostAuthorities = "", []string{s.read(t, "ca.pub")} },
	} {
		c := s.config(t)
		change(c)
		if _, err := opened(t, c).Deliver(t.Context(), order("dlv_"+name, "x")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	stranger := fmt.Sprintf("[127.0.0.1]:%d %s", s.Port, s.read(t, "stranger.pub"))
	for name, change := range map[string]func(*Config){
		"changed":             known(stranger),
		"another host":        known("other.example " + s.read(t, "host_ed25519.pub")),
		"revoked":             known(s.knownHosts(t, "host_ed25519"), "@revoked * "+s.read(t, "host_ed25519.pub")),
		"another authority":   func(c *Config) { c.KnownHosts, c.HostAuthorities = "", []string{s.read(t, "stranger.pub")} },
		"strange authority":   known("@cert-authority * " + s.read(t, "stranger.pub")),
		"strange fingerprint": func(c *Config) { c.KnownHosts, c.Fingerprints = "", []string{fingerprint("stranger")} },
	} {
		c := s.config(t)
		change(c)
		d := opened(t, c)
		_, err := d.Deliver(t.Context(), order("dlv_1", "x"))
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
		wantClass(t, err, transport.ClassConfig, "ssh.host_key")
	}
}

func TestJumpHosts(t *testing.T) {
	t.Parallel()
	s, bastion := startSSHD(t, ""), startSSHD(t, "", "AllowTcpForwarding yes")
	c := s.config(t)
	c.Jump = []Server{bastion.config(t).Server, bastion.config(t).Server}
	if _, err := opened(t, c).Deliver(t.Context(), order("dlv_1", "x")); err != nil {
		t.Fatal(err)
	}
	if s.files(t)["dlv_1-order.paid.json"] != "x" || strings.Count(bastion.Log(), "Accepted publickey") != 2 {
		t.Errorf("files %v; log of the jump host:\n%s", s.files(t), bastion.Log())
	}
	// The target is dialled by the jump host, and must be allowed all the same.
	c.Jump, c.Host, c.KnownHosts = c.Jump[:1], "127.0.0.2", fmt.Sprintf("[127.0.0.2]:%d %s", s.Port, s.read(t, "host_ed25519.pub"))
	for name, test := range map[string]struct {
		policy egress.Policy
		class  transport.Class
		code   string
	}{
		"neither its address nor its name": {egress.Policy{AllowCIDRs: []string{"127.0.0.1/32"}}, transport.ClassConfig, "egress.blocked"},
		// Nobody listens at this address, which only the jump host finds out.
		"its name": {egress.Policy{AllowCIDRs: []string{"127.0.0.1/32"}, AllowHosts: []string{"127.0.0.2"}}, transport.ClassUnavailable, "ssh.jump"},
	} {
		d, err := openFor(t, c, test.policy)
		must(t, err)
		t.Cleanup(func() { _ = d.Close(context.Background()) })
		_, err = d.Deliver(t.Context(), order("dlv_2", "x"))
		t.Log(name)
		wantClass(t, err, test.class, test.code)
	}
}

func TestTestConnection(t *testing.T) {
	t.Parallel()
	s := startSSHD(t, "")
	c := s.config(t)
	c.Directory = "{organization}/deep"
	check := func(c *Config, failing string, names ...string) {
		t.Helper()
		steps := opened(t, c).TestConnection(t.Context(), false)
		var got []string
		for i, step := range steps {
			got = append(got, step.Name)
			if failed := step.Err != nil; failed != (i == len(steps)-1 && failing != "") {
				t.Errorf("%s: %v", step.Name, step.Err)
			}
			if step.Err != nil {
				wantClass(t, step.Err, transport.ClassConfig, failing)
			}
		}
		if strings.Join(got, " ") != strings.Join(names, " ") {
			t.Errorf("steps %v, want %v", got, names)
		}
	}
	check(c, "", "dns", "tcp", "auth", "permission")
	c.MakeDirectories = false
	check(c, "sftp.no_such_file", "dns", "tcp", "auth", "permission")
	c = s.config(t)
	c.Directory = "/root-of-nothing"
	if s.User == "nobody" {
		check(c, "sftp.permission_denied", "dns", "tcp", "auth", "permission")
	}
	c.KnownHosts = "other.example " + s.read(t, "host_rsa.pub")
	check(c, "ssh.host_key", "dns", "tcp", "auth")
	if files, _ := filepath.Glob(filepath.Join(s.Home, "*")); len(files) != 0 {
		t.Errorf("left over: %v", files)
	}
}
