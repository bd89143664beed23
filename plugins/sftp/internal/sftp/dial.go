package sftp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/deliveryd/deliveryd/sdk/egress"
	"github.com/deliveryd/deliveryd/sdk/transport"
)

// dialer logs in at the end of a chain of hosts.
type dialer struct {
	config *Config
	egress *egress.Guard
	hops   []*hop
}

// hop is one host of the chain, the target last.
type hop struct {
	server *Server
	keys   *hostKeys
	signer ssh.Signer // nil without a private key
}

func (h *hop) address() string { return net.JoinHostPort(h.server.Host, strconv.Itoa(h.server.Port)) }

func newDialer(guard *egress.Guard, c *Config) (*dialer, error) {
	d := &dialer{config: c, egress: guard}
	servers := make([]*Server, 0, len(c.Jump)+1)
	for i := range c.Jump {
		servers = append(servers, &c.Jump[i])
	}
	for _, server := range append(servers, &c.Server) {
		keys, finding := newHostKeys(server, nil)
		if finding != nil {
			return nil, *finding
		}
		signer, finding := server.signer(nil)
		if finding != nil {
			return nil, *finding
		}
		d.hops = append(d.hops, &hop{server, keys, signer})
	}
	return d, nil
}

// connect logs in; clients are in the order of the hops, and the last one is
// the target's. Closing the first closes all.
func (d *dialer) connect(ctx context.Context) (clients []*ssh.Client, err error) {
	ctx, cancel := context.WithTimeout(ctx, d.config.ConnectTimeout)
	defer cancel()
	defer func() {
		if err != nil {
			closeAll(clients)
		}
	}()
	for _, h := range d.hops {
		client, err := d.login(ctx, h, clients)
		if err != nil {
			return clients, err
		}
		clients = append(clients, client)
	}
	return clients, nil
}

func closeAll(clients []*ssh.Client) {
	for i := len(clients) - 1; i >= 0; i-- {
		_ = clients[i].Close()
	}
}

// login tries the kinds of host keys that may be right, each on a connection of
// its own.
func (d *dialer) login(ctx context.Context, h *hop, through []*ssh.Client) (*ssh.Client, error) {
	choices := h.keys.choices(h.address())
	for i, algorithms := range choices {
		if len(algorithms) == 0 {
			continue
		}
		conn, err := d.dial(ctx, h, through)
		if err != nil {
			return nil, err
		}
		client, err := h.handshake(ctx, conn, algorithms)
		if err == nil {
			return client, nil
		}
		if another := i < len(choices)-1; another && (isHostKey(err) || noCommonHostKey(err)) {
			continue
		}
		return nil, d.refused(ctx, h, err)
	}
	return nil, transport.ConfigError(fmt.Errorf("known_hosts has no entry for %s", h.address()), transport.WithCode("ssh.host_key"))
}

// dial opens the connection below SSH.
func (d *dialer) dial(ctx context.Context, h *hop, through []*ssh.Client) (net.Conn, error) {
	if len(through) == 0 {
		conn, err := d.egress.DialContext(ctx, "tcp", h.address())
		if err != nil {
			return nil, transport.Network(err)
		}
		return conn, nil
	}
	if err := d.allowed(ctx, h.server.Host); err != nil {
		return nil, transport.Network(err)
	}
	conn, err := through[len(through)-1].DialContext(ctx, "tcp", h.address())
	if err != nil {
		return nil, transport.Unavailable(fmt.Errorf("connecting to %s through the jump host: %w", h.address(), err), transport.WithCode("ssh.jump"))
	}
	return conn, nil
}

// allowed checks a target that a jump host will resolve by itself. What does not
// resolve here is allowed by name alone.
func (d *dialer) allowed(ctx context.Context, host string) error {
	if d.egress.Check(host, netip.IPv4Unspecified()) == nil {
		return nil // by name
	}
	addresses, err := d.egress.Resolve(ctx, host)
	if err != nil {
		return fmt.Errorf("host %q behind the jump host is neither resolved here nor allowed by name: %w", host, err)
	}
	for _, address := range addresses {
		if err := d.egress.Check(host, address); err != nil {
			return err
		}
	}
	return nil
}

