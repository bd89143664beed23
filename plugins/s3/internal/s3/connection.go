package s3

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

// TestConnection tries dns, tcp, credentials and permission. The last begins an
// upload in parts, with all that a real one would ask for, and aborts it: that
// needs the permission to write, and leaves neither an object nor a version nor
// an event. A probe object that is deleted was the alternative; it leaves a
// version and a marker where versions are kept, and where objects are locked it
// stays. A ping writes an object, like any delivery.
func (b *bucket) TestConnection(ctx context.Context, ping bool) []transport.Step {
	var steps transport.Steps
	var address *url.URL
	steps.Run("dns", func() (detail string, err error) {
		address, detail, err = b.tryDNS(ctx)
		return detail, err
	})
	steps.Run("tcp", func() (string, error) { return b.tryTCP(ctx, address) })
	steps.Run("credentials", func() (string, error) {
		if err := b.authenticate(ctx); err != nil {
			return "", err
		}
		keys, err := b.credentials.Retrieve(ctx)
		if err != nil {
			return "", err
		}
		return "access key " + shorten(keys.AccessKeyID), nil
	})
	steps.Run("permission", func() (string, error) { return b.tryWrite(ctx) })
	if ping {
		steps.Run("ping", func() (string, error) {
			receipt, err := b.Deliver(ctx, probe(b.in.OrganizationID, "deliveryd.ping"))
			return "wrote " + receipt.Reference, err
		})
	}
	return steps.All()
}

// shorten keeps enough of an access key to know it again.
func shorten(id string) string {
	if len(id) <= 8 {
		return id
	}
	return id[:4] + "..." + id[len(id)-4:]
}

func (b *bucket) tryDNS(ctx context.Context) (*url.URL, string, error) {
	params := awss3.EndpointParameters{Bucket: &b.config.Bucket, Region: aws.String(b.config.region()), ForcePathStyle: aws.Bool(b.config.pathStyle())}
	if b.config.Endpoint != "" {
		params.Endpoint = &b.config.Endpoint
	}
	endpoint, err := awss3.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, params)
	if err != nil {
		return nil, "", transport.ConfigError(fmt.Errorf("finding the endpoint: %w", err), transport.WithCode("s3.endpoint"))
	}
	host := endpoint.URI.Hostname()
	addresses, err := b.in.Egress.Resolve(ctx, host)
	if err != nil {
		return nil, "", transport.Network(err)
	}
	texts := make([]string, len(addresses))
	for i, a := range addresses {
		texts[i] = a.Unmap().String()
	}
	return &endpoint.URI, host + " is " + strings.Join(texts, ", "), nil
}

func (b *bucket) tryTCP(ctx context.Context, address *url.URL) (string, error) {
	port := address.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[address.Scheme]
	}
	conn, err := b.in.Egress.DialContext(ctx, "tcp", net.JoinHostPort(address.Hostname(), port))
	if err != nil {
		return "", transport.Network(err)
	}
	return "connected to " + conn.RemoteAddr().String(), conn.Close()
}

func (b *bucket) tryWrite(ctx context.Context) (string, error) {
	d := probe(b.in.OrganizationID, "deliveryd.test")
	o, err := b.object(d, d.Data, d.ContentType)
	if err != nil {
		return "", err
	}
	id, err := b.begin(ctx, o)
	if err != nil {
		return "", err
	}
	if err := b.abortOnce(ctx, o.key, id); err != nil {
		return "", b.classify(ctx, "aborting the upload to "+o.key+" (permission s3:AbortMultipartUpload)", err, false)
	}
	return "an upload to s3://" + b.config.Bucket + "/" + o.key + " was begun and aborted", nil
}

func probe(organization, kind string) *transport.Delivery {
	id := "test_" + strings.ToLower(rand.Text())
	return &transport.Delivery{
		ID: id, DeliveryID: id, Attempt: 1, OrganizationID: organization, Type: kind, CreatedAt: time.Now(), ContentType: "application/json", Data: []byte(`{"ping":true}`),
	}
}
