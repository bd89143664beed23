package main_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"os"
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

// benchMessages is how many messages each side sends in a round.
var benchMessages = flag.Int("messages", 600, "messages of a round of BenchmarkMessages")

const (
	benchConnections = 10
	benchBatch       = 32 // as many as the daemon has in flight by default
	benchText        = "A report is ready.\r\n"
)

// BenchmarkMessages compares the plugin, in its process and behind gRPC as in the
// daemon, with a loop around the client of go-mail in this process: the same
// server, messages, number of connections, all of them kept; in turn and in one
// run.
//
//	go test ./plugins/email -run '^$' -bench Messages -benchtime 5x
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
	bare := newBareLoop(b, server)
	arrived := 0
	// turn times one side and waits until the server has delivered, so that it does
	// not work for one while the other is timed.
	turn := func(send func(n int) error, cpu func() time.Duration, n int) (rate, cost float64) {
		start, before := time.Now(), cpu()
		if err := send(n); err != nil {
			b.Fatal(err)
		}
		rate, cost = float64(n)/time.Since(start).Seconds(), float64((cpu()-before).Microseconds())/float64(n)
		arrived += n
		server.Await(b, "bench", arrived)
		return rate, cost
	}
	sides := []struct {
		send func(int) error
		cpu  func() time.Duration
	}{
		{func(n int) error { return p.sendAll(b.Context(), n) }, func() time.Duration { return cpuOf(b, p.Pid()) }},
		{bare.send, cpuOfThis},
	}
	var rates, costs [2][]float64
	for _, side := range sides { // connects
		_, _ = turn(side.send, side.cpu, 10*benchConnections)
	}
	b.ResetTimer()
	for range max(b.N, 3) {
		for i, side := range sides {
			rate, cost := turn(side.send, side.cpu, *benchMessages)
			rates[i], costs[i] = append(rates[i], rate), append(costs[i], cost)
		}
	}
	median := func(list []float64) float64 { return slices.Sorted(slices.Values(list))[len(list)/2] }
	b.ReportMetric(median(rates[0]), "plugin-msg/s")
	b.ReportMetric(median(rates[1]), "gomail-msg/s")
	b.ReportMetric(100*median(rates[0])/median(rates[1]), "%-of-gomail")
	b.ReportMetric(median(costs[0]), "plugin-cpu-µs/msg")
	b.ReportMetric(median(costs[1]), "gomail-cpu-µs/msg")
	b.ReportMetric(0, "ns/op")
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

func cpuOfThis() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// cpuOf is the CPU time of a process, in steps of 10 ms.
func cpuOf(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest) // from the third field of proc(5) on
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
