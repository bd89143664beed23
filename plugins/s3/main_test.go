package main_test

import (
	"testing"

	"github.com/deliveryd/deliveryd/sdk/plugintest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	plugintest.Run(t, plugintest.Target{
		Command: []string{plugintest.Build(t, ".")},
		Config:  `{"bucket":"kit","endpoint":"{{peer}}","credentials":{"access_key_id":"AKIAKIT","secret_access_key":"secret-of-the-kit"}}`,
		Peer:    plugintest.NewS3Peer,
	})
}
