package main_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gomail "github.com/wneessen/go-mail"

	transportv1 "github.com/deliveryd/deliveryd/gen/transport/v1"
	"github.com/deliveryd/deliveryd/sdk/plugintest/postfix"
)

// go test ./plugins/email -run '^$' -bench Messages -benchtime 1x -v -messages 2000 -rounds 5
var (
	benchMessages = flag.Int("messages", 600, "messages that each side of BenchmarkMessages sends in a round")
	benchRounds   = flag.Int("rounds", 5, "how often the sides of BenchmarkMessages run in turn")
)

const (
	benchConnections = 10
	benchBatch       = 32 // as many as the daemon has in flight by default
	benchText        = "A report is ready.\r\n"
)

// benchSide sends n messages; cpu is what that takes of the sender's processor time.
type benchSide struct {
	send func(n int) error
	cpu  func() (time.Duration, error)

	rates, costs []float64 // of each round, messages a second and µs a message
}

// BenchmarkMessages compares the plugin, in its process and behind gRPC as in the
// daemon, with a loop around the client of go-mail in this process: the same
// server, messages and number of connections, all of them kept. They run in turn,
// and a ratio is of one round: what else the machine does changes from minute to
// minute. The server has delivered what one side sent before the other begins.
func BenchmarkMessages(b *testing.B) {
	server := postfix.Start(b, "bench")
	config, err := json.Marshal(map[string]any{
		"host": "localhost", "port": server.Port, "username": postfix.User, "password": postfix.Password, "mechanism": "plain",
		"tls": map[string]any{"ca": server.CA}, "from": "Bench <sender@acme.example>", "to": []string{"bench@acme.example"},
		"subject": "Report {{.ID}}", "text": "{{.Data.text}}", "max_connections": benchConnections, "messages_per_connection": 0, "idle_timeout": "10m",
	})
	if err != nil {
		b.Fatal(err)
	}
	p := started(b, string(config))
	sides := []*benchSide{{send: func(n int) error { return p.sendAll(b.Context(), n) }, cpu: p.CPU}, {send: newBareLoop(b, server).send, cpu: cpuOfThis}}
	arrived := 0
	for round := range *benchRounds + 1 {
		for i := range sides {
			side, n := sides[(i+round)%len(sides)], *benchMessages
			if round == 0 {
				n = 10 * benchConnections // connects, and is not counted
			}
			rate, cost := side.measure(b, n)
			arrived += n
			server.Await(b, "bench", arrived)
			if round > 0 {
				side.rates, side.costs = append(side.rates, rate), append(side.costs, cost)
			}
		}
	}
	var rate, cost []float64
	for i := range sides[0].rates {
		rate, cost = append(rate, 100*sides[0].rates[i]/sides[1].rates[i]), append(cost, 100*sides[0].costs[i]/sides[1].costs[i])
		b.Logf("round %d: plugin %.0f messages/s, %.0f µs of CPU each; go-mail %.0f, %.0f", i+1, sides[0].rates[i], sides[0].costs[i], sides[1].rates[i], sides[1].costs[i])
	}
	b.ReportMetric(median(sides[0].rates), "plugin-msg/s")
	b.ReportMetric(median(sides[1].rates), "gomail-msg/s")
	b.ReportMetric(median(rate), "%-of-gomail")
	b.ReportMetric(median(sides[0].costs), "plugin-CPU-µs/msg")
	b.ReportMetric(median(sides[1].costs), "gomail-CPU-µs/msg")
	b.ReportMetric(median(cost), "%-CPU-of-gomail")
	b.ReportMetric(0, "ns/op")
}

func median(list []float64) float64 { return slices.Sorted(slices.Values(list))[len(list)/2] }

func (s *benchSide) measure(b *testing.B, n int) (rate, cost float64) {
	b.Helper()
	before, err := s.cpu()
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	if err := s.send(n); err != nil {
		b.Fatal(err)
	}
	rate = float64(n) / time.Since(start).Seconds()
	after, err := s.cpu()
	if err != nil {
		b.Fatal(err)
	}
	return rate, float64((after - before).Microseconds()) / float64(n)
}

// sendAll keeps as many items with the plugin as there are connections, and more.
func (p *plugin) sendAll(ctx context.Context, n int) error {
	data, err := json.Marshal(map[string]string{"text": strings.Repeat(benchText, 50)})
	if err != nil {
		return err
	}
	return parallel(2, (n+benchBatch-1)/benchBatch, func(i int) error {
		var items []*transportv1.Item
		for j := i * benchBatch; j < min((i+1)*benchBatch, n); j++ {
			items = append(items, item(strconv.FormatInt(time.Now().UnixNano(), 36)+"-"+strconv.Itoa(j), data))
		}
		return p.deliver(ctx, items...)
	})
}

// bareLoop is go-mail's client, one for each connection.
type bareLoop struct{ clients []*gomail.Client }

func newBareLoop(b *testing.B, server *postfix.Server) *bareLoop {
	b.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(server.CA))
	l := &bareLoop{}
	for range benchConnections {
		client, err := gomail.NewClient("localhost", gomail.WithPort(server.Port), gomail.WithTLSPolicy(gomail.TLSMandatory), gomail.WithTLSConfig(&tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS12}),
			gomail.WithSMTPAuth(gomail.SMTPAuthPlain), gomail.WithUsername(postfix.User), gomail.WithPassword(postfix.Password), gomail.WithHELO("localhost"), gomail.WithoutNoop(), gomail.WithoutRset())
		if err != nil {
			b.Fatal(err)
		}
		if err := client.DialWithContext(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = client.Close() })
		l.clients = append(l.clients, client)
	}
	return l
}

func (l *bareLoop) send(n int) error {
	clients := make(chan *gomail.Client, len(l.clients))
	for _, client := range l.clients {
		clients <- client
	}
	return parallel(len(l.clients), n, func(i int) error {
		m := gomail.NewMsg()
		m.Subject("Report " + strconv.Itoa(i))
		m.SetBodyString(gomail.TypeTextPlain, strings.Repeat(benchText, 50))
		if err := m.From("Bench <sender@acme.example>"); err != nil {
			return err
		}
		if err := m.To("bench@acme.example"); err != nil {
			return err
		}
		m.SetDate()
		m.SetMessageID()
		client := <-clients
		defer func() { clients <- client }()
		return client.Send(m)
	})
}

// parallel calls do for 0 to n-1, at most workers at once, and gives the first error.
func parallel(workers, n int, do func(int) error) error {
	work := make(chan int, n)
	for i := range n {
		work <- i
	}
	close(work)
	failed := make(chan error, workers)
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for i := range work {
				if err := do(i); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	all.Wait()
	close(failed)
	return <-failed
}

func cpuOfThis() (time.Duration, error) {
	var usage syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), err
}
