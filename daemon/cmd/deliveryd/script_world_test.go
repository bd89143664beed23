package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/deliveryd/deliveryd/sdk/plugintest/freeport"
	"github.com/deliveryd/deliveryd/sdk/signature"
)

// world is what a script has started.
type world struct {
	daemons   map[string]*process
	receivers map[string]*receiver
	http      *http.Client
	systemd   notifications
}

type worldKey struct{}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

// patience bounds every wait of a script. A machine that is busy with other tests
// is slow; a test that hangs must still end.
const patience = 60 * time.Second

// poll waits until ok says yes.
func poll(ts *testscript.TestScript, what string, ok func() bool) {
	deadline := time.After(patience)
	// No event tells of a line in another process's output.
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for !ok() {
		select {
		case <-look.C:
		case <-deadline:
			ts.Fatalf("waited %v for %s", patience, what)
		}
	}
}

type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

// ended reports whether a daemon was started and runs no more.
func (w *world) ended(name string) bool {
	p, ok := w.daemons[name]
	if !ok {
		return false
	}
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// daemonCommand starts, signals and awaits daemons:
//
//	daemon start NAME ARGUMENT...   output goes to NAME.out and NAME.err
//	daemon signal NAME SIGNAL
//	daemon wait NAME EXITCODE
//	daemon killplugins NAME         with SIGKILL
func daemonCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: daemon start|signal|wait NAME ...")
	}
	w, name := worldOf(ts), args[1]
	switch args[0] {
	case "start":
		startDaemon(ts, w, name, args[2:])
	case "signal":
		sig, ok := map[string]os.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM, "INT": syscall.SIGINT}[args[2]]
		if !ok {
			ts.Fatalf("no signal %q", args[2])
		}
		ts.Check(w.daemons[name].cmd.Process.Signal(sig))
	case "wait":
		p := w.daemons[name]
		select {
		case <-p.exited:
		case <-time.After(patience):
			ts.Fatalf("%s did not end within %v", name, patience)
		}
		if code := p.cmd.ProcessState.ExitCode(); strconv.Itoa(code) != args[2] {
			ts.Fatalf("%s exited with %d, want %s:\n%s", name, code, args[2], ts.ReadFile(name+".err"))
		}
	case "killplugins":
		killPlugins(ts, w.daemons[name].cmd.Process.Pid)
	default:
		ts.Fatalf("no subcommand %q", args[0])
	}
}

// killPlugins kills the children of a daemon, which are its plugins.
func killPlugins(ts *testscript.TestScript, daemon int) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", daemon))
	ts.Check(err)
	killed := 0
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // a thread that has ended meanwhile has no children
		}
		ts.Check(err)
		for _, field := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(field)
			ts.Check(err)
			ts.Check(syscall.Kill(pid, syscall.SIGKILL))
			killed++
		}
	}
	if killed == 0 {
		ts.Fatalf("the daemon has no plugins")
	}
}

func startDaemon(ts *testscript.TestScript, w *world, name string, args []string) {
	stdout, err := os.Create(ts.MkAbs(name + ".out"))
	ts.Check(err)
	stderr, err := os.Create(ts.MkAbs(name + ".err"))
	ts.Check(err)
	p := &process{cmd: exec.Command(filepath.Join(binaries, "deliveryd"), args...), exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = stdout, stderr, ts.MkAbs(".")
	for _, variable := range []string{"PATH", "HOME", "XDG_CACHE_HOME", "PLUGINS", "ENCRYPTION_KEY", "DATABASE_URL", "TMPDIR"} {
		p.cmd.Env = append(p.cmd.Env, variable+"="+ts.Getenv(variable))
	}
	for receiver := range w.receivers {
		for _, variable := range []string{receiver + "_URL", receiver + "_SECRET"} {
			p.cmd.Env = append(p.cmd.Env, variable+"="+ts.Getenv(variable))
		}
	}
	for _, variable := range []string{"ADDRESS", "NOTIFY_SOCKET", "TOPIC_URL", "MAIL_PORT", "MAIL_CA", "MAIL_USER", "MAIL_PASSWORD", "S3_URL", "SFTP_PORT", "SFTP_USER", "SFTP_HOST_KEY", "S3_A", "S3_B", "SFTP_C", "SFTP_D", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		if value := ts.Getenv(variable); value != "" {
			p.cmd.Env = append(p.cmd.Env, variable+"="+value)
		}
	}
	ts.Check(p.cmd.Start())
	w.daemons[name] = p
	go func() {
		_ = p.cmd.Wait() // the exit code is looked at where it matters
		_, _ = stdout.Close(), stderr.Close()
		close(p.exited)
	}()
	ts.Defer(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
	})
}

