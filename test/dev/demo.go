package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"istag.dev/test/harness"
)

// demo plays the story from nothing, in a folder and on a cluster of its own, and leaves nothing behind.
func demo(ctx context.Context, out io.Writer) (err error) {
	begun := time.Now()
	dir, err := os.MkdirTemp("", "istag-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fmt.Fprintln(out, "Starting a Kubernetes and a registry of their own for this, and istag on it.")
	fmt.Fprintln(out, "(The very first time builds Kubernetes, which takes minutes.)")
	env, err := harness.Start(ctx, harness.Options{Dir: dir, Log: out})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Stop()) }()
	p := &play{env: env, out: out}
	for i, s := range story {
		fmt.Fprintf(out, "\n%d. %s\n", i+1, wrap(s.tells))
		for _, do := range s.does {
			if err := do(ctx, p); err != nil {
				return fmt.Errorf("step %d (%s): %w", i+1, s.tells, err)
			}
		}
	}
	fmt.Fprintf(out, "\nAll %d steps showed what they should, in %s.\n", len(story), time.Since(begun).Round(time.Second))
	return nil
}

// step is a line of prose and what is done to see that it is true.
type step struct {
	tells string
	does  []action
}

// action does one thing in front of the audience; its error says what was expected and what was seen.
type action func(context.Context, *play) error

// play is what the actions act on.
type play struct {
	env *harness.Env
	out io.Writer
}

// show prints what a command said, indented so that it is told from the prose.
func (p *play) show(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintf(p.out, "    %s\n", strings.TrimRight(line, "\n"))
	}
}

// commandLine is a call of kubectl with its arguments quoted as a shell would want them.
func commandLine(args []string) string {
	words := []string{"kubectl"}
	for _, arg := range args {
		words = append(words, quote(arg))
	}
	return strings.Join(words, " ")
}

// kubectl runs kubectl.
func (p *play) kubectl(ctx context.Context, args ...string) harness.Result {
	p.show("$ " + commandLine(args))
	result := p.env.Kubectl(ctx, args...)
	p.show(result.Stdout + result.Stderr)
	return result
}

// quote writes an argument as a shell wants it.
func quote(arg string) string {
	if strings.ContainsAny(arg, " '{}[]()\"*?$\\&;|<>") {
		return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	return arg
}

// succeeds runs kubectl, which must succeed.
func succeeds(args ...string) action {
	return func(ctx context.Context, p *play) error {
		return p.kubectl(ctx, args...).Err()
	}
}

// applied shows a manifest and applies it.
func applied(manifest string) action { return sent(manifest, "apply") }

// created shows a manifest and creates it.
func created(manifest string, flags ...string) action { return sent(manifest, "create", flags...) }

func sent(manifest, verb string, flags ...string) action {
	return func(ctx context.Context, p *play) error {
		args := append([]string{verb, "-f", "-"}, flags...)
		p.show("$ " + commandLine(args) + " <<EOF\n" + strings.TrimSpace(manifest) + "\nEOF")
		result := p.env.KubectlStdin(ctx, manifest, args...)
		p.show(result.Stdout + result.Stderr)
		return result.Err()
	}
}

// refused runs kubectl, which must be refused with a message that holds every one of the texts.
func refused(args []string, texts ...string) action {
	return func(ctx context.Context, p *play) error {
		result := p.kubectl(ctx, args...)
		if result.Code == 0 {
			return fmt.Errorf("expected to be refused: kubectl %s", strings.Join(args, " "))
		}
		for _, text := range texts {
			if !strings.Contains(result.Stderr, text) {
				return fmt.Errorf("expected the message to hold %q, got: %s", text, result.Stderr)
			}
		}
		return nil
	}
}

// images reads with kubectl the images of objects, each of which must be the one wanted.
func images(path string, want func(context.Context, *play) (string, error), objects ...string) action {
	return func(ctx context.Context, p *play) error {
		wanted, err := want(ctx, p)
		if err != nil {
			return err
		}
		for _, object := range objects {
			namespace, name, _ := strings.Cut(object, " ")
			result := p.kubectl(ctx, "get", name, "--namespace", namespace, "--output", "jsonpath={"+path+`}{"\n"}`)
			if err := result.Err(); err != nil {
				return err
			}
			if got := strings.TrimSpace(result.Stdout); got != wanted {
				return fmt.Errorf("expected %s to have image %q, got %q", name, wanted, got)
			}
		}
		return nil
	}
}

// written is an image as it stands in the command.
func written(image string) func(context.Context, *play) (string, error) {
	return func(context.Context, *play) (string, error) { return image, nil }
}

// pinned is the pull spec of what the registry itself serves under a tag of the story's repository.
func pinned(tag string) func(context.Context, *play) (string, error) {
	return func(ctx context.Context, p *play) (string, error) {
		digest, err := p.env.ServedDigest(ctx, repository+":"+tag)
		return repository + "@" + digest, err
	}
}

// waits runs kubectl until a field of an object is the pull spec of what the registry serves under a tag.
func waits(object, path, tag string) action {
	return func(ctx context.Context, p *play) error {
		want, err := pinned(tag)(ctx, p)
		if err != nil {
			return err
		}
		return p.kubectl(ctx, "wait", object, "--namespace", "shop", "--for", "jsonpath={"+path+"}="+want, "--timeout", "60s").Err()
	}
}

// serves shows what the registry itself says of a tag of the story's repository.
func serves(tag string) action {
	return func(ctx context.Context, p *play) error {
		digest, err := p.env.ServedDigest(ctx, repository+":"+tag)
		if err != nil {
			return err
		}
		p.show(fmt.Sprintf("the registry itself: %s:%s is\n%s", repository, tag, digest))
		return nil
	}
}

// wrap breaks prose into lines that a terminal shows whole.
func wrap(text string) string {
	const width = 96
	var b strings.Builder
	column := 0
	for i, word := range strings.Fields(text) {
		if i > 0 && column+1+len(word) > width {
			b.WriteString("\n  ")
			column = 0
		} else if i > 0 {
			b.WriteString(" ")
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}
