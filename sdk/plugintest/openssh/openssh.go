// Package openssh runs a private OpenSSH server for tests of transports that log
// in by SSH: on a free port of the loopback interface, with keys, configuration
// and a directory of its own. It needs the Debian packages openssh-server and
// openssh-client, and no rights.
//
// It is for tests only, and must never touch the system's own server or keys.
package openssh

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Passphrase of the key "locked".
const Passphrase = "open sesame"

// starts is how often a port is chosen that somebody else may take meanwhile.
const starts = 5

// Options of a Server.
type Options struct {
	// Before is run by the shell ahead of the server, such as "ulimit -f 2048; ".
	// Defaults to nothing.
	Before string
	// Lines stand in sshd_config ahead of the server's own. Defaults to none.
	Lines []string
	// Home is where files arrive. Defaults to a directory that Stop removes.
	Home string
}

// Server is a running OpenSSH server. These keys are at Path: host_ed25519 (with
// a certificate of the authority ca), host_ecdsa, host_rsa; of the user, id (no
// passphrase), locked (Passphrase) and certified (with a certificate of ca);
// stranger, which nobody knows. Public ones end in .pub.
type Server struct {
	Port int
	User string
	// Home is where files arrive.
	Home string

	options Options
	binary  string
	dir     string
	cmd     *exec.Cmd
	stopped chan struct{} // closed by Stop

	mu  sync.Mutex
	log bytes.Buffer
}

// Start runs a server. The caller must Stop it.
func Start(o Options) (_ *Server, err error) {
	binary, err := Program("sshd", "openssh-server")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "sshd-") // the server's user may not enter a test's own
	if err != nil {
		return nil, err
	}
	s := &Server{options: o, binary: binary, dir: dir, Home: o.Home, stopped: make(chan struct{})}
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()
	if s.Home == "" {
		s.Home = s.Path("home")
	}
	if err := s.makeUser(); err != nil {
		return nil, err
	}
	if err := s.makeKeys(); err != nil {
		return nil, err
	}
	for range starts {
		if listens, err := s.start(); listens || err != nil {
			return s, err
		}
	}
	return nil, fmt.Errorf("sshd does not start:\n%s", s.Log())
}

// Program finds a program of OpenSSH.
func Program(name, debianPackage string) (string, error) {
	for _, path := range []string{"/usr/sbin/" + name, "/usr/bin/" + name, "/usr/local/sbin/" + name} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not there: install the Debian package %s; make deps does", name, debianPackage)
}

func (s *Server) makeUser() error {
	who, err := user.Current()
	if err != nil {
		return err
	}
	s.User = who.Username
	if err := errors.Join(os.Chmod(s.dir, 0o755), os.MkdirAll(s.Home, 0o755)); err != nil || os.Geteuid() != 0 {
		return err
	}
	// Root may do everything, so permissions would not be seen. sshd wants its
	// directory when started by root.
	s.User = "nobody"
	out, err := exec.Command("chown", s.User, s.Home).CombinedOutput() //nolint:noctx // ends by itself
	return errors.Join(err, errorOf(out, err), os.MkdirAll("/run/sshd", 0o755))
}

func errorOf(out []byte, err error) error {
	if err == nil {
		return nil
	}
	return errors.New(string(out))
}

// Keygen runs ssh-keygen.
func (s *Server) Keygen(args ...string) error {
	program, err := Program("ssh-keygen", "openssh-client")
	if err != nil {
		return err
	}
	out, err := exec.Command(program, append([]string{"-q"}, args...)...).CombinedOutput() //nolint:noctx // ends by itself
	return errors.Join(err, errorOf(out, err))
}

// Path of a file of the server.
func (s *Server) Path(name string) string { return filepath.Join(s.dir, name) }

