package main

import (
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/deliveryd/deliveryd/sdk/plugintest/gate"
	"github.com/deliveryd/deliveryd/sdk/plugintest/openssh"
)

type gatesKey struct{}

// sshdCommand starts an OpenSSH server: sshd start. It sets SFTP_PORT, SFTP_USER,
// SFTP_HOME (where files arrive) and SFTP_HOST_KEY; the user's key is the file id.
func sshdCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || args[0] != "start" {
		ts.Fatalf("usage: sshd start")
	}
	server, err := openssh.Start(openssh.Options{})
	ts.Check(err)
	ts.Defer(server.Stop)
	key, err := server.PrivateKey()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("id"), []byte(key), 0o600))
	host, err := os.ReadFile(server.Path("host_ed25519.pub"))
	ts.Check(err)
	for name, value := range map[string]string{"SFTP_PORT": strconv.Itoa(server.Port), "SFTP_USER": server.User, "SFTP_HOME": server.Home, "SFTP_HOST_KEY": string(host)} {
		ts.Setenv(name, value)
	}
}

// gateCommand stands before a server, to catch a transfer in its middle:
//
//	gate start NAME URL BYTES    each connection is held after so many; sets the variable NAME to its port
//	gate await NAME              until a connection is held
//	gate open NAME
func gateCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: gate start|await|open NAME ...")
	}
	gates, name := ts.Value(gatesKey{}).(map[string]*gate.Gate), args[1]
	switch args[0] {
	case "start":
		target, err := url.Parse(args[2])
		ts.Check(err)
		limit, err := strconv.ParseInt(args[3], 10, 64)
		ts.Check(err)
		gates[name], err = gate.New(target.Host, limit)
		ts.Check(err)
		ts.Defer(gates[name].Close)
		ts.Setenv(name, strconv.Itoa(gates[name].Port))
	case "await":
		select {
		case <-gates[name].Held:
		case <-time.After(patience):
			ts.Fatalf("waited %v for a connection to stand still at %s", patience, name)
		}
	case "open":
		gates[name].Open()
	default:
		ts.Fatalf("no subcommand %q", args[0])
	}
}
