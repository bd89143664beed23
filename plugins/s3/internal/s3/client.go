package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/middleware"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

const (
	// idleTimeout is shorter than any server's: a request that meets a closing
	// connection has an unknown outcome.
	idleTimeout = 15 * time.Second
	// defaultConcurrency sizes the pool where the host sets no limit.
	defaultConcurrency = 64
	// maxIdle bounds the open connections of one destination.
	maxIdle = 256
	// continueTimeout is how long a large body waits for the server to say that
	// it wants it; a refusal so costs no transfer.
	continueTimeout = time.Second
	// maxResponseHeader bounds what a hostile peer can make us read.
	maxResponseHeader = 64 << 10
	// defaultRegion is what servers other than Amazon's expect.
	defaultRegion = "us-east-1"
)

// httpClient is the one way by which the SDK reaches the network, that of its
// credentials included.
type httpClient struct {
	*http.Client
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	tls  *tls.Config
}

func newHTTP(in transport.Instance, c *Config) (*httpClient, error) {
	idle := in.Concurrency
	if idle <= 0 {
		idle = defaultConcurrency
	}
	idle = min(max(idle, c.Parallelism), maxIdle)
	config, err := newTLS(c.CA)
	if err != nil {
		return nil, err
	}
	client := &http.Client{
		Transport: &http.Transport{
			DialContext:            in.Egress.DialContext,
			TLSClientConfig:        config,
			TLSHandshakeTimeout:    10 * time.Second,
			ExpectContinueTimeout:  continueTimeout,
			MaxIdleConns:           idle,
			MaxIdleConnsPerHost:    idle,
			IdleConnTimeout:        idleTimeout,
			MaxResponseHeaderBytes: maxResponseHeader,
			WriteBufferSize:        64 << 10,
			DisableCompression:     true,
			Proxy:                  nil, // never from the environment: it would get around the egress policy
		},
		// A redirect would carry a signature that does not fit the other host.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &httpClient{client, in.Egress.DialContext, config}, nil
}

func newTLS(ca string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	if ca == "" {
		return config, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a system without authorities
	}
	if !pool.AppendCertsFromPEM([]byte(ca)) {
		return nil, errors.New("no certificate in the PEM text")
	}
	config.RootCAs = pool
	return config, nil
}

func (c *Config) region() string {
	if c.Region == "" {
		return defaultRegion
	}
	return c.Region
}

func (c *Config) pathStyle() bool {
	if c.PathStyle == nil {
		return c.Endpoint != ""
	}
	return *c.PathStyle
}

// newAPI makes the client. It takes nothing from the environment or from files,
// and never tries twice: retries belong to the daemon.
func newAPI(c *Config, client *httpClient, credentials aws.CredentialsProvider) *awss3.Client {
	options := awss3.Options{
		Region: c.region(), Credentials: credentials, HTTPClient: client.Client, UsePathStyle: c.pathStyle(), Retryer: aws.NopRetryer{},
		// SHA-256 is sent where it matters; the SDK's own CRC-32 on top of it
		// would cost time and is unknown to older servers.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
		AppID:                      "deliveryd-s3-" + Version,
	}
	if c.Endpoint != "" {
		options.BaseEndpoint = aws.String(c.Endpoint)
	}
	return awss3.New(options)
}

// signedBody makes the SDK sign the digest that is known already. It would read
// the body once more to find it, or, with TLS, leave the body out of the
// signature.
func signedBody(digest [32]byte) func(*awss3.Options) {
	return func(o *awss3.Options) {
		o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
			return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("PayloadHash", func(
				ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler,
			) (middleware.InitializeOutput, middleware.Metadata, error) {
				return next.HandleInitialize(v4.SetPayloadHash(ctx, hex.EncodeToString(digest[:])), in)
			}), middleware.After)
		})
	}
}
