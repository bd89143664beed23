package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/deliveryd/deliveryd/sdk/plugintest/openssh"
	"github.com/deliveryd/deliveryd/sdk/plugintest/uploadbench"
)

// go test ./plugins/sftp -run '^$' -bench Upload -benchtime 1x -v -mib 1024 -rounds 5
var (
	benchMiB    = flag.Int64("mib", 256, "MiB to upload in BenchmarkUpload")
	benchRounds = flag.Int("rounds", 5, "how often the sides of BenchmarkUpload run in turn")
)

// BenchmarkUpload compares the plugin with the bare library and with OpenSSH's own
// sftp command. All have the server store the file (fsync).
func BenchmarkUpload(b *testing.B) {
	size := *benchMiB << 20
	server, err := openssh.Start(openssh.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(server.Stop)
	knownHosts, err := server.KnownHosts("host_ed25519")
	if err != nil {
		b.Fatal(err)
	}
	key, err := server.PrivateKey()
	if err != nil {
		b.Fatal(err)
	}
	config, err := json.Marshal(map[string]any{
		"host": "127.0.0.1", "port": server.Port, "username": server.User, "private_key": key, "known_hosts": knownHosts, "filename": "plugin", "if_exists": "overwrite",
	})
	if err != nil {
		b.Fatal(err)
	}
	plugin := uploadbench.Start(b, ".", string(config), size)
	library, command := libraryOf(b, server, key, size), commandOf(b, server, knownHosts, size)
	idle := plugin.Memory(b, "VmRSS")
	b.ResetTimer()
	uploadbench.Compare(b, *benchRounds, plugin,
		uploadbench.Side{Name: "plugin", Run: func(ctx context.Context, round int) error { return plugin.Upload(ctx, fmt.Sprint("dlv_", round)) }},
		uploadbench.Side{Name: "library", Run: library}, uploadbench.Side{Name: "command", Run: command})
	b.ReportMetric(float64(plugin.Memory(b, "VmHWM")-idle)/1024, "MiB-above-idle")
}

// libraryOf uploads on a connection that is there already, as the plugin does from
// its second file on.
func libraryOf(b *testing.B, server *openssh.Server, key string, size int64) func(context.Context, int) error {
	b.Helper()
	signer, err := ssh.ParsePrivateKey([]byte(key))
	if err != nil {
		b.Fatal(err)
	}
	conn, err := ssh.Dial("tcp", "127.0.0.1:"+strconv.Itoa(server.Port), &ssh.ClientConfig{
		User: server.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec // loopback, in a benchmark
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	client, err := sftp.NewClient(conn, sftp.UseConcurrentWrites(true))
	if err != nil {
		b.Fatal(err)
	}
	return func(context.Context, int) error {
		f, err := client.Create("library")
		if err != nil {
			return err
		}
		_, err = f.ReadFromWithConcurrency(uploadbench.File(size), 64)
		return errors.Join(err, f.Sync(), f.Close())
	}
}

func commandOf(b *testing.B, server *openssh.Server, knownHosts string, size int64) func(context.Context, int) error {
	b.Helper()
	program, err := openssh.Program("sftp", "openssh-client")
	if err != nil {
		b.Fatal(err)
	}
	content, err := os.Create(server.Path("content"))
	if err != nil {
		b.Fatal(err)
	}
	_, err = content.ReadFrom(uploadbench.File(size))
	if err := errors.Join(err, content.Close(), os.WriteFile(server.Path("known_hosts"), []byte(knownHosts), 0o600),
		os.WriteFile(server.Path("batch"), []byte("put -f "+server.Path("content")+" command\n"), 0o600)); err != nil {
		b.Fatal(err)
	}
	return func(ctx context.Context, _ int) error {
		out, err := exec.CommandContext(ctx, program, "-q", "-P", strconv.Itoa(server.Port), "-i", server.Path("id"),
			"-o", "UserKnownHostsFile="+server.Path("known_hosts"), "-o", "BatchMode=yes", "-b", server.Path("batch"), server.User+"@127.0.0.1").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	}
}