func (s *Server) makeKeys() error {
	for name, args := range map[string][]string{
		"host_ed25519": {"-t", "ed25519"}, "host_ecdsa": {"-t", "ecdsa"}, "host_rsa": {"-t", "rsa", "-b", "1024"}, // few bits are quick to find
		"id": {"-t", "ed25519"}, "locked": {"-t", "ecdsa"}, "certified": {"-t", "ed25519"}, "stranger": {"-t", "ed25519"}, "ca": {"-t", "ed25519"},
	} {
		passphrase := ""
		if name == "locked" {
			passphrase = Passphrase
		}
		if err := s.Keygen(append(args, "-N", passphrase, "-f", s.Path(name))...); err != nil {
			return err
		}
	}
	var authorized []byte
	for _, name := range []string{"id.pub", "locked.pub"} {
		text, err := os.ReadFile(s.Path(name))
		if err != nil {
			return err
		}
		authorized = append(authorized, text...)
	}
	return errors.Join(
		s.Keygen("-s", s.Path("ca"), "-I", "user", "-n", s.User, s.Path("certified.pub")),
		s.Keygen("-s", s.Path("ca"), "-I", "host", "-h", "-n", "127.0.0.1,localhost", s.Path("host_ed25519.pub")),
		os.WriteFile(s.Path("authorized_keys"), authorized, 0o644), //nolint:gosec // the server's user reads it
	)
}

func (s *Server) configure() error {
	// Of two lines for one thing the server takes the first.
	lines := slices.Concat(s.options.Lines, []string{
		"ListenAddress 127.0.0.1", fmt.Sprint("Port ", s.Port), "PidFile none", "UsePAM no", "StrictModes no", "PasswordAuthentication no",
		"KbdInteractiveAuthentication no", "AuthorizedKeysFile " + s.Path("authorized_keys"), "TrustedUserCAKeys " + s.Path("ca.pub"),
		"HostKey " + s.Path("host_ed25519"), "HostKey " + s.Path("host_ecdsa"), "HostKey " + s.Path("host_rsa"),
		"HostCertificate " + s.Path("host_ed25519-cert.pub"), "MaxStartups 100", "Subsystem sftp internal-sftp -d " + s.Home,
	})
	return os.WriteFile(s.Path("sshd_config"), []byte(strings.Join(lines, "\n")+"\n"), 0o644) //nolint:gosec // no secret in it
}

// start reports whether the server listens; its port may have been taken meanwhile.
func (s *Server) start() (listens bool, err error) {
	if s.Port, err = freePort(); err != nil {
		return false, err
	}
	if err := s.configure(); err != nil {
		return false, err
	}
	out, in, err := os.Pipe()
	if err != nil {
		return false, err
	}
	s.cmd = exec.Command("/bin/sh", "-c", s.options.Before+`exec "$@"`, "sh", s.binary, "-D", "-e", "-f", s.Path("sshd_config")) //nolint:noctx // Stop ends it
	s.cmd.Stderr = in
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = s.startOnOwnThread()
	_ = in.Close()
	if err != nil {
		_ = out.Close()
		s.cmd = nil
		return false, err
	}
	said := make(chan bool, 1)
	go s.follow(out, said) // to the end of the last session, which outlives the server
	if <-said {
		return true, nil
	}
	_ = s.cmd.Wait()
	s.cmd = nil
	return false, nil
}

// startOnOwnThread starts the server from a thread that lives until Stop: the
// kernel sends Pdeathsig when the thread ends that started a process.
func (s *Server) startOnOwnThread() error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		started <- s.cmd.Start()
		<-s.stopped
	}()
	return <-started
}

// follow keeps what the server says, and tells whether it listens.
func (s *Server) follow(out *os.File, listens chan<- bool) {
	defer func() { _ = out.Close() }()
	told := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		s.mu.Lock()
		_, _ = s.log.Write(append(lines.Bytes(), '\n'))
		s.mu.Unlock()
		if !told && strings.Contains(lines.Text(), "Server listening") {
			told = true
			listens <- true
		}
	}
	if !told {
		listens <- false
	}
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // does not wait
	if err != nil {
		return 0, err
	}
	address, _ := listener.Addr().(*net.TCPAddr)
	return address.Port, listener.Close()
}

// KnownHosts is the line of known_hosts for one of the host keys, such as
// host_ed25519.
func (s *Server) KnownHosts(key string) (string, error) {
	text, err := os.ReadFile(s.Path(key + ".pub"))
	return fmt.Sprintf("[127.0.0.1]:%d %s", s.Port, text), err
}

// PrivateKey is the user's key id.
func (s *Server) PrivateKey() (string, error) {
	text, err := os.ReadFile(s.Path("id"))
	return string(text), err
}

// Log is what the server has said.
func (s *Server) Log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// Stop ends the server and removes what it holds.
func (s *Server) Stop() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
	close(s.stopped)
	_ = os.RemoveAll(s.dir)
}
