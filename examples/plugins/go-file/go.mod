// A plugin is a module of its own: it shares a contract with deliveryd, not a
// build.
module example.com/deliveryd-transport-file

go 1.26.0

require github.com/deliveryd/deliveryd v0.0.0

require (
	github.com/fatih/color v1.13.0 // indirect
	github.com/golang/protobuf v1.5.4 // indirect
	github.com/hashicorp/go-hclog v1.6.3 // indirect
	github.com/hashicorp/go-plugin v1.8.0 // indirect
	github.com/hashicorp/yamux v0.1.2 // indirect
	github.com/mattn/go-colorable v0.1.14 // indirect
	github.com/mattn/go-isatty v0.0.24 // indirect
	github.com/oklog/run v1.1.0 // indirect
	golang.org/x/net v0.61.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20261005182115-fad411399dd8 // indirect
	google.golang.org/grpc v1.84.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

// Only because this example lies inside deliveryd's own checkout, and is to be
// built against the SDK beside it. Your plugin has no such line, but a released
// version above: go get github.com/deliveryd/deliveryd@latest
replace github.com/deliveryd/deliveryd => ../../..
