#!/bin/sh
# Builds one executable file out of the plugin: build.sh OUTPUT
#
# One file, because the daemon verifies, copies and runs one: a Python zip
# application. The stubs are generated here and not committed, so that they suit
# the protobuf and gRPC that this system has. Debian:
#   apt-get install python3-grpcio python3-protobuf python3-cryptography protobuf-compiler protobuf-compiler-grpc libprotobuf-dev
set -eu

output=${1:?usage: build.sh OUTPUT}
here=$(cd "$(dirname "$0")" && pwd)
proto=$here/../../../sdk/proto # a plugin elsewhere has a copy of the one .proto file
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cp "$here/__main__.py" "$here/plugin.py" "$work"
protoc -I "$proto" --python_out="$work" --grpc_out="$work" \
  --plugin=protoc-gen-grpc="$(command -v grpc_python_plugin)" deliveryd/transport/v1/transport.proto
# -I: nothing of the environment or the working directory gets in. /usr/bin: the
# interpreter that Debian's packages belong to.
/usr/bin/python3 -m zipapp "$work" --compress --python "/usr/bin/python3 -I" --output "$output"
chmod 0755 "$output"
