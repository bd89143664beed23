package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/internal/api"
)

func newSecrets() *cobra.Command {
	return group("secrets", "Look at and rotate the signing secrets of destinations",
		newSecretsList(), newSecretsCreate(), newSecretsRotate(), newSecretsExpire(), newSecretsRevoke())
}

func newSecretsList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list DESTINATION", Short: "List the signing secrets of a destination; values are never shown", Args: cobra.ExactArgs(1),
		Long: "Lists the signing secrets that the daemon keeps for a destination, also those that have ended.\n" +
			"While there is none, the destination signs with the secret of its configuration.",
	}
	r := addRemote(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := r.client()
		if err != nil {
			return err
		}
		list, err := c.Secrets(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if r.json {
			return printJSON(cmd.OutOrStdout(), list)
		}
		if len(list.Secrets) == 0 {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "The daemon keeps none for it: it signs with the secret of its configuration.")
			return err
		}
		return printSecrets(cmd.OutOrStdout(), list.Secrets)
	}
	return cmd
}

func printSecrets(w io.Writer, list []api.Secret) error {
	rows := make([][]string, len(list))
	for i := range list {
		s := &list[i]
		state := s.State
		if s.Primary {
			state += " (primary)"
		}
		rows[i] = []string{
			s.ID, s.Algorithm, state, s.Fingerprint, when(s.ExpiresAt), strconv.Itoa(int(s.UsageCount)), when(s.LastUsedAt), when(&s.CreatedAt), s.CreatedBy,
		}
	}
	return table(w, []string{"ID", "ALGORITHM", "STATE", "FINGERPRINT", "EXPIRES", "USED", "LAST USED", "CREATED", "BY"}, rows)
}

// keyFlags are those of a command that makes a signing secret.
type keyFlags struct {
	file, algorithm string
	bytes           int
}

func addKeyFlags(cmd *cobra.Command) *keyFlags {
	k := &keyFlags{}
	flags := cmd.Flags()
	flags.StringVar(&k.file, "secret-file", "", "file with a secret of your own, of 24 to 64 bytes; - reads standard input (default: one is generated)")
	flags.StringVar(&k.algorithm, "algorithm", "", "of what is generated: HMAC-SHA256 or Ed25519")
	flags.IntVar(&k.bytes, "bytes", 0, "length of what is generated: 24 or 48 (default 24)")
	return k
}

// secret reads a secret of one's own; nil: one is to be generated. An argument
// would be seen by everybody in the process list.
func (k *keyFlags) secret(stdin io.Reader) (*string, error) {
	if k.file == "" {
		return nil, nil
	}
	source := stdin
	if k.file != "-" {
		f, err := os.Open(k.file)
		if err != nil {
			return nil, fmt.Errorf("--secret-file: %w", err)
		}
		defer func() { _ = f.Close() }()
		source = f
	}
	content, err := io.ReadAll(io.LimitReader(source, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("--secret-file: %w", err)
	}
	secret := strings.TrimRight(string(content), "\r\n")
	return &secret, nil
}

func newSecretsCreate() *cobra.Command {
	var n api.NewSecret
	var expires time.Duration
	cmd := &cobra.Command{
		Use: "create DESTINATION", Short: "Add a signing secret to a destination: it signs beside those that are there", Args: cobra.ExactArgs(1),
		Long: "Adds a signing secret to a destination and prints its value on standard output, this once.\n" +
			"With the first one, the secret of the destination's configuration is taken along, so that receivers go on to verify.",
		Example: `  deliveryd secrets create billing
  deliveryd secrets create billing --algorithm Ed25519`,
	}
	r, keys := addRemote(cmd), addKeyFlags(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&n.Primary, "primary", false, "make it the primary one")
	flags.DurationVar(&expires, "expires-in", 0, "when it stops to sign, such as 720h; 0 means never")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if n.Secret, err = keys.secret(cmd.InOrStdin()); err != nil {
			return usageError{err}
		}
		n.Algorithm, n.Bytes = keys.algorithm, keys.bytes
		if expires != 0 {
			at := time.Now().Add(expires)
			n.ExpiresAt = &at
		}
		c, err := r.client()
		if err != nil {
			return err
		}
		made, err := c.CreateSecret(cmd.Context(), args[0], &n)
		if err != nil {
			return err
		}
		return printCreated(cmd, made, r.json)
	}
	return cmd
}

