package sftp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

// TestConnection resolves, connects and logs in, and writes and removes a probe
// in the directory: nothing less shows that files may be written there.
func (d *destination) TestConnection(ctx context.Context, _ bool) []transport.Step {
	var steps transport.Steps
	first := d.dialer.hops[0]
	steps.Run("dns", func() (string, error) { return d.tryDNS(ctx, first.server.Host) })
	steps.Run("tcp", func() (string, error) {
		conn, err := d.instance.Egress.DialContext(ctx, "tcp", first.address())
		if err != nil {
			return "", transport.Network(err)
		}
		return "connected to " + conn.RemoteAddr().String(), conn.Close()
	})
	var s *session
	defer func() {
		if s != nil {
			s.close()
		}
	}()
	steps.Run("auth", func() (detail string, err error) {
		if s, err = d.dialer.session(ctx); err != nil {
			return "", err
		}
		target := s.clients[len(s.clients)-1]
		return fmt.Sprintf("logged in as %s; the server is %.100q", target.User(), target.ServerVersion()), nil
	})
	steps.Run("permission", func() (string, error) {
		stop := context.AfterFunc(ctx, s.close)
		defer stop()
		return d.tryWriting(ctx, s)
	})
	return steps.All()
}

func (d *destination) tryDNS(ctx context.Context, host string) (string, error) {
	addresses, err := d.instance.Egress.Resolve(ctx, host)
	if err != nil {
		return "", transport.Network(err)
	}
	texts := make([]string, len(addresses))
	for i, address := range addresses {
		texts[i] = address.Unmap().String()
	}
	return host + " is " + strings.Join(texts, ", "), nil
}

// tryWriting writes a probe and removes it. A directory that depends on the
// delivery is not there yet: the nearest one above it that is there is tried.
func (d *destination) tryWriting(ctx context.Context, s *session) (string, error) {
	p := &putting{destination: d, session: s, file: &file{delivery: &transport.Delivery{ID: "probe", Type: "probe", CreatedAt: time.Now()}}}
	p.place()
	directory := path.Dir(p.final)
	for p.doing = "looking for " + directory; ; directory = path.Dir(directory) {
		info, err := s.Stat(directory)
		if err == nil && !info.IsDir() {
			return "", transport.ConfigError(fmt.Errorf("%s is no directory", directory), transport.WithCode("sftp.no_directory"))
		}
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || !d.config.MakeDirectories || directory == "/" || directory == "." {
			return "", p.classify(ctx, err)
		}
	}
	p.temporary = path.Join(directory, ".deliveryd-probe-"+rand.Text()[:8])
	p.doing = "writing " + p.temporary
	f, err := s.OpenFile(p.temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return "", p.classify(ctx, err)
	}
	_, err = f.Write([]byte("probe\n"))
	err = errors.Join(err, f.Close())
	p.doing = "removing " + p.temporary
	if err := errors.Join(err, s.Remove(p.temporary)); err != nil {
		return "", p.classify(ctx, err)
	}
	return "a probe was written to " + directory + " and removed", nil
}