// awaitCommand waits until a file has a line that matches: await FILE REGEXP. It
// gives up when the daemon that writes the file has ended.
func awaitCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await FILE REGEXP")
	}
	pattern, err := regexp.Compile(`(?m)` + args[1])
	ts.Check(err)
	path := ts.MkAbs(args[0])
	defer func() {
		if text, err := os.ReadFile(path); err == nil {
			ts.Logf("[%s]\n%s", args[0], text)
		}
	}()
	name, _, _ := strings.Cut(args[0], ".")
	poll(ts, args[1]+" in "+args[0], func() bool {
		ended := worldOf(ts).ended(name)
		text, err := os.ReadFile(path)
		found := err == nil && pattern.Match(text)
		if !found && ended {
			ts.Fatalf("%s ended without writing %s", name, args[1])
		}
		return found
	})
}

// freePortCommand sets a variable to 127.0.0.1 with a port that is the script's own.
func freePortCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: freeport VARIABLE")
	}
	port, err := freeport.Reserve()
	ts.Check(err)
	ts.Defer(port.Release)
	ts.Setenv(args[0], port.Address())
}

// httpCommand makes a request and writes status and body to standard output:
//
//	http METHOD URL [TOKEN [BODY]]
func httpCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: http METHOD URL [TOKEN [BODY]]")
	}
	body := ""
	if len(args) > 3 {
		body = args[3]
	}
	req, err := http.NewRequest(args[0], args[1], strings.NewReader(body))
	ts.Check(err)
	req.Header.Set("Content-Type", "application/json")
	if len(args) > 2 {
		req.Header.Set("Authorization", "Bearer "+args[2])
	}
	response, err := worldOf(ts).http.Do(req)
	ts.Check(err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	ts.Check(err)
	_, err = io.WriteString(ts.Stdout(), strconv.Itoa(response.StatusCode)+" "+string(text)+"\n")
	ts.Check(err)
}

// receiver is a webhook receiver inside the test.
type receiver struct {
	server   *httptest.Server
	verifier *signature.Verifier

	mu      sync.Mutex
	arrived []string // "type data" of what had a valid signature
	invalid int
	hanging int
	release chan struct{}  // not nil: requests hang until it is closed
	status  map[string]int // what payloads of a type are answered, if not 204; these have not arrived
}

