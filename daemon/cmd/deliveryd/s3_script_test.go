package main

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/deliveryd/deliveryd/sdk/plugintest/gate"
	"github.com/deliveryd/deliveryd/sdk/plugintest/versitygw"
)

type gatewayKey struct{}

// TestS3Scripts runs a daemon with the transports of files, a real S3 server and,
// where a script starts it, OpenSSH's: every file in testdata/s3.
func TestS3Scripts(t *testing.T) {
	t.Parallel()
	server, err := versitygw.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	runScripts(t, "s3", map[string]command{"bucket": bucketCommand, "sshd": sshdCommand, "gate": gateCommand}, func(env *testscript.Env) error {
		env.Setenv("PLUGINS", filepath.Join(binaries, transports))
		env.Setenv("S3_URL", server.URL)
		env.Values[gatewayKey{}], env.Values[gatesKey{}] = server, map[string]*gate.Gate{}
		return nil
	})
}

// bucketCommand makes and looks into buckets:
//
//	bucket create NAME
//	bucket await NAME KEY     until an object's key matches; its content goes to object.out
//	bucket uploads NAME N     fails unless so many uploads in parts are unfinished
func bucketCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: bucket create|await NAME ...")
	}
	server, ctx := ts.Value(gatewayKey{}).(*versitygw.Server), context.Background()
	switch args[0] {
	case "create":
		ts.Check(server.CreateBucket(ctx, args[1]))
	case "await":
		wanted, err := regexp.Compile(args[2])
		ts.Check(err)
		key := ""
		poll(ts, "an object "+args[2], func() bool {
			listed, err := server.Client().ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &args[1]})
			ts.Check(err)
			for _, object := range listed.Contents {
				if wanted.MatchString(*object.Key) {
					key = *object.Key
				}
			}
			return key != ""
		})
		out, err := server.Client().GetObject(ctx, &s3.GetObjectInput{Bucket: &args[1], Key: &key})
		ts.Check(err)
		file, err := os.Create(ts.MkAbs("object.out"))
		ts.Check(err)
		_, err = file.ReadFrom(out.Body)
		ts.Check(err)
		ts.Check(out.Body.Close())
		ts.Check(file.Close())
	case "uploads":
		_, uploads, err := server.Remains(ctx, args[1])
		ts.Check(err)
		if got := strconv.Itoa(uploads); got != args[2] {
			ts.Fatalf("%s has %s unfinished uploads, want %s", args[1], got, args[2])
		}
	default:
		ts.Fatalf("no subcommand %q", args[0])
	}
}
