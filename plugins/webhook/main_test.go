package main_test

import (
	"testing"

	"github.com/deliveryd/deliveryd/sdk/plugintest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	plugintest.Run(t, plugintest.Target{
		Command: []string{plugintest.Build(t, ".")},
		Config:  `{"url":"{{peer}}/hook","secret":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}`,
		Peer:    plugintest.NewHTTPPeer,
	})
}
