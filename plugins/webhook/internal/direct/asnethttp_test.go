package direct

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// answers are what a peer may say, from the plain to the hostile. What follows
// from each is for net/http to decide: TestAsNetHTTP holds this client against it.
func answers() map[string]string {
	return map[string]string{
		"no content":          "HTTP/1.1 204 No Content\r\nX-Request-Id: r1\r\n\r\n",
		"empty":               "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"length":              "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello",
		"chunks":              "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
		"chunks, trailer":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n",
		"close":               "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
		"1.0":                 "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"1.0 keep-alive":      "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
		"error":               "HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 4\r\n\r\nbusy",
		"early hints":         "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"continue":            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
		"endless 1xx":         strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 4000),
		"many 1xx":            strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 20) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"no HTTP":             "SSH-2.0-OpenSSH_9\r\n",
		"bad status":          "HTTP/1.1 abc OK\r\n\r\n",
		"bad header":          "HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
		"bad length":          "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"two lengths":         "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
		"length and chunks":   "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"header without end":  "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Pad: "+strings.Repeat("a", 1000)+"\r\n", 80) + "\r\n",
		"more than an answer": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"no content, content": "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc",
	}
}

// seen is what a caller and the peer can see of two requests in a row.
type seen struct {
	Status      [2]int
	Body        [2]string
	Failed      [2]bool
	Connections int
}

func TestAsNetHTTP(t *testing.T) {
	t.Parallel()
	for name, answer := range answers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := twice(t, answer, viaNetHTTP(t, surplus(name)))
			c := newClient(t)
			got := twice(t, answer, func(target, text string) (int, string, error) {
				status, body, _, err := c.post(t.Context(), target, text)
				return status, body, err
			})
			if got != want {
				t.Errorf("got  %+v\nwant %+v, as net/http has it", got, want)
			}
		})
	}
}

// surplus says which answers have something behind their end. net/http keeps such
// a connection before it has looked at what is left and closes it when it has: its
// next request meets the rest of the last answer or a new connection, as the
// scheduler has it. Only what it does once it has looked is a measure.
func surplus(name string) bool {
	return name == "more than an answer" || name == "no content, content"
}

// viaNetHTTP posts by net/http. With untilClosed a request ends when its connection
// is closed.
func viaNetHTTP(t *testing.T, untilClosed bool) func(target, text string) (int, string, error) {
	t.Helper()
	closed := make(chan struct{}, 8)
	transport := &http.Transport{
		MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			return &closing{Conn: conn, closed: sync.OnceFunc(func() { closed <- struct{}{} })}, err
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	if untilClosed {
		return func(target, text string) (status int, body string, err error) {
			status, body, err = postNetHTTP(t, transport, target, text)
			select {
			case <-closed:
			case <-time.After(patient):
				t.Error("net/http keeps a connection with a rest of an answer in it")
			}
			return status, body, err
		}
	}
	return func(target, text string) (int, string, error) { return postNetHTTP(t, transport, target, text) }
}

// closing tells when it is closed.
type closing struct {
	net.Conn

	closed func()
}

// Close implements net.Conn.
func (c *closing) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

func postNetHTTP(t *testing.T, transport *http.Transport, target, text string) (status int, body string, err error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, target, strings.NewReader(text))
	if err != nil {
		return 0, "", err
	}
	r.GetBody = nil // as the webhook has it: never sent twice
	response, err := transport.RoundTrip(r)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = response.Body.Close() }()
	read, err := io.ReadAll(response.Body)
	return response.StatusCode, string(read), err
}

func twice(t *testing.T, answer string, post func(target, text string) (int, string, error)) (s seen) {
	t.Helper()
	p := newPeer(t, func(conn net.Conn, _ int, _ *http.Request, _ string) bool {
		_, _ = io.WriteString(conn, answer)
		return !strings.Contains(answer, "Connection: close") && !strings.HasPrefix(answer, "HTTP/1.0 200 OK\r\nContent")
	})
	for i := range 2 {
		status, body, err := post(p.url(), "x")
		s.Status[i], s.Body[i], s.Failed[i] = status, body, err != nil
	}
	s.Connections, _ = p.seen()
	return s
}
