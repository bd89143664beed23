package postfix

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// StartWithTokens is Start with Dovecot as the judge of credentials: beside the
// password it takes the tokens that introspection (RFC 7662), a URL, says are active
// and whose username is User. It needs the Debian package dovecot-core, too.
func StartWithTokens(t testing.TB, introspection string, names ...string) *Server {
	t.Helper()
	s := prepare(t, names)
	s.dovecot(t, introspection)
	main, err := os.OpenFile(filepath.Join(s.Dir, "etc/main.cf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintf(main, "smtpd_sasl_type = dovecot\nsmtpd_sasl_path = %s/etc/auth\n", s.Dir)
	if err := errors.Join(err, main.Close()); err != nil {
		t.Fatal(err)
	}
	s.run(t)
	return s
}

// dovecot runs Dovecot's authentication, and nothing else of it.
func (s *Server) dovecot(t testing.TB, introspection string) {
	t.Helper()
	for name, text := range map[string]string{
		"etc/dovecot.conf": fmt.Sprintf(dovecotConf, s.Dir), "etc/oauth2.conf": fmt.Sprintf(oauth2Conf, introspection),
		"etc/users": User + ":{PLAIN}" + Password + "\n",
	} {
		if err := os.WriteFile(filepath.Join(s.Dir, name), []byte(text), 0o644); err != nil { //nolint:gosec // its processes are not root's
			t.Fatal(err)
		}
	}
	daemon := exec.Command("dovecot", "-F", "-c", s.Dir+"/etc/dovecot.conf") //nolint:noctx // it ends with the test, with its children
	daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-daemon.Process.Pid, syscall.SIGKILL) // it has nothing to put in order
		_ = daemon.Wait()
	})
	deadline := time.Now().Add(time.Minute)
	for {
		if _, err := os.Stat(s.Dir + "/etc/auth"); err == nil {
			return
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(s.Dir + "/data/dovecot.log")
			t.Fatalf("Dovecot does not listen\n%s", text)
		}
		<-time.After(20 * time.Millisecond)
	}
}

const dovecotConf = `base_dir = %[1]s/dovecot
log_path = %[1]s/data/dovecot.log
protocols =
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login cram-md5 scram-sha-256 xoauth2
auth_verbose = yes
auth_failure_delay = 0 secs
passdb {
  driver = oauth2
  mechanisms = xoauth2
  args = %[1]s/etc/oauth2.conf
}
passdb {
  driver = passwd-file
  mechanisms = plain login cram-md5 scram-sha-256
  args = %[1]s/etc/users
}
userdb {
  driver = static
  args = uid=65534 gid=65534 home=/nonexistent
}
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service auth {
  unix_listener %[1]s/etc/auth {
    mode = 0666
  }
}
`

const oauth2Conf = `introspection_mode = post
introspection_url = %s
username_attribute = username
active_attribute = active
active_value = true
`
