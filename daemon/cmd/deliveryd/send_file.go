package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
	"github.com/deliveryd/deliveryd/daemon/internal/client"
)

const (
	// bulkBatch is the number of deliveries in a request: the daemon writes 500 rows
	// with one statement.
	bulkBatch = 500
	// bulkBytes closes a batch early, below the daemon's bound of a request.
	bulkBytes = 8 << 20
	// bulkParallel is how many requests are under way: one is written while the
	// others are on their way.
	bulkParallel = 4
	// bulkLine bounds a line; a payload is at most 10 MiB.
	bulkLine = 16 << 20
	// bulkErrors is how many refused lines are named.
	bulkErrors = 20
)

// bulk submits the lines of a file. Batches over HTTP rather than COPY into the
// table: the daemon checks organization, destinations and idempotency keys, and
// needs no database password on the machine of whoever sends.
type bulk struct {
	client   *client.Client
	name     string
	template api.Submission // destinations, type and so on where a line has none
	progress *progress

	mu       sync.Mutex
	accepted int
	rejected int
	errs     []error
}

// line is one line of a file: a whole submission, or only its payload's data.
type line struct {
	number     int
	submission api.Submission
}

// sendFile submits a file of JSON lines, from standard input for "-".
func sendFile(ctx context.Context, c *client.Client, name string, stdin io.Reader, stderr io.Writer, template api.Submission) (*bulk, error) {
	in := stdin
	var size int64
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, usageError{err}
		}
		defer file.Close()
		if info, err := file.Stat(); err == nil {
			size = info.Size()
		}
		in = file
	}
	b := &bulk{client: c, name: name, template: template, progress: newProgress(stderr, size)}
	defer b.progress.done()
	return b, b.run(ctx, in)
}

// run reads on while requests are under way, and stops at the first request that
// could not be made: what comes behind it was not submitted.
func (b *bulk) run(ctx context.Context, in io.Reader) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(bulkParallel)
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), bulkLine)
	var batch []line
	bytesRead := 0
	send := func() {
		full := batch
		batch, bytesRead = nil, 0
		group.Go(func() error { return b.send(ctx, full) })
	}
	for number := 1; ctx.Err() == nil && lines.Scan(); number++ {
		text := bytes.TrimSpace(lines.Bytes())
		b.progress.read(len(lines.Bytes()) + 1)
		if len(text) == 0 {
			continue
		}
		s, err := b.submission(text)
		if err != nil {
			b.reject(number, err)
			continue
		}
		batch, bytesRead = append(batch, line{number, s}), bytesRead+len(text)
		if len(batch) == bulkBatch || bytesRead >= bulkBytes {
			send()
		}
	}
	if len(batch) > 0 {
		send()
	}
	err := group.Wait()
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return errors.Join(err, fmt.Errorf("%s: a line is longer than %d MiB", b.name, bulkLine>>20))
	}
	return errors.Join(err, lines.Err())
}

// submission reads a line. A line with a payload is a whole submission, as the API
// takes it; any other JSON is the data of one that the flags describe.
func (b *bulk) submission(text []byte) (api.Submission, error) {
	s := b.template
	var probe struct {
		Payload json.RawMessage `json:"payload"`
	}
	if text[0] == '{' && json.Unmarshal(text, &probe) == nil && probe.Payload != nil {
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&s); err != nil {
			return s, fmt.Errorf("not a submission: %w", err)
		}
	} else {
		if !json.Valid(text) {
			return s, errors.New("not JSON")
		}
		s.Payload.Data = bytes.Clone(text)
	}
	switch {
	case !s.Destinations.Default && len(s.Destinations.List) == 0:
		return s, errors.New("no destinations: name them in the line or with --to")
	case s.Payload.Type == "":
		return s, errors.New("no type: name it in the line's payload or with --type")
	}
	return s, nil
}

func (b *bulk) send(ctx context.Context, batch []line) error {
	submissions := make([]api.Submission, len(batch))
	for i := range batch {
		submissions[i] = batch[i].submission
	}
	result, err := b.client.SubmitBatch(ctx, submissions)
	if err != nil {
		return fmt.Errorf("%s: submitting lines %d to %d: %w", b.name, batch[0].number, batch[len(batch)-1].number, err)
	}
	for i, item := range result.Results {
		if item.Problem != nil && i < len(batch) {
			b.reject(batch[i].number, item.Problem)
		}
	}
	b.mu.Lock()
	b.accepted += result.Accepted
	b.mu.Unlock()
	b.progress.accept(result.Accepted)
	return nil
}

func (b *bulk) reject(number int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rejected++
	if len(b.errs) < bulkErrors {
		b.errs = append(b.errs, fmt.Errorf("%s:%d: %w", b.name, number, err))
	}
}

// report prints the end and the lines that were refused; those make the exit code.
func (b *bulk) report(w, stderr io.Writer, asJSON bool) error {
	if asJSON {
		if err := printJSON(w, map[string]int{"accepted": b.accepted, "rejected": b.rejected}); err != nil {
			return err
		}
	} else if _, err := fmt.Fprintf(w, "%d accepted, %d rejected\n", b.accepted, b.rejected); err != nil {
		return err
	}
	if b.rejected == 0 {
		return nil
	}
	for _, err := range b.errs {
		_, _ = fmt.Fprintln(stderr, oneLine(err.Error()))
	}
	if more := b.rejected - len(b.errs); more > 0 {
		_, _ = fmt.Fprintf(stderr, "and %d more\n", more)
	}
	return exitError(exitInvalid)
}

// progress draws one line, on a terminal only.
type progress struct {
	w     io.Writer
	size  int64
	start time.Time
	unit  string // "MiB": of an upload; else of accepted lines

	mu       sync.Mutex
	bytes    int64
	accepted int
	drawn    time.Time
}

// newProgress draws nothing where w is not a terminal.
func newProgress(w io.Writer, size int64) *progress {
	file, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		w = nil
	}
	return &progress{w: w, size: size, start: time.Now()}
}

func (p *progress) read(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += int64(n)
}

// Write counts and draws what is uploaded.
func (p *progress) Write(b []byte) (int, error) {
	p.read(len(b))
	p.accept(0)
	return len(b), nil
}

func (p *progress) accept(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.accepted += n
	if p.w != nil && time.Since(p.drawn) > 100*time.Millisecond {
		p.draw()
	}
}

func (p *progress) draw() {
	p.drawn = time.Now()
	seconds := max(time.Since(p.start).Seconds(), 0.001)
	bar := ""
	if p.size > 0 {
		const width = 30
		full := int(min(int64(width), p.bytes*width/p.size))
		bar = fmt.Sprintf("[%-*s] %3d %%  ", width, string(bytes.Repeat([]byte("="), full)), min(100, p.bytes*100/p.size))
	}
	if p.unit != "" {
		const mib = 1 << 20
		_, _ = fmt.Fprintf(p.w, "\r%s%d %s  %.1f %s/s ", bar, p.bytes/mib, p.unit, float64(p.bytes)/mib/seconds, p.unit)
		return
	}
	_, _ = fmt.Fprintf(p.w, "\r%s%d accepted  %.0f/s ", bar, p.accepted, float64(p.accepted)/seconds)
}

func (p *progress) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.w != nil {
		p.draw()
		_, _ = fmt.Fprintln(p.w)
	}
}
