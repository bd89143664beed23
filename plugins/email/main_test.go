package main_test

import (
	"testing"

	"github.com/deliveryd/deliveryd/sdk/plugintest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	plugintest.Run(t, plugintest.Target{
		Command: []string{plugintest.Build(t, ".")},
		Config: `{"host":"{{peer}}","security":"none","from":"Kit <kit@acme.example>","to":["a@acme.example"],
			"attachment":[{"name":"data.json"}],"limits":{"total":"20MiB","attachment":"20MiB"}}`,
		Peer: plugintest.NewSMTPPeer,
	})
}
