package main

import (
	"errors"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/internal/client"
	"github.com/deliveryd/deliveryd/daemon/internal/secret"
)

// remote are the flags of a command that talks to a running daemon.
type remote struct {
	address, token, organization string
	timeout                      time.Duration
	json                         bool
}

// defaultAddress is where a daemon listens that was told nothing else.
const defaultAddress = "127.0.0.1:8080"

func addRemote(cmd *cobra.Command) *remote {
	r := &remote{}
	flags := cmd.Flags()
	flags.StringVar(&r.address, "address", "", "where the daemon is: host:port or URL (default $DELIVERYD_ADDRESS, else "+defaultAddress+")")
	flags.StringVar(&r.token, "token", "", "token of an api_key (default $DELIVERYD_TOKEN, which other users cannot see in the process list)")
	flags.StringVar(&r.organization, "organization", "", "with a token of all organizations: the one that is meant")
	flags.DurationVar(&r.timeout, "timeout", answerWithin(cmd.Name()), "how long to wait for the daemon's answer")
	flags.BoolVar(&r.json, "json", false, "print the daemon's answer as JSON")
	return r
}

// answerWithin is how long a command waits by default. A reload asks the plugins
// about every destination, and waits for one that is at work.
func answerWithin(command string) time.Duration {
	if command == "reload" {
		return 15 * time.Minute
	}
	return time.Minute
}

func (r *remote) client() (*client.Client, error) {
	address := firstOf(r.address, os.Getenv("DELIVERYD_ADDRESS"), defaultAddress)
	token := firstOf(r.token, os.Getenv("DELIVERYD_TOKEN"))
	if token == "" {
		return nil, usageError{errors.New("a token is needed: set DELIVERYD_TOKEN, or give --token")}
	}
	c, err := client.New(client.Options{Address: address, Token: secret.New(token), Organization: r.organization, Timeout: r.timeout})
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