// handshake logs in over conn, which it closes on failure.
func (h *hop) handshake(ctx context.Context, conn net.Conn, algorithms []string) (*ssh.Client, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	auth, done, err := h.auth(ctx)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	defer done()
	config := &ssh.ClientConfig{
		User: h.server.Username, Auth: auth, HostKeyCallback: h.keys.check, HostKeyAlgorithms: algorithms,
		ClientVersion: "SSH-2.0-deliveryd_" + Version,
	}
	c, channels, requests, err := ssh.NewClientConn(conn, h.address(), config)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	if !stop() {
		return nil, errors.Join(context.Cause(ctx), c.Close())
	}
	return ssh.NewClient(c, channels, requests), nil
}

// auth lists the ways to log in that are configured, the strongest first. done
// is called after the handshake.
func (h *hop) auth(ctx context.Context) (methods []ssh.AuthMethod, done func(), err error) {
	done = func() {}
	if h.signer != nil {
		methods = append(methods, ssh.PublicKeys(h.signer))
	}
	if path := h.server.AgentSocket; path != "" {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err != nil {
			return nil, nil, transport.ConfigError(fmt.Errorf("connecting to the ssh-agent: %w", err), transport.WithCode("ssh.agent"))
		}
		done = func() { _ = conn.Close() }
		methods = append(methods, ssh.PublicKeysCallback(agent.NewClient(conn).Signers))
	}
	if h.server.Password != "" {
		methods = append(methods, ssh.Password(h.server.Password))
	}
	if h.server.Password != "" || len(h.server.Answers) > 0 {
		methods = append(methods, ssh.KeyboardInteractive(h.answer))
	}
	return methods, done, nil
}

// answer answers the prompts of keyboard-interactive.
func (h *hop) answer(_, _ string, questions []string, echos []bool) ([]string, error) {
	answers := make([]string, len(questions))
	for i, question := range questions {
		answers[i] = h.answerTo(question)
		if answers[i] == "" && !echos[i] {
			answers[i] = h.server.Password
		}
		if answers[i] == "" {
			return nil, fmt.Errorf("no answer to the prompt %.60q is configured", question)
		}
	}
	return answers, nil
}

func (h *hop) answerTo(question string) string {
	for part, answer := range h.server.Answers {
		if strings.Contains(strings.ToLower(question), strings.ToLower(part)) {
			return answer
		}
	}
	return ""
}

func isHostKey(err error) bool {
	var e *hostKeyError
	return errors.As(err, &e)
}

// noCommonHostKey finds a server without a key of the kinds that it was asked
// for.
func noCommonHostKey(err error) bool {
	var e *ssh.AlgorithmNegotiationError
	return errors.As(err, &e) && strings.Contains(err.Error(), "host key")
}

// refused classifies a failed handshake.
func (d *dialer) refused(ctx context.Context, h *hop, err error) error {
	var classified *transport.Error
	at := "logging in at " + h.address()
	switch {
	case errors.As(err, &classified):
		return err
	case isHostKey(err):
		return transport.ConfigError(err, transport.WithCode("ssh.host_key"))
	case noCommonHostKey(err):
		return transport.ConfigError(fmt.Errorf("%s: the server has no host key of a kind that was given: %w", at, err), transport.WithCode("ssh.host_key"))
	case strings.Contains(err.Error(), "unable to authenticate"), strings.Contains(err.Error(), "no answer to the prompt"):
		// The package has no type for it.
		return transport.Auth(fmt.Errorf("%s as %q: %w", at, h.server.Username, err), transport.WithCode("ssh.auth"))
	case ctx.Err() != nil:
		return transport.Unavailable(fmt.Errorf("%s: not done in %s", at, d.config.ConnectTimeout), transport.WithCode("ssh.timeout"))
	}
	return transport.Unavailable(fmt.Errorf("%s: %w", at, err), transport.WithCode("ssh.handshake"))
}

// keepalive closes a connection that gives no sign of life.
func keepalive(client *ssh.Client, every time.Duration, gone <-chan struct{}) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	answered := make(chan error, 1)
	waiting := false
	for {
		select {
		case <-gone:
			return
		case err := <-answered:
			waiting = false
			if err != nil {
				_ = client.Close()
				return
			}
		case <-tick.C:
			if waiting {
				_ = client.Close()
				return
			}
			waiting = true
			go func() {
				_, _, err := client.SendRequest("keepalive@openssh.com", true, nil)
				answered <- err
			}()
		}
	}
}