// receiverCommand starts and asks receivers:
//
//	receiver start NAME [hang]       sets NAME_URL and NAME_SECRET; hang: answers nothing before release
//	receiver hanging NAME COUNT      until so many requests hang
//	receiver release NAME
//	receiver answer NAME TYPE STATUS payloads of a type are answered with a status from now on
//	receiver await NAME COUNT [TEXT] until so many (with TEXT in them) have arrived
func receiverCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: receiver start|await NAME ...")
	}
	w, name := worldOf(ts), args[1]
	switch args[0] {
	case "start":
		secret, err := signature.GenerateSecret(24)
		ts.Check(err)
		r := &receiver{status: map[string]int{}}
		if len(args) > 2 && args[2] == "hang" {
			r.release = make(chan struct{})
		}
		r.verifier, err = signature.NewVerifier([]string{secret})
		ts.Check(err)
		r.server = httptest.NewServer(r)
		ts.Defer(r.server.Close)
		w.receivers[name] = r
		ts.Setenv(name+"_URL", r.server.URL)
		ts.Setenv(name+"_SECRET", secret)
	case "hanging":
		r := w.receivers[name]
		poll(ts, args[2]+" hanging requests at "+name, func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return strconv.Itoa(r.hanging) == args[2]
		})
	case "release":
		close(w.receivers[name].release)
	case "answer":
		status, err := strconv.Atoi(args[3])
		ts.Check(err)
		r := w.receivers[name]
		r.mu.Lock()
		defer r.mu.Unlock()
		r.status[args[2]] = status
	case "await":
		want, err := strconv.Atoi(args[2])
		ts.Check(err)
		text := strings.Join(args[3:], " ")
		r := w.receivers[name]
		poll(ts, args[2]+" deliveries at "+name, func() bool { return r.count(text) >= want })
		if got := r.count(text); got != want || r.refused() > 0 {
			ts.Fatalf("%s has %d deliveries with %q, want %d; %d had no valid signature", name, got, text, want, r.refused())
		}
	default:
		ts.Fatalf("no subcommand %q", args[0])
	}
}

// ServeHTTP takes what is signed.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	var envelope struct {
		Type string
		Data json.RawMessage
	}
	_, params, disposition := mime.ParseMediaType(req.Header.Get("Content-Disposition"))
	if disposition == nil { // a file as it is
		envelope.Type, envelope.Data = params["filename"], body
	}
	if err != nil || r.verifier.Verify(req.Header, body) != nil || disposition != nil && json.Unmarshal(body, &envelope) != nil {
		r.mu.Lock()
		r.invalid++
		r.mu.Unlock()
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if r.release != nil {
		r.mu.Lock()
		r.hanging++
		r.mu.Unlock()
		select {
		case <-r.release:
		case <-req.Context().Done():
			return // the daemon went away: this did not arrive
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if status := r.status[envelope.Type]; status >= http.StatusMultipleChoices {
		w.WriteHeader(status)
		return
	}
	r.arrived = append(r.arrived, envelope.Type+" "+string(envelope.Data))
	w.WriteHeader(http.StatusNoContent)
}

func (r *receiver) count(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, one := range r.arrived {
		if strings.Contains(one, text) {
			n++
		}
	}
	return n
}

func (r *receiver) refused() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.invalid
}

// notifications are what daemons told systemd.
type notifications struct {
	mu  sync.Mutex
	all []string
}

// systemdCommand plays systemd:
//
//	systemd start           sets NOTIFY_SOCKET
//	systemd await REGEXP    until what was told, one message per line, matches
func systemdCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: systemd start|await ...")
	}
	told := &worldOf(ts).systemd
	switch args[0] {
	case "start":
		path := ts.MkAbs("notify.sock")
		socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		ts.Check(err)
		ts.Defer(func() { _ = socket.Close() })
		ts.Setenv("NOTIFY_SOCKET", path)
		go told.listen(socket)
	case "await":
		pattern, err := regexp.Compile(`(?m)` + args[1])
		ts.Check(err)
		poll(ts, args[1]+" told to systemd", func() bool { return pattern.MatchString(told.text()) })
	default:
		ts.Fatalf("no subcommand %q", args[0])
	}
}

func (n *notifications) listen(socket *net.UnixConn) {
	buffer := make([]byte, 4096)
	for {
		length, err := socket.Read(buffer)
		if err != nil {
			return // closed at the script's end
		}
		n.mu.Lock()
		n.all = append(n.all, strings.ReplaceAll(string(buffer[:length]), "\n", " "))
		n.mu.Unlock()
	}
}

func (n *notifications) text() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.all, "\n")
}
