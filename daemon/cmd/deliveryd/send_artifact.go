package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/internal/client"
)

const (
	asArtifact = "artifact"
	asLines    = "lines"
	// artifactType is the type of a file's delivery where nobody says another.
	artifactType = "file"
)

// isArtifact says how --file is taken: JSON lines by the endings that they go by,
// and from standard input, as long as nobody says otherwise.
func (f *sendFlags) isArtifact() bool {
	if f.as != "" {
		return f.as == asArtifact
	}
	ending := strings.ToLower(filepath.Ext(f.file))
	return f.file != "-" && ending != ".ndjson" && ending != ".jsonl"
}

func (f *sendFlags) checkFile() error {
	switch {
	case f.as != "" && f.as != asArtifact && f.as != asLines:
		return fmt.Errorf("--as must be %s or %s", asArtifact, asLines)
	case f.file == "" && f.as+f.name+f.contentType != "":
		return errors.New("--as, --name and --content-type belong to --file")
	case f.file == "":
		return nil
	case f.isArtifact() && len(f.to) == 0:
		return errors.New("--to is needed: the label or id of a destination, or \"default\"")
	case !f.isArtifact() && f.name+f.contentType != "":
		return errors.New("--name and --content-type belong to an artifact, and --file is taken as lines; --as artifact takes it as one")
	case !f.isArtifact() && f.key != "":
		// One key for all lines would make one delivery of them.
		return errors.New("--key does not go with lines: a line may have an idempotency_key of its own")
	}
	return nil
}

// sendArtifact uploads a file and submits a delivery of it.
func (f *sendFlags) sendArtifact(cmd *cobra.Command, r *remote) error {
	submission, err := f.template(cmd.InOrStdin())
	if err != nil {
		return usageError{err}
	}
	if submission.Payload.Type == "" {
		submission.Payload.Type = artifactType
	}
	c, err := r.client()
	if err != nil {
		return err
	}
	if submission.Payload.Artifact, err = f.upload(cmd, c); err != nil {
		return err
	}
	accepted, err := c.Submit(cmd.Context(), submission)
	if err != nil {
		return err
	}
	return printAccepted(cmd.OutOrStdout(), accepted, r.json)
}

// upload streams the file to the daemon and returns the artifact's id.
func (f *sendFlags) upload(cmd *cobra.Command, c *client.Client) (id string, err error) {
	in, size := cmd.InOrStdin(), int64(-1)
	if f.file != "-" {
		file, err := os.Open(f.file)
		if err != nil {
			return "", usageError{err}
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			return "", fmt.Errorf("reading %s: %w", f.file, err)
		}
		if info.IsDir() {
			return "", usageError{fmt.Errorf("%s is a directory; pack it first: tar -czf - %s | deliveryd send --as artifact --name NAME.tar.gz --file -", f.file, f.file)}
		}
		if info.Mode().IsRegular() {
			size = info.Size()
		}
		in = file
	}
	bar := newProgress(cmd.ErrOrStderr(), size)
	bar.unit = "MiB"
	defer bar.done()
	digest := sha256.New()
	a, err := c.Upload(cmd.Context(), client.Artifact{Name: f.artifactName(), ContentType: f.mediaType(), Size: size}, io.TeeReader(in, io.MultiWriter(digest, bar)))
	if err != nil {
		return "", err
	}
	if sum := hex.EncodeToString(digest.Sum(nil)); a.SHA256 != sum {
		return "", fmt.Errorf("%s was damaged on its way: its SHA-256 is %s here and %s at the daemon; send it again", f.file, sum, a.SHA256)
	}
	return a.ID, nil
}

func (f *sendFlags) artifactName() string {
	switch {
	case f.name != "":
		return f.name
	case f.file == "-":
		return "stdin"
	}
	return filepath.Base(f.file)
}

func (f *sendFlags) mediaType() string {
	if f.contentType != "" {
		return f.contentType
	}
	if t := mime.TypeByExtension(filepath.Ext(f.artifactName())); t != "" {
		return t
	}
	return "application/octet-stream"
}
