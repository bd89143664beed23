package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/deliveryd/deliveryd/sdk/plugintest/versitygw"
)

// maxSize of the tests' artifacts is more than a part of an upload to S3.
const maxSize = partSize + 1<<20

// gateway is the S3 server of all tests; each has a bucket of its own.
var gateway *versitygw.Server

var buckets atomic.Int64

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	server, err := versitygw.Start()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer server.Stop()
	gateway = server
	// Credentials of the daemon's own bucket come from its environment.
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": versitygw.AccessKey, "AWS_SECRET_ACCESS_KEY": versitygw.SecretKey} {
		if err := os.Setenv(name, value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.Run()
}

// newBucket makes a bucket and gives its URL, as in artifacts { url }.
func newBucket(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("artifacts-%d", buckets.Add(1))
	if err := gateway.CreateBucket(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("s3://%s?region=us-east-1&use_path_style=true&endpoint=%s", name, gateway.URL)
}

// remains counts the objects of a bucket, and the uploads that have left parts.
func (f *fixture) remains(t *testing.T) (objects, uploads int) {
	t.Helper()
	name, _, _ := strings.Cut(strings.TrimPrefix(f.url, "s3://"), "?")
	objects, uploads, err := gateway.Remains(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return objects, uploads
}

// TestInterruptedPartsAreSwept interrupts an upload of which parts are in the bucket.
func TestInterruptedPartsAreSwept(t *testing.T) {
	t.Parallel()
	f := open(t, newBucket(t))
	f.maxSize = 8 * partSize
	body, hand := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := f.Put(t.Context(), Announced{Organization: "acme", Name: "x", ContentType: "a/b", Size: -1}, body)
		_ = body.Close() // or the hand would wait for a reader
		done <- err
	}()
	if _, err := hand.Write(noise(4 * partSize)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for uploads := 0; uploads == 0 && ctx.Err() == nil; {
		_, uploads = f.remains(t)
	}
	interrupted := errors.New("the client went away")
	_ = hand.CloseWithError(interrupted)
	if err := <-done; !errors.Is(err, interrupted) {
		t.Errorf("an upload that was interrupted ended with %v", err)
	}
	for left := 1; left > 0; left = f.count(t, "select count(*) from artifacts") {
		if err := f.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
	}
	f.wantEmpty(t)
}
