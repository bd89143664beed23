package main_test

import (
	"testing"

	"github.com/deliveryd/deliveryd/sdk/plugintest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	plugintest.Run(t, plugintest.Target{
		Command: []string{plugintest.Build(t, ".")},
		Config:  `{"secret":"never-to-be-seen","outcome":[{"match":"nothing-matches","class":"permanent"}]}`,
	})
}
