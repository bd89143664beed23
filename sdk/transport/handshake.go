package transport

import (
	"context"
	"errors"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
)

const (
	// ProtocolVersion of go-plugin's handshake; equal to the major version of
	// the protobuf package.
	ProtocolVersion = 1
	// DispenseName is the only entry of the plugin set.
	DispenseName = "transport"
	// CookieKey and CookieValue tell a start by the host from a start by
	// hand. They are no security measure and never change.
	CookieKey   = "DELIVERYD_PLUGIN"
	CookieValue = "5b0f3a61-transport-plugin-of-deliveryd"
	// LogLevelEnv is the environment variable by which the host sets the log
	// level of a plugin: debug, info, warn or error. Defaults to info.
	LogLevelEnv = "DELIVERYD_PLUGIN_LOG_LEVEL"
)

// Handshake is what host and plugin must agree on.
func Handshake() plugin.HandshakeConfig {
	return plugin.HandshakeConfig{ProtocolVersion: ProtocolVersion, MagicCookieKey: CookieKey, MagicCookieValue: CookieValue}
}

// ClientPlugins is the plugin set for the host's side: dispensing DispenseName
// gives a transportv1.TransportClient.
func ClientPlugins() plugin.PluginSet {
	return plugin.PluginSet{DispenseName: clientPlugin{}}
}

// clientPlugin is the host's side of go-plugin's gRPC glue.
type clientPlugin struct{ plugin.NetRPCUnsupportedPlugin }

func (clientPlugin) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error {
	return errors.New("serving a transport from the host's plugin set: use transport.Serve")
}

func (clientPlugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return transportv1.NewTransportClient(conn), nil
}

// serverPlugin is the plugin's side.
type serverPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	server transportv1.TransportServer
}

func (p serverPlugin) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	transportv1.RegisterTransportServer(s, p.server)
	return nil
}

func (serverPlugin) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("dialling a transport from the plugin's side")
}
