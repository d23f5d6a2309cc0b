// Command cluster builds and runs a real Kubernetes control plane, with a node
// that kwok plays and two real image registries beside it, on the loopback
// interface of one machine. It needs Go and nothing else: every part is built
// from its Go module.
//
//	cluster build             build the binaries (minutes, once)
//	cluster run --dir DIR     run a cluster until SIGINT or SIGTERM
//
// `cluster run` prints one line of JSON when all is ready, see [State]. From then
// on SIGUSR1 has its API server killed and started again. Any number of clusters
// run side by side. This is a module of its own so that the versions of Kubernetes
// it builds never become the product's.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "cluster",
		Short:         "A real Kubernetes control plane and real registries on loopback",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newBuildCommand(), newRunCommand())
	return root
}

// binFlag describes the flag that both commands have.
const binFlag = "`folder` under which every set of versions has one (default .bin in this module's source)"

func newBuildCommand() *cobra.Command {
	var bin string
	command := &cobra.Command{
		Use:   "build",
		Short: "Build every binary that is missing and print their folder",
		Long: "Build every binary that is missing and print their folder.\n\n" +
			"Binaries found in " + assetsVariable + " are used and not built.",
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			built, err := Build(command.Context(), bin, command.ErrOrStderr())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(command.OutOrStdout(), built.Dir)
			return err
		},
	}
	command.Flags().StringVar(&bin, "bin", "", binFlag)
	return command
}

func newRunCommand() *cobra.Command {
	var options Options
	var untilStdinCloses bool
	command := &cobra.Command{
		Use:   "run",
		Short: "Run a cluster in the foreground and print one line of JSON when it is ready",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			ctx := command.Context()
			if untilStdinCloses {
				var cancel context.CancelCauseFunc
				ctx, cancel = context.WithCancelCause(ctx)
				go waitForEnd(command.InOrStdin(), cancel)
			}
			restart := make(chan os.Signal, 1)
			signal.Notify(restart, syscall.SIGUSR1)
			defer signal.Stop(restart)
			options.Restart = restart
			options.Progress = command.ErrOrStderr()
			options.Ready = func(state *State) error { return json.NewEncoder(command.OutOrStdout()).Encode(state) }
			return Run(ctx, options)
		},
	}
	flags := command.Flags()
	flags.StringVar(&options.Dir, "dir", "", "`folder` for everything the cluster writes")
	flags.StringVar(&options.Bin, "bin", "", binFlag)
	flags.BoolVar(&untilStdinCloses, "until-stdin-closes", false,
		"end when standard input closes as well, so that the cluster ends with the process that holds the other end")
	_ = command.MarkFlagRequired("dir") // fails for a flag that is not defined; this one is
	return command
}

// waitForEnd cancels when nobody holds the other end of input any more.
func waitForEnd(input io.Reader, cancel context.CancelCauseFunc) {
	_, err := io.Copy(io.Discard, input)
	cancel(errors.Join(errors.New("standard input closed"), err))
}
