package sftp

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/deliveryd/deliveryd/sdk/transport"
)

func TestDeliver(t *testing.T) {
	t.Parallel()
	s := startSSHD(t, "")
	c := s.config(t)
	c.Directory, c.Permissions, c.Verify = "{organization}/{type}", "0640", verifySHA256
	d := opened(t, c)
	receipt, err := d.Deliver(t.Context(), order("dlv_1", `{"order":1}`))
	must(t, err)
	final := filepath.Join(s.Home, "acme/order.paid/dlv_1-order.paid.json")
	if want := fmt.Sprintf("sftp://127.0.0.1:%d%s", s.Port, final); receipt.Reference != want {
		t.Errorf("reference %q, want %q", receipt.Reference, want)
	}
	if diff := cmp.Diff(map[string]string{"acme/order.paid/dlv_1-order.paid.json": `{"order":1}`}, s.files(t)); diff != "" {
		t.Error(diff)
	}
	if info, err := os.Stat(final); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("permissions %v, %v", info.Mode(), err)
	}
	again, err := d.Deliver(t.Context(), order("dlv_1", `{"order":1}`))
	if err != nil || again.Details["already"] == "" || again.Reference != receipt.Reference {
		t.Errorf("a second attempt: %+v, %v", again, err)
	}
	// Encrypted, a delivery has other bytes at each attempt: nobody else has its id in a name.
	if again, err = d.Deliver(t.Context(), order("dlv_1", `{"order":2}`)); err != nil || again.Details["already"] != "" || s.files(t)["acme/order.paid/dlv_1-order.paid.json"] != `{"order":2}` {
		t.Errorf("an attempt with other bytes: %+v, %v", again, err)
	}
	if receipt, err := d.Deliver(t.Context(), order("dlv_2", "")); err != nil || receipt.Details["bytes"] != "0" {
		t.Errorf("an empty file: %+v, %v", receipt, err)
	}
}

func TestIfExists(t *testing.T) {
	t.Parallel()
	s := startSSHD(t, "")
	for policy, want := range map[string]string{existsFail: "old", existsSkip: "old", existsOverwrite: "new"} {
		c := s.config(t)
		c.Directory, c.Filename, c.IfExists = policy, "report.csv", policy
		d := opened(t, c)
		if _, err := d.Deliver(t.Context(), order("dlv_1", "old")); err != nil {
			t.Error(err)
		}
		receipt, err := d.Deliver(t.Context(), order("dlv_2", "new"))
		switch policy {
		case existsFail:
			wantClass(t, err, transport.ClassPermanent, "sftp.exists")
		case existsSkip:
			if err != nil || receipt.Details["skipped"] == "" {
				t.Errorf("skip: %+v, %v", receipt, err)
			}
		default:
			must(t, err)
		}
		if got := s.files(t)[policy+"/report.csv"]; got != want {
			t.Errorf("%s: the file holds %q, want %q", policy, got, want)
		}
	}
	if files := s.files(t); len(files) != 3 {
		t.Errorf("files are left over: %v", files)
	}
}

// Of many that want the same name at once, one has it, whole.
func TestOneNameForMany(t *testing.T) {
	t.Parallel()
	s := startSSHD(t, "")
	c := s.config(t)
	c.Filename = "report.csv"
	d := opened(t, c)
	var wg sync.WaitGroup
	var mu sync.Mutex
	delivered := 0
	for i := range 12 {
		wg.Go(func() {
			_, err := d.Deliver(t.Context(), order(fmt.Sprint("dlv_", i), fmt.Sprint("content ", i)))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				delivered++
			} else {
				wantClass(t, err, transport.ClassPermanent, "sftp.exists")
			}
		})
	}
	wg.Wait()
	if files := s.files(t); delivered != 1 || len(files) != 1 {
		t.Errorf("%d were delivered, files %v", delivered, files)
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	s := startSSHD(t, "")
	d := opened(t, s.config(t))
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if _, err := d.Deliver(t.Context(), order(fmt.Sprint("dlv_", i), fmt.Sprint("content ", i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	files := s.files(t)
	for i := range 100 {
		if got := files[fmt.Sprintf("dlv_%d-order.paid.json", i)]; got != fmt.Sprint("content ", i) {
			t.Errorf("file %d holds %q", i, got)
		}
	}
	if len(d.pool.idle) > d.config.MaxConnections {
		t.Errorf("%d connections", len(d.pool.idle))
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s := startSSHD(t, "")
	locked := filepath.Join(s.Home, "locked")
	must(t, os.Mkdir(locked, 0o555))
	c := s.config(t)
	c.Directory = locked
	_, err := opened(t, c).Deliver(t.Context(), order("dlv_1", "x"))
	wantClass(t, err, transport.ClassConfig, "sftp.permission_denied")

	c = s.config(t)
	c.Directory, c.MakeDirectories = "not/there", false
	_, err = opened(t, c).Deliver(t.Context(), order("dlv_1", "x"))
	wantClass(t, err, transport.ClassConfig, "sftp.no_such_file")

	c = s.config(t)
	c.Directory = filepath.Join(locked, "below")
	_, err = opened(t, c).Deliver(t.Context(), order("dlv_1", "x"))
	wantClass(t, err, transport.ClassConfig, "sftp.permission_denied")
	if files := s.files(t); len(files) != 0 {
		t.Errorf("files are left over: %v", files)
	}
}

// The server's disk is full: one of 2 MiB, where a disk may be mounted. Elsewhere
// a limit of file sizes ends a write in the same way.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	before := `trap "" XFSZ; ulimit -f 2048; ` // 1 MiB, in blocks of 512 bytes
	if mayMount(t) {
		before = mounting(`mount -t tmpfs -o size=2m,mode=777 tmpfs "$(dirname "$5")/home"`) // beside the server's configuration
	}
	s := startSSHD(t, before)
	d := opened(t, s.config(t))
	big := make([]byte, 3<<20)
	_, err := d.Deliver(t.Context(), order("dlv_1", string(big)))
	wantClass(t, err, transport.ClassTransient, "sftp.failure")
	_, err = d.Upload(t.Context(), artifact("dlv_2", big), bytes.NewReader(big))
	wantClass(t, err, transport.ClassTransient, "sftp.failure")
	// What could be written of them does not keep the disk full.
	small := string(make([]byte, 1<<20))
	if _, err := d.Deliver(t.Context(), order("dlv_3", small)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	// Only the server sees its disk.
	session, err := d.dialer.session(t.Context())
	must(t, err)
	defer session.close()
	files, err := session.ReadDir(s.Home)
	must(t, err)
	if len(files) != 1 || files[0].Name() != "dlv_3-order.paid.json" || files[0].Size() != int64(len(small)) {
		t.Errorf("%d files: %v", len(files), files)
	}
}
