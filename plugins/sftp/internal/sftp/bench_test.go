package sftp

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/pkg/sftp"
)

var size = flag.Int("sftp.size", 256<<20, "bytes of the file that BenchmarkUpload sends")

// BenchmarkUpload sends a file to OpenSSH's server: as the transport does, with the
// size checked, stored and renamed; with the bare library; and with OpenSSH's
// own sftp command.
func BenchmarkUpload(b *testing.B) {
	s := startSSHD(b, "")
	content := random(*size)
	c := s.config(b)
	c.IfExists = existsOverwrite
	d := opened(b, c)
	b.Run("transport", func(b *testing.B) {
		b.SetBytes(int64(*size))
		for i := range b.N {
			if _, err := d.Upload(b.Context(), artifact(fmt.Sprint("dlv_", i), content), bytes.NewReader(content)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("library", func(b *testing.B) {
		b.SetBytes(int64(*size))
		clients, err := d.dialer.connect(b.Context())
		must(b, err)
		defer closeAll(clients)
		client, err := sftp.NewClient(clients[0], sftp.UseConcurrentWrites(true))
		must(b, err)
		for range b.N {
			f, err := client.Create("library")
			must(b, err)
			if _, err := f.ReadFrom(bytes.NewReader(content)); err != nil {
				b.Fatal(err)
			}
			must(b, f.Close())
		}
	})
	b.Run("command", func(b *testing.B) {
		b.SetBytes(int64(*size))
		must(b, os.WriteFile(s.path("content"), content, 0o600))
		must(b, os.WriteFile(s.path("known_hosts"), []byte(s.knownHosts(b, "host_ed25519")), 0o600))
		must(b, os.WriteFile(s.path("batch"), []byte("put "+s.path("content")+" command\n"), 0o600))
		for range b.N {
			out, err := exec.CommandContext(b.Context(), program(b, "sftp", "openssh-client"), "-q", "-P", strconv.Itoa(s.port), "-i", s.path("id"),
				"-o", "UserKnownHostsFile="+s.path("known_hosts"), "-o", "BatchMode=yes", "-b", s.path("batch"), s.user+"@127.0.0.1").CombinedOutput()
			if err != nil {
				b.Fatalf("%v\n%s", err, out)
			}
		}
	})
}
