// Command deliverybench measures deliveryd from outside and beside a peer, prints tables and writes bench.json. It must
// be run from the root of the source, after make build; make bench does both.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/bench"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/load"
	"github.com/deliveryd/deliveryd/daemon/cmd/deliverybench/internal/receiver"
	"github.com/deliveryd/deliveryd/sdk/pace"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := rootCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "deliverybench:", err)
		os.Exit(1)
	}
}

func rootCommand() *cobra.Command {
	o := bench.Options{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	var destinations, concurrency []int
	for _, shape := range bench.DefaultShapes() {
		destinations, concurrency = append(destinations, shape.Destinations), append(concurrency, shape.Concurrency)
	}
	cmd := &cobra.Command{
		Use:   "deliverybench",
		Short: "Measure deliveryd and a peer, in turn",
		Long: "Measures deliveryd and a peer in turn: rate, CPU by process, WAL, statements, memory, latency, submissions.\n" +
			"Prints tables and writes bench.json. Ends with status 1 when a delivery was lost or repeated.",
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(destinations) != len(concurrency) {
				return fmt.Errorf("--destinations has %d numbers and --concurrency %d: want one each", len(destinations), len(concurrency))
			}
			for i := range destinations {
				o.Shapes = append(o.Shapes, bench.Shape{Destinations: destinations[i], Concurrency: concurrency[i]})
			}
			pace.Start(pace.HostSpare) // as the daemon does, whose part of holding plugins this process plays
			return run(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&o.Sections, "only", nil, "sections to run: "+strings.Join(bench.SectionNames(), ", ")+" (default: the first four)")
	flags.IntVarP(&o.Deliveries, "deliveries", "n", 50_000, "deliveries of a throughput run")
	flags.IntVar(&o.Rounds, "rounds", 3, "how often the sides are measured in turn")
	flags.IntSliceVar(&destinations, "destinations", destinations, "numbers of destinations of throughput runs")
	flags.IntSliceVar(&concurrency, "concurrency", concurrency, "concurrency per destination, for each of them")
	flags.StringVar(&o.Peer, "peer", "../shared/peers/river", "directory of the peer's source; it is copied; without one there is no comparison")
	flags.StringVar(&o.Bin, "bin", "bin", "directory with deliveryd and plugins/")
	flags.StringVar(&o.Build, "build", "build", "directory for bench.json, logs and the temporary database")
	flags.IntVar(&o.Rate, "rate", 100, "latency: submissions per second")
	flags.DurationVar(&o.Latency, "latency", 0, "latency: length of a run (default 20s)")
	flags.DurationVar(&o.Submit, "submit", 0, "submit: length of a run (default 5s)")
	flags.DurationVar(&o.Snapshot, "snapshot", 0, "snapshot: how long it is held (default 1m0s)")
	flags.DurationVar(&o.Soak, "soak", 0, "soak: its length (default 10m0s)")
	flags.IntVar(&o.ArtifactMiB, "artifact-mib", 2048, "artifact: size of the file")
	flags.DurationVar(&o.Sick, "sick", 0, "sick: length of a run (default 40s)")
	flags.DurationVar(&o.WarmUp, "warm-up", 0, "latency, submit, sick: the longest that a side runs before it is measured (default 3s)")
	flags.IntVar(&o.SickDestinations, "sick-destinations", 1000, "sick: destinations, of which a fifth is down")
	flags.IntSliceVar(&o.ClaimRows, "claim-rows", []int{10_000, 1_000_000, 3_000_000}, "claim: rows behind one blocked destination, ascending")
	cmd.AddCommand(receiverCommand(), postCommand())
	cmd.CompletionOptions.DisableDefaultCmd = true
	return cmd
}

// run prints and saves what was measured also when it ended early.
func run(ctx context.Context, o bench.Options) error {
	result, err := bench.Run(ctx, o)
	if result == nil {
		return err
	}
	if err != nil {
		result.Error = err.Error()
	}
	result.Judge()
	path, saveErr := result.Save(o.Build)
	if saveErr == nil {
		o.Log.Info("written", "file", path)
	}
	return errors.Join(err, result.Print(os.Stdout), saveErr)
}

func receiverCommand() *cobra.Command {
	address := "127.0.0.1:0"
	cmd := &cobra.Command{
		Use: "receiver", Short: "Receive webhooks, verify and count them; print the address", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return receiver.Serve(cmd.Context(), address, func(a net.Addr) { fmt.Println(a) })
		},
	}
	cmd.Flags().StringVar(&address, "address", address, "loopback address to listen on")
	return cmd
}

func postCommand() *cobra.Command {
	var url string
	n, workers := 50_000, 64
	cmd := &cobra.Command{
		Use: "post", Short: "Send signed payloads in a bare loop; print a line of JSON", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if n < 1 || workers < 1 {
				return errors.New("--n is " + strconv.Itoa(n) + " and --workers " + strconv.Itoa(workers) + ": want 1 or more")
			}
			ceiling, err := load.Post(cmd.Context(), url, receiver.Secret(), n, workers)
			if err != nil {
				return err
			}
			return json.NewEncoder(os.Stdout).Encode(ceiling)
		},
	}
	cmd.Flags().StringVar(&url, "url", "", "where to")
	cmd.Flags().IntVar(&n, "n", n, "how many")
	cmd.Flags().IntVar(&workers, "workers", workers, "how many at once")
	_ = cmd.MarkFlagRequired("url")
	return cmd
}
