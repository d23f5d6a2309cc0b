// Command dev runs istag on a local cluster: left running for a developer (up, down), or to play the
// story of what it is for (demo).
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
)

func main() { os.Exit(execute()) }

func execute() int {
	// The libraries' own lines are no part of what we have to say.
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "dev:", err)
		return 1
	}
	return 0
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "dev",
		Short:         "istag on a local cluster",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newUpCommand(), newDownCommand(), newRunCommand(), newDemoCommand())
	return root
}

func newUpCommand() *cobra.Command {
	var dir string
	command := &cobra.Command{
		Use:   "up",
		Short: "Start a local cluster with istag on it, leave it running and print how to use it",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return up(command.Context(), dir, command.OutOrStdout(), command.ErrOrStderr())
		},
	}
	addDir(command, &dir)
	return command
}

func newDownCommand() *cobra.Command {
	var dir string
	command := &cobra.Command{
		Use:   "down",
		Short: "End what up started, and nothing else",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return down(command.Context(), dir, command.ErrOrStderr())
		},
	}
	addDir(command, &dir)
	return command
}

func newRunCommand() *cobra.Command {
	var dir string
	command := &cobra.Command{
		Use:   "run",
		Short: "Run in the foreground what up leaves running",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return run(command.Context(), dir, command.ErrOrStderr())
		},
	}
	addDir(command, &dir)
	return command
}

func newDemoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Play the story of what istag is for on a local cluster of its own, and check every step",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return demo(command.Context(), command.OutOrStdout())
		},
	}
}

func addDir(command *cobra.Command, dir *string) {
	command.Flags().StringVar(dir, "dir", ".local", "`folder` for everything that is written; each has a cluster of its own")
}