func newSecretsRotate() *cobra.Command {
	var rotation api.SecretRotation
	var overlap time.Duration
	cmd := &cobra.Command{
		Use: "rotate DESTINATION", Short: "Replace the signing secret of a destination; the old one signs beside it for the overlap", Args: cobra.ExactArgs(1),
		Long: "Makes a new signing secret, primary, and prints its value on standard output, this once. Until the overlap\n" +
			"is over, every request has the signatures of both, so receivers may change at any moment of it.",
		Example: `  deliveryd secrets rotate billing
  deliveryd secrets rotate billing --overlap 1h`,
	}
	r, keys := addRemote(cmd), addKeyFlags(cmd)
	cmd.Flags().DurationVar(&overlap, "overlap", 24*time.Hour, "how long the old one goes on to sign beside it, up to 720h; 0 ends it at once")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if rotation.Secret, err = keys.secret(cmd.InOrStdin()); err != nil {
			return usageError{err}
		}
		rotation.Algorithm, rotation.Bytes, rotation.Overlap = keys.algorithm, keys.bytes, overlap.String()
		c, err := r.client()
		if err != nil {
			return err
		}
		made, err := c.RotateSecret(cmd.Context(), args[0], &rotation)
		if err != nil {
			return err
		}
		return printCreated(cmd, made, r.json)
	}
	return cmd
}

// printCreated prints the value alone to standard output, for a script or a pipe,
// and what it is to standard error.
func printCreated(cmd *cobra.Command, made *api.CreatedSecret, asJSON bool) error {
	if asJSON {
		return printJSON(cmd.OutOrStdout(), made)
	}
	_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s, %s, fingerprint %s; it is not shown again\n", oneLine(made.ID), oneLine(made.Algorithm), oneLine(made.Fingerprint))
	if made.PublicKey != "" {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "receivers verify with %s\n", oneLine(made.PublicKey))
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), made.Value)
	return err
}

func newSecretsExpire() *cobra.Command {
	var in time.Duration
	cmd := &cobra.Command{
		Use: "expire DESTINATION ID", Short: "Say when a signing secret stops to sign", Args: cobra.ExactArgs(2),
		Example: "  deliveryd secrets expire billing whs_4kq2v7x3 --in 1h",
	}
	r := addRemote(cmd)
	cmd.Flags().DurationVar(&in, "in", 0, "how long it still signs, such as 1h; required")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if in <= 0 {
			return usageError{errors.New("--in must say how long it still signs; to end it at once, use revoke")}
		}
		c, err := r.client()
		if err != nil {
			return err
		}
		at := time.Now().Add(in)
		changed, err := c.ChangeSecret(cmd.Context(), args[0], args[1], &api.SecretChange{ExpiresAt: &at})
		if err != nil {
			return err
		}
		return printSecret(cmd.OutOrStdout(), changed, r.json)
	}
	return cmd
}

func newSecretsRevoke() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "revoke DESTINATION ID", Short: "Revoke a signing secret: it signs no attempt that begins more than 2 seconds from now", Args: cobra.ExactArgs(2),
	}
	r := addRemote(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "also where no usable secret is left: deliveries are held until there is one")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := r.client()
		if err != nil {
			return err
		}
		revoked, err := c.RevokeSecret(cmd.Context(), args[0], args[1], force)
		if err != nil {
			return err
		}
		return printSecret(cmd.OutOrStdout(), revoked, r.json)
	}
	return cmd
}

func printSecret(w io.Writer, s *api.Secret, asJSON bool) error {
	if asJSON {
		return printJSON(w, s)
	}
	text := s.ID + " is " + s.State
	if s.ExpiresAt != nil && s.State == "active" {
		text += " until " + when(s.ExpiresAt)
	}
	_, err := fmt.Fprintln(w, oneLine(text))
	return err
}
