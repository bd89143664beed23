package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/blob/s3blob"
)

const (
	// partSize and partConcurrency bound what an upload to S3 holds in memory; 10,000
	// parts of it are 80 GiB.
	partSize        = 8 << 20
	partConcurrency = 2
)

// CheckURL says what is wrong with the URL of a bucket, and what would be right.
func CheckURL(text string) error {
	const want = `want s3://bucket?region=eu-central-1, or file:///absolute/folder`
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("that is no URL; " + want)
	case u.User != nil:
		return errors.New("credentials do not belong into the URL: give them in AWS_ACCESS_KEY_ID and the like, or a profile; " + want)
	case u.Scheme == s3blob.Scheme && u.Host != "":
		return nil
	case u.Scheme == fileblob.Scheme && u.Host == "" && len(u.Path) > 1:
		return nil
	case u.Scheme == fileblob.Scheme:
		return errors.New("the folder must be absolute, behind three slashes; " + want)
	}
	return fmt.Errorf("%q names no bucket; %s", text, want)
}

// bucket is the backend in object storage or a folder.
type bucket struct {
	*blob.Bucket
	// location names it for as long as it exists, whatever its parameters.
	location string
	folder   string // of a file URL
	parts    *parts // of an s3 URL
}

func openBucket(ctx context.Context, text string) (*bucket, error) {
	if err := CheckURL(text); err != nil {
		return nil, fmt.Errorf("opening the artifacts' bucket: %w", err)
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("opening the artifacts' bucket: %w", err)
	}
	b := &bucket{}
	if u.Scheme == fileblob.Scheme {
		b.folder = u.Path
		q := u.Query()
		q.Set("create_dir", "true")
		q.Set("dir_file_mode", "448") // 0700; the files are 0600 as temporary files are
		q.Set("metadata", "skip")     // the database has it
		q.Set("no_tmp_dir", "true")   // a rename works within a file system only
		u.RawQuery = q.Encode()
	}
	mux := new(blob.URLMux)
	mux.RegisterBucket(fileblob.Scheme, &fileblob.URLOpener{})
	mux.RegisterBucket(s3blob.Scheme, &s3blob.URLOpener{})
	if b.Bucket, err = mux.OpenBucketURL(ctx, u); err != nil {
		return nil, fmt.Errorf("opening the artifacts' bucket: %w", err)
	}
	var client *s3.Client
	if b.As(&client) {
		b.parts = &parts{client, u.Host, u.Query().Get("prefix")}
	}
	u.RawQuery = ""
	b.location = u.String()
	return b, nil
}

func (b *bucket) close() error {
	if err := b.Close(); err != nil {
		return fmt.Errorf("closing the artifacts' bucket: %w", err)
	}
	return nil
}

func (b *bucket) write(ctx context.Context, id string) (writer, error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &blobWriter{cancel: cancel, folder: b.folder}
	var err error
	w.Writer, err = b.NewWriter(ctx, id, &blob.WriterOptions{
		BufferSize: partSize, MaxConcurrency: partConcurrency, ContentType: "application/octet-stream",
		BeforeWrite: func(as func(any) bool) error {
			as(&w.file) // of a folder only
			return nil
		},
	})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("writing to the artifacts' bucket: %w", err)
	}
	return w, nil
}

func (b *bucket) read(ctx context.Context, id string) (io.ReadCloser, error) {
	r, err := b.NewReader(ctx, id, nil)
	if err != nil {
		return nil, fmt.Errorf("reading from the artifacts' bucket: %w", err)
	}
	return r, nil
}

// remove deletes an artifact, and what an interrupted write left. It reports
// whether another look is not needed.
func (b *bucket) remove(ctx context.Context, id string) (gone bool, err error) {
	gone = true
	if b.parts != nil {
		if gone, err = b.parts.remove(ctx, id); err != nil {
			return false, fmt.Errorf("deleting from the artifacts' bucket: %w", err)
		}
	}
	list := b.List(&blob.ListOptions{Prefix: id})
	for {
		object, err := list.Next(ctx)
		if errors.Is(err, io.EOF) {
			return gone, nil
		}
		if err == nil {
			err = b.Delete(ctx, object.Key)
		}
		if err != nil {
			return false, fmt.Errorf("deleting from the artifacts' bucket: %w", err)
		}
	}
}

// blobWriter writes an object, which is not there before commit.
type blobWriter struct {
	*blob.Writer
	cancel context.CancelFunc
	folder string
	file   *os.File
}

func (w *blobWriter) commit() error {
	defer w.cancel()
	if w.file != nil {
		// The library does not: a power failure would take what was called stored.
		if err := w.file.Sync(); err != nil {
			w.abort()
			return fmt.Errorf("writing to the artifacts' folder: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("writing to the artifacts' bucket: %w", err)
	}
	if w.folder == "" {
		return nil
	}
	return syncFolder(w.folder)
}

func (w *blobWriter) abort() {
	w.cancel()
	_ = w.Close() // after cancel this drops what was written
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("writing to the artifacts' folder: %w", err)
	}
	defer func() { _ = folder.Close() }()
	if err := folder.Sync(); err != nil {
		return fmt.Errorf("writing to the artifacts' folder: %w", err)
	}
	return nil
}
