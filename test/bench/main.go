// Command bench prints istag's figures, as lines of "name: value unit". Every ratio is taken within
// one run on one machine: ours over the reference that its name states.
//
//	bench [triggers] [api] [pods] [admissions]
//
// runs those that are named, all without a name.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"istag.dev/test/harness"
)

func main() {
	// The libraries' own lines are no part of what we have to say.
	log.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 3 && args[0] == noopCommand {
		return serveNoop(ctx, args[1], args[2])
	}
	chosen, err := choose(args)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "istag-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	env, err := harness.Start(ctx, harness.Options{Dir: dir, Log: os.Stderr, Direct: true})
	if err != nil {
		return err
	}
	if err := measure(ctx, env, chosen, os.Stdout); err != nil {
		_ = env.Stop() // the first error says more
		return err
	}
	return env.Stop()
}

// benchmark is one of those that there are.
type benchmark struct {
	name string
	run  func(context.Context, *harness.Env, io.Writer) error
}

// benchmarks are all, the ones that need a full index last.
var benchmarks = []benchmark{{"triggers", triggers}, {"api", api}, {"pods", pods}, {"admissions", admissions}}

// choose returns the benchmarks of the names given, all without any.
func choose(wanted []string) ([]benchmark, error) {
	if len(wanted) == 0 {
		return benchmarks, nil
	}
	var chosen []benchmark
	for _, b := range benchmarks {
		if slices.Contains(wanted, b.name) {
			chosen = append(chosen, b)
		}
	}
	for _, name := range wanted {
		if !slices.ContainsFunc(benchmarks, func(b benchmark) bool { return b.name == name }) {
			return nil, fmt.Errorf("there is no benchmark %q: there are triggers, api, pods and admissions", name)
		}
	}
	return chosen, nil
}

// measure runs benchmarks.
func measure(ctx context.Context, env *harness.Env, chosen []benchmark, out io.Writer) error {
	fmt.Fprintf(out, "# %s\n# commit %s\n", machine(), commit(ctx))
	for _, b := range chosen {
		if err := b.run(ctx, env, out); err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
	}
	return nil
}

// figure prints one line.
func figure(out io.Writer, name string, value float64, unit string) {
	fmt.Fprintf(out, "%s: %.4g %s\n", name, value, unit)
}

// note tells people what is being done.
func note(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func machine() string {
	model := "unknown processor"
	if file, err := os.Open("/proc/cpuinfo"); err == nil {
		defer file.Close()
		for lines := bufio.NewScanner(file); lines.Scan(); {
			if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("machine %s, %d cores, %s/%s, %s", model, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
}

func commit(ctx context.Context) string {
	text, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(text))
}
