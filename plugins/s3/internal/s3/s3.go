// Package s3 delivers by writing objects into a bucket of Amazon S3 or of a
// server that speaks its protocol.
//
// A delivery has one key at every attempt, and an object appears under it whole
// or not at all. The package must never replace an object unless it was told
// to, leave a part of an upload behind, or try twice.
package s3

import (
	"context"
	"errors"
	"os"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/deliveryd/deliveryd/sdk/nametemplate"
	"github.com/deliveryd/deliveryd/sdk/schema"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// Version of the plugin.
const Version = "0.1.0"

// Plugin is what main serves.
func Plugin() transport.Plugin[Config] {
	shared := &budget{left: sharedBuffers}
	return transport.Plugin[Config]{
		Name: "s3", Version: Version,
		Summary:      "Writes deliveries as objects into a bucket (S3).",
		Homepage:     "https://github.com/deliveryd/deliveryd",
		Capabilities: transport.Capabilities{TestConnection: true, Idempotent: true, Upload: true},
		Open: func(ctx context.Context, in transport.Instance, c *Config) (transport.Transport, error) {
			b, err := open(ctx, in, c, shared, os.Getenv)
			if err != nil {
				return nil, err // not b: a nil *bucket is no nil Transport
			}
			return b, nil
		},
	}
}

// bucket is one destination.
type bucket struct {
	in          transport.Instance
	config      *Config
	key         *nametemplate.Template
	http        *httpClient
	credentials aws.CredentialsProvider
	api         *awss3.Client
	tags        *string // encoded; nil without
	budget      *budget
	encrypts    atomic.Bool // whether the server has said that it encrypts as it was asked to
}

func open(ctx context.Context, in transport.Instance, c *Config, shared *budget, getenv func(string) string) (*bucket, error) {
	if err := checkHostCredentials(c.Credentials, in.OrganizationID, getenv(hostCredentialsEnv)); err != nil {
		return nil, err
	}
	if err := checkInstanceRole(c.Credentials, in.Egress); err != nil {
		return nil, err
	}
	key, err := parseKey(c.Key)
	if err != nil {
		return nil, schema.Errorf(schema.At("key"), "%v", err)
	}
	client, err := newHTTP(in, c)
	if err != nil {
		return nil, schema.Errorf(schema.At("ca"), "%v", err)
	}
	credentials, err := newCredentials(ctx, c, client, getenv)
	if err != nil {
		return nil, err
	}
	return &bucket{
		in: in, config: c, key: key, http: client, credentials: credentials, api: newAPI(c, client, credentials), tags: encodeTags(c.Tags), budget: shared,
	}, nil
}

// Close drops idle connections.
func (b *bucket) Close(context.Context) error {
	b.http.CloseIdleConnections()
	return nil
}

// authenticate has keys ready. The SDK would get them by itself, but hides what
// went wrong then.
func (b *bucket) authenticate(ctx context.Context) error {
	_, err := b.credentials.Retrieve(ctx)
	if err == nil {
		return nil
	}
	err = b.classify(ctx, "getting credentials", err, false)
	if e := (*transport.Error)(nil); errors.As(err, &e) && e.Class == transport.ClassTransient && e.Code == "s3.cut" {
		return transport.Unavailable(err, transport.WithCode("s3.credentials"))
	}
	return err
}

// Deliver writes one payload.
func (b *bucket) Deliver(ctx context.Context, d *transport.Delivery) (transport.Receipt, error) {
	body, contentType := b.content(d)
	o, err := b.object(d, body, contentType)
	if err != nil {
		return transport.Receipt{}, err
	}
	if err := b.authenticate(ctx); err != nil {
		return transport.Receipt{}, err
	}
	if receipt, done := b.writtenBefore(ctx, o, d.Attempt > 1); done {
		return receipt, nil
	}
	if err := b.tryEncryption(ctx, o); err != nil {
		return transport.Receipt{}, err
	}
	return b.put(ctx, o, body)
}
