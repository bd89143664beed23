package main_test

import (
	"fmt"
	"testing"

	"github.com/deliveryd/deliveryd/plugins/sftp/internal/peer"
	"github.com/deliveryd/deliveryd/sdk/plugintest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	fingerprint, err := peer.Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	plugintest.Run(t, plugintest.Target{
		Command: []string{plugintest.Build(t, ".")},
		Config:  fmt.Sprintf(`{"host":"127.0.0.1","port":{{peer}},"username":%q,"password":%q,"host_fingerprints":[%q],"if_exists":"overwrite"}`, peer.User, peer.Password, fingerprint),
		Peer: func() (plugintest.Peer, error) {
			server, err := peer.New()
			if err != nil {
				return nil, err
			}
			return server, nil
		},
	})
}
