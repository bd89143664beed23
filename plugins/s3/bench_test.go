package main_test

import (
	"context"
	"flag"
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/feature/s3/manager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/deliveryd/deliveryd/sdk/plugintest/uploadbench"
	"github.com/deliveryd/deliveryd/sdk/plugintest/versitygw"
)

// go test ./plugins/s3 -run '^$' -bench Upload -benchtime 1x -v -mib 1024 -rounds 5
var (
	benchMiB    = flag.Int64("mib", 256, "MiB to upload in BenchmarkUpload")
	benchRounds = flag.Int("rounds", 5, "how often the sides of BenchmarkUpload run in turn")
)

const bucket = "bench"

// BenchmarkUpload compares the plugin with the uploader of the SDK.
func BenchmarkUpload(b *testing.B) {
	size := *benchMiB << 20
	server, err := versitygw.Start()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(server.Stop)
	if err := server.CreateBucket(b.Context(), bucket); err != nil {
		b.Fatal(err)
	}
	config := fmt.Sprintf(`{"bucket":%q,"endpoint":%q,"if_exists":"overwrite","key":"{id}","credentials":{"access_key_id":%q,"secret_access_key":%q}}`,
		bucket, server.URL, versitygw.AccessKey, versitygw.SecretKey)
	plugin := uploadbench.Start(b, ".", config, size)
	idle := plugin.Memory(b, "VmRSS")
	remove := func(ctx context.Context, key string) error { // the disk is to hold one at a time
		name := bucket
		_, err := server.Client().DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &name, Key: &key})
		return err
	}
	b.ResetTimer()
	uploadbench.Compare(b, *benchRounds, plugin,
		uploadbench.Side{Name: "plugin", Run: func(ctx context.Context, round int) error {
			id := fmt.Sprint("plugin-", round)
			if err := plugin.Upload(ctx, id); err != nil {
				return err
			}
			return remove(ctx, id)
		}},
		uploadbench.Side{Name: "sdk", Run: func(ctx context.Context, round int) error {
			key := fmt.Sprint("sdk-", round)
			if err := uploadBare(ctx, server.Client(), key, size); err != nil {
				return err
			}
			return remove(ctx, key)
		}})
	b.ReportMetric(float64(plugin.Memory(b, "VmHWM")-idle)/1024, "MiB-above-idle")
}

// uploadBare is the SDK's own uploader with the same parts, parallelism and
// checksums.
func uploadBare(ctx context.Context, client *s3.Client, key string, size int64) error {
	uploader := manager.NewUploader(client, func(u *manager.Uploader) { u.PartSize, u.Concurrency = 5<<20, 4 }) //nolint:staticcheck // its successor is not yet 1.0
	name := bucket
	_, err := uploader.Upload(ctx, &s3.PutObjectInput{Bucket: &name, Key: &key, Body: uploadbench.File(size), ChecksumAlgorithm: types.ChecksumAlgorithmSha256}) //nolint:staticcheck // as above
	return err
}
