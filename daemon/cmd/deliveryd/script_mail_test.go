package main

import (
	"os"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/deliveryd/deliveryd/sdk/plugintest/postfix"
)

// mailCommand runs a real mail server for a script:
//
//	mail start MAILBOX...   sets MAIL_PORT, MAIL_CA, MAIL_USER and MAIL_PASSWORD
//	mail await MAILBOX NAME   copies the first message that arrives to a file
//	mail count MAILBOX N   fails unless the mailbox holds so many messages
func mailCommand(t *testing.T) func(*testscript.TestScript, bool, []string) {
	servers := map[string]*postfix.Server{} // by mailbox; scripts use different ones
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) < 2 {
			ts.Fatalf("usage: mail start MAILBOX... | mail await MAILBOX FILE | mail count MAILBOX N")
		}
		switch args[0] {
		case "start":
			s := postfix.Start(t, args[1:]...)
			for _, mailbox := range args[1:] {
				servers[mailbox] = s
			}
			ts.Setenv("MAIL_PORT", strconv.Itoa(s.Port))
			ts.Setenv("MAIL_CA", s.CA)
			ts.Setenv("MAIL_USER", postfix.User)
			ts.Setenv("MAIL_PASSWORD", postfix.Password)
		case "await":
			s := servers[args[1]]
			poll(ts, "a message in "+args[1], func() bool { return len(s.Messages(args[1])) > 0 })
			ts.Check(copyFile(s.Messages(args[1])[0], ts.MkAbs(args[2])))
		case "count":
			if n := strconv.Itoa(len(servers[args[1]].Messages(args[1]))); n != args[2] {
				ts.Fatalf("%s messages in %s, want %s", n, args[1], args[2])
			}
		}
	}
}

func copyFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o600)
}
