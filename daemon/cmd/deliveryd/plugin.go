package main

import "github.com/spf13/cobra"

func newPlugin() *cobra.Command {
	return group("plugin", "Look at plugins, pin, test and write them", newPluginList(), newPluginLock(), newPluginTest(), newPluginNew())
}
