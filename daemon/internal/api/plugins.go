package api

import (
	"context"
	"net/http"
	"time"
)

func (a *API) registerPlugins() {
	register(a, operation{
		id: "list-plugins", method: http.MethodGet, path: "/v1/plugins", tag: tagDaemon, permission: readPlugins,
		summary:     "List the plugins of this daemon",
		description: "How the processes of the daemon that answers are: another daemon of the fleet has processes of its own.",
	}, listPlugins)
}

// Plugin is one transport and the process that serves it.
type Plugin struct {
	Name            string     `json:"name" example:"webhook"`
	State           string     `json:"state" enum:"starting,ready,degraded,backoff,failed,draining"`
	Reason          string     `json:"reason,omitempty" doc:"Why it is not ready"`
	Version         string     `json:"version,omitempty" doc:"What the plugin calls itself; absent while it has never been ready"`
	Path            string     `json:"path" doc:"The file in the plugin directory"`
	SHA256          string     `json:"sha256,omitempty" doc:"Of the binary in use"`
	PID             int        `json:"pid,omitempty"`
	StartedAt       *time.Time `json:"started_at,omitempty"`
	Restarts        int        `json:"restarts" doc:"Starts after the first, new versions included"`
	Instances       int        `json:"instances" doc:"Destinations, by generation, that are open in it"`
	Refused         int        `json:"refused" doc:"How many of the instances it does not serve, because it refused to open them again"`
	InFlight        int        `json:"in_flight" doc:"Items at work"`
	MemoryBytes     int64      `json:"memory_bytes" doc:"Resident memory of its process"`
	LastExit        string     `json:"last_exit,omitempty" doc:"How the last process ended that was not told to"`
	LastExitAt      *time.Time `json:"last_exit_at,omitempty"`
	LogLinesDropped uint64     `json:"log_lines_dropped" doc:"Lines of its log beyond 200 a second"`
	Missing         uint64     `json:"missing_results" doc:"Items that it left without a result"`
	Strays          uint64     `json:"stray_results" doc:"Results that nobody had asked for"`
}

// PluginList is the answer to a list of plugins.
type PluginList struct {
	Plugins []Plugin `json:"plugins" doc:"By name"`
}

type pluginsOutput struct{ Body PluginList }

func listPlugins(_ context.Context, s *Services, _ Caller, _ *struct{}) (*pluginsOutput, error) {
	list := s.Plugins()
	if list == nil {
		list = []Plugin{}
	}
	return &pluginsOutput{PluginList{list}}, nil
}
