// Package versitygw runs the S3 server of the tests: Versity's gateway over a
// directory, on a free port. "make build/tools/versitygw" builds it from the Go
// module proxy; Start does so where that has not been done.
//
// It is for tests only.
package versitygw

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// Keys of the administrator.
const (
	AccessKey = "AKIAROOT"
	SecretKey = "secret-of-the-administrator"
)

// startTimeout is generous: the machine may be busy with other tests.
const startTimeout = 60 * time.Second

// Server is a running gateway.
type Server struct {
	// URL of the endpoint, http://127.0.0.1:<port>.
	URL string

	binary   string
	dir      string
	cmd      *exec.Cmd
	log      lockedBuffer
	listener net.Listener
	open     sync.WaitGroup
	stopped  chan struct{} // closed by Stop

	certificate, key []byte // none without TLS
}

// lockedBuffer collects the output of the process.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// build gives the path of the program, which it makes if need be.
func build() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output() //nolint:noctx // ends by itself
	if err != nil {
		return "", fmt.Errorf("finding the module: %w", err)
	}
	root := string(bytes.TrimSpace(out))
	command := exec.Command("make", "-s", "-C", root, "build/tools/versitygw") //nolint:noctx // ends by itself
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building versitygw: %w\n%s", err, out)
	}
	return filepath.Join(root, "build/tools/versitygw"), nil
}

// Start runs a gateway. The caller must Stop it.
func Start() (*Server, error) { return startWith(nil, nil) }

// StartTLS runs a gateway that speaks TLS with a certificate of its own authority,
// both PEM.
func StartTLS(certificate, key []byte) (*Server, error) { return startWith(certificate, key) }

// Connect gives a server that runs already, of which AccessKey is the administrator.
// With TLS, authority is its certificate, PEM.
func Connect(url string, authority []byte) (*Server, error) {
	s := &Server{URL: url, certificate: authority}
	return s, s.ready()
}

func startWith(certificate, key []byte) (*Server, error) {
	binary, err := build()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "versitygw-")
	if err != nil {
		return nil, err
	}
	s := &Server{binary: binary, dir: dir, certificate: certificate, key: key}
	if err := s.start(); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// start has the gateway listen on a socket, and a port that is free for sure
// lead to it: a port chosen beforehand may be taken when the gateway comes to it.
func (s *Server) start() error {
	for _, name := range []string{"objects", "versions", "users", "meta"} {
		if err := os.Mkdir(filepath.Join(s.dir, name), 0o700); err != nil {
			return err
		}
	}
	at := func(name string) string { return filepath.Join(s.dir, name) }
	args := []string{"--port", at("socket"), "--access", AccessKey, "--secret", SecretKey, "--iam-dir", at("users"), "--keep-alive", "--quiet", "--iam-cache-disable"}
	scheme := "http://"
	if s.certificate != nil {
		if err := errors.Join(os.WriteFile(at("cert.pem"), s.certificate, 0o600), os.WriteFile(at("key.pem"), s.key, 0o600)); err != nil {
			return err
		}
		args, scheme = append(args, "--cert", at("cert.pem"), "--key", at("key.pem")), "https://"
	}
	args = append(args, "posix", "--versioning-dir", at("versions"), "--sidecar", at("meta"), at("objects"))
	s.cmd = exec.Command(s.binary, args...) //nolint:noctx // Stop ends it
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.startOnOwnThread(); err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.listener, s.URL = listener, scheme+listener.Addr().String()
	s.open.Go(s.accept)
	return s.ready()
}

// startOnOwnThread starts the gateway from a thread that lives until Stop: the
// kernel sends Pdeathsig when the thread ends that started a process, and Go
// ends threads of which another test was the last to lock one.
func (s *Server) startOnOwnThread() error {
	s.stopped = make(chan struct{})
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		started <- s.cmd.Start()
		<-s.stopped
	}()
	return <-started
}

func (s *Server) ready() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := s.Client().ListBuckets(ctx, &s3.ListBucketsInput{}); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("versitygw did not answer within %s:\n%s", startTimeout, s.log.String())
		}
	}
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.open.Go(func() { s.forward(conn) })
	}
}

// forward copies both ways until one side ends.
func (s *Server) forward(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	up, err := net.Dial("unix", filepath.Join(s.dir, "socket")) //nolint:noctx // a local socket
	if err != nil {
		return
	}
	defer func() { _ = up.Close() }()
	done := make(chan struct{}, 2)
	go func() { _, _ = io.Copy(up, conn); done <- struct{}{} }()
	go func() { _, _ = io.Copy(conn, up); done <- struct{}{} }()
	<-done
}

// Stop ends the gateway and removes what it holds.
func (s *Server) Stop() {
	if s.listener != nil {
		_ = s.listener.Close()
	}
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
	if s.stopped != nil {
		close(s.stopped)
	}
	s.open.Wait()
	_ = os.RemoveAll(s.dir)
}

// Client is the administrator's.
func (s *Server) Client() *s3.Client {
	o := s3.Options{
		Region: "us-east-1", BaseEndpoint: &s.URL, UsePathStyle: true, Retryer: retry.NewStandard(),
		Credentials: credentials.NewStaticCredentialsProvider(AccessKey, SecretKey, ""),
	}
	if s.certificate != nil {
		o.HTTPClient = &http.Client{Transport: s.Transport()}
	}
	return s3.New(o)
}

// Transport reaches the server, with TLS where it speaks that.
func (s *Server) Transport() *http.Transport {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.certificate)
	return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, IdleConnTimeout: time.Second}
}

// CreateBucket makes a bucket; options change the request.
func (s *Server) CreateBucket(ctx context.Context, name string, options ...func(*s3.CreateBucketInput)) error {
	in := &s3.CreateBucketInput{Bucket: &name}
	for _, option := range options {
		option(in)
	}
	_, err := s.Client().CreateBucket(ctx, in)
	return err
}

// Remains counts the objects of a bucket, and the uploads in parts that have begun
// and not ended.
func (s *Server) Remains(ctx context.Context, bucket string) (objects, uploads int, err error) {
	listed, err := s.Client().ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &bucket})
	if err != nil {
		return 0, 0, err
	}
	begun, err := s.Client().ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: &bucket})
	if err != nil {
		return 0, 0, err
	}
	return len(listed.Contents), len(begun.Uploads), nil
}

// CreateUser makes a user without any permission.
func (s *Server) CreateUser(ctx context.Context, access, secret string) error {
	out, err := exec.CommandContext(ctx, s.binary, "admin", "--access", AccessKey, "--secret", SecretKey, "--endpoint-url", s.URL,
		"create-user", "--access", access, "--secret", secret, "--role", "user").CombinedOutput()
	return errors.Join(err, context.Cause(ctx), errorOf(out, err))
}

func errorOf(out []byte, err error) error {
	if err == nil {
		return nil
	}
	return errors.New(string(out))
}
