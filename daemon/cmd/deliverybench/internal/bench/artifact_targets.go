package bench

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/receiver"
	"github.com/deliveryd/deliveryd/sdk/plugintest/openssh"
	"github.com/deliveryd/deliveryd/sdk/plugintest/versitygw"
)

// targets are destinations of files, and how to see what they have.
type targets struct {
	name       string
	transports []string
	blocks     string // of the configuration
	// digest is the SHA-256 of the large file at the i-th destination; empty without it.
	digest func(ctx context.Context, i int) (string, error)
	stop   func()
}

func destinationBlock(i int, transport, settings string) string {
	return fmt.Sprintf("\ndestination %q %q {\n  type = %q\n  config {\n%s  }\n}\n", organization, label(i), transport, settings)
}

func (h *harness) webhookTargets(context.Context) (*targets, error) {
	t := &targets{name: "webhooks", transports: []string{webhook}, stop: func() {}}
	for i := range artifactTargets {
		t.blocks += destinationBlock(i, webhook, fmt.Sprintf("    url    = %q\n    secret = %q\n", h.sink.FileURL(label(i)), receiver.Secret()))
	}
	t.digest = func(ctx context.Context, i int) (string, error) {
		files, err := h.sink.Files(ctx)
		return files[label(i)].SHA256, err
	}
	return t, nil
}

// fileTargets are two buckets of a Versity gateway and two directories of an OpenSSH server. Its error says what is not
// installed.
func (h *harness) fileTargets(ctx context.Context) (_ *targets, err error) {
	t := &targets{name: "S3 and SFTP", transports: []string{"s3", "sftp"}}
	for _, transport := range t.transports {
		if _, err := os.Stat(h.pluginPath(transport)); err != nil {
			return t, err
		}
	}
	gateway, err := versitygw.Start()
	if err != nil {
		return t, err
	}
	sshd, err := openssh.Start(openssh.Options{})
	if err != nil {
		gateway.Stop()
		return t, err
	}
	t.stop = func() {
		gateway.Stop()
		sshd.Stop()
	}
	defer func() {
		if err != nil {
			t.stop()
		}
	}()
	knownHosts, err := sshd.KnownHosts("host_ed25519")
	if err != nil {
		return t, err
	}
	key, err := sshd.PrivateKey()
	if err != nil {
		return t, err
	}
	for i := range artifactTargets {
		if i%2 == 0 {
			if err := gateway.CreateBucket(ctx, label(i)); err != nil {
				return t, err
			}
			t.blocks += destinationBlock(i, "s3", fmt.Sprintf("    bucket   = %q\n    endpoint = %q\n    key      = \"{filename}\"\n    credentials {\n      access_key_id     = %q\n      secret_access_key = %q\n    }\n",
				label(i), gateway.URL, versitygw.AccessKey, versitygw.SecretKey))
			continue
		}
		t.blocks += destinationBlock(i, "sftp", fmt.Sprintf("    host        = \"127.0.0.1\"\n    port        = %d\n    username    = %q\n    private_key = %q\n    known_hosts = %q\n    directory   = %q\n    filename    = \"{filename}\"\n",
			sshd.Port, sshd.User, key, strings.TrimSpace(knownHosts), label(i)))
	}
	t.digest = func(ctx context.Context, i int) (string, error) {
		body, err := openTarget(ctx, gateway, sshd, i)
		if errors.Is(err, os.ErrNotExist) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		defer body.Close()
		return digestOf(sha256.New(), body)
	}
	return t, nil
}

// openTarget opens the large file at the i-th destination.
func openTarget(ctx context.Context, gateway *versitygw.Server, sshd *openssh.Server, i int) (io.ReadCloser, error) {
	if i%2 != 0 {
		return os.Open(filepath.Join(sshd.Home, label(i), largeFile))
	}
	bucket, key := label(i), largeFile
	out, err := gateway.Client().GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &key})
	if err != nil {
		return nil, fmt.Errorf("reading back from bucket %s: %w", bucket, err)
	}
	return out.Body, nil
}

func digestOf(sum hash.Hash, body io.Reader) (string, error) {
	if _, err := io.Copy(sum, body); err != nil {
		return "", fmt.Errorf("reading back: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
