package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"istag.dev/config"
)

const docs = "../../docs"

// step is a command of a page and what the page says that it prints.
type step struct {
	line    int
	command string
	want    []string
}

// TestDocsAreTrue runs what the pages show, in order, and compares.
func TestDocsAreTrue(t *testing.T) {
	t.Parallel()
	// One page after the other: readers meet the same names on several pages.
	for _, page := range []string{"admission.md", "policy.md", "audit-log.md", "outage.md"} {
		t.Run(page, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(docs, page))
			if err != nil {
				t.Fatal(err)
			}
			steps, err := stepsOf(string(text))
			if err != nil {
				t.Fatalf("docs/%s: %v", page, err)
			}
			if len(steps) == 0 {
				t.Fatalf("docs/%s shows no command", page)
			}
			shell := newReader(t, string(text))
			for _, s := range steps {
				shell.follow(page, s)
			}
		})
	}
}

func TestConfigurationsInDocsAreValid(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob(filepath.Join(docs, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		blocks, err := fences(string(text), "yaml")
		if err != nil {
			t.Fatalf("%s: %v", page, err)
		}
		for _, b := range blocks {
			if len(b.lines) == 0 || b.lines[0] != "apiVersion: "+config.APIVersion {
				continue
			}
			if _, err := config.Parse([]byte(strings.Join(b.lines, "\n"))); err != nil {
				t.Errorf("%s, line %d: %v", page, b.first, err)
			}
		}
	}
}

// fence is a fenced block; first is the number of its first line.
type fence struct {
	first int
	lines []string
}

// fences returns the blocks of a page in one language.
func fences(page, language string) ([]fence, error) {
	var all []fence
	var inside *fence
	ours := false
	for i, line := range strings.Split(page, "\n") {
		switch opening := strings.HasPrefix(line, "```"); {
		case opening && inside == nil:
			inside, ours = &fence{first: i + 2}, strings.TrimPrefix(line, "```") == language
		case opening:
			if ours {
				all = append(all, *inside)
			}
			inside = nil
		case inside != nil:
			inside.lines = append(inside.lines, line)
		}
	}
	if inside != nil {
		return nil, fmt.Errorf("line %d: the block is not closed", inside.first-1)
	}
	return all, nil
}

// stepsOf returns the commands of a page's console blocks.
func stepsOf(page string) ([]step, error) {
	blocks, err := fences(page, "console")
	if err != nil {
		return nil, err
	}
	var steps []step
	for _, b := range blocks {
		var last *step
		for i, line := range b.lines {
			command, begins := strings.CutPrefix(line, "$ ")
			switch {
			case last != nil && !complete(last.command):
				last.command += "\n" + line
			case begins:
				steps = append(steps, step{line: b.first + i, command: command})
				last = &steps[len(steps)-1]
			case last == nil:
				return nil, fmt.Errorf("line %d: the block must begin with a command", b.first)
			default:
				last.want = append(last.want, line)
			}
		}
		if last == nil || !complete(last.command) {
			return nil, fmt.Errorf("line %d: the block has no command, or one that does not end", b.first)
		}
	}
	for i := range steps {
		for want := &steps[i].want; len(*want) > 0 && strings.TrimSpace((*want)[len(*want)-1]) == ""; {
			*want = (*want)[:len(*want)-1]
		}
	}
	return steps, nil
}

// hereDocument is what the input of a command ends with that follows on the next lines.
var hereDocument = regexp.MustCompile(`<<-?\s*['"]?(\w+)['"]?`)

// complete reports whether a command does not go on in the next line.
func complete(command string) bool {
	if strings.HasSuffix(command, `\`) {
		return false
	}
	begun := hereDocument.FindStringSubmatchIndex(command)
	if begun == nil {
		return true
	}
	end := command[begun[2]:begun[3]]
	return slices.ContainsFunc(strings.Split(command[begun[1]:], "\n")[1:], func(line string) bool { return strings.TrimSpace(line) == end })
}

// reader does what a page says, in a shell like theirs.
type reader struct {
	t   *testing.T
	dir string
	env []string
}

// madeNamespaces finds the namespaces that a page makes.
var madeNamespaces = regexp.MustCompile(`(?:create (?:namespace|ns) |kind: Namespace\b(?:.*\n)*?.*\bname: )([a-z0-9-]+)`)

// newReader is somebody who stands in a clone of the repository. When the page is read, the namespaces that it made go.
func newReader(t *testing.T, page string) *reader {
	t.Helper()
	r := &reader{t: t, dir: t.TempDir()}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	istag := env.Istag(t.Context())
	bin := filepath.Join(r.dir, ".bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{
		filepath.Join(bin, "kubectl"):  env.Cluster.Kubectl,
		filepath.Join(bin, "istag"):    istag.Path,
		filepath.Join(r.dir, "deploy"): filepath.Join(root, "deploy"),
	} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	r.env = append(slices.DeleteFunc(istag.Env, func(v string) bool { return strings.HasPrefix(v, "PATH=") }),
		"PATH="+bin+":"+os.Getenv("PATH"), "KUBECONFIG="+env.Cluster.Kubeconfig)
	t.Cleanup(func() {
		for _, found := range madeNamespaces.FindAllStringSubmatch(page, -1) {
			if err := env.Kubectl(context.Background(), "delete", "namespace", found[1], "--ignore-not-found", "--timeout", "90s").Err(); err != nil {
				t.Error(err)
			}
		}
	})
	return r
}

// changes matches commands that cannot be given twice. One of them that was carried out is not given again.
var changes = regexp.MustCompile(`\bkubectl(?: --?[a-z-]+(?:[= ][^\s-]\S*)?)* (create|apply|delete|patch|label|annotate|set|scale|run|replace|debug|drain|rollout (undo|restart|pause|resume))\s`)

// dryRun matches those of them that can.
var dryRun = regexp.MustCompile(`--dry-run=(server|client)`)

// follow gives a command, and again until it prints what the page says: controllers need a moment.
func (r *reader) follow(page string, s step) {
	r.t.Helper()
	var got string
	ctx, done := context.WithCancelCause(r.t.Context())
	defer done(nil)
	err := env.Wait(ctx, "it prints that", func(ctx context.Context) error {
		shown, failed := r.run(ctx, s.command)
		if ctx.Err() != nil {
			return context.Cause(ctx) // the command was cut off
		}
		got = shown
		onlyError := failed != nil && !slices.ContainsFunc(s.want, func(line string) bool { return strings.Contains(line, "rror") })
		if printed(s.want, strings.Split(strings.TrimRight(got, "\n"), "\n")) && !onlyError {
			return nil
		}
		err := errors.New("it prints something else")
		if onlyError {
			err = fmt.Errorf("it fails: %w", failed)
		}
		if failed == nil && changes.MatchString(s.command) && !dryRun.MatchString(s.command) {
			done(errors.New("it was carried out"))
		}
		return err
	})
	if err != nil {
		r.t.Fatalf("docs/%s, line %d:\n$ %s\nwant:\n%s\ngot:\n%s\n%v", page, s.line, s.command, strings.Join(s.want, "\n"), got, err)
	}
}

// run gives one command and returns what a terminal would show. Variables and the folder are those that the command before left.
func (r *reader) run(ctx context.Context, command string) (string, error) {
	const state = `"$HOME/.state"`
	script := `[ -f ` + state + ` ] && . ` + state + ` && cd "$PWD"; set -a` + "\n" + command + "\n" + `code=$?; export -p >` + state + `; exit $code`
	bash := exec.CommandContext(ctx, "bash", "-c", script)
	bash.Dir, bash.Env = r.dir, append(slices.Clone(r.env), "HOME="+r.dir, "PWD="+r.dir)
	bash.WaitDelay = time.Second
	var shown bytes.Buffer
	bash.Stdout, bash.Stderr = &shown, &shown
	err := bash.Run()
	return shown.String(), err
}

// anything stands for any text; alone on a line, for any number of lines.
const anything = "…"

// blanks are those that align columns, which are as wide as the names in them.
var blanks = regexp.MustCompile(`[ \t]+`)

// printed reports whether lines are those that a page shows. A page that shows none does not care.
func printed(want, got []string) bool {
	if len(want) == 0 {
		return true
	}
	if strings.TrimSpace(want[0]) == anything {
		for i := range len(got) + 1 {
			if len(want) == 1 || printedAll(want[1:], got[i:]) {
				return true
			}
		}
		return false
	}
	return printedAll(want, got)
}

func printedAll(want, got []string) bool {
	if len(want) == 0 {
		return len(got) == 0
	}
	if strings.TrimSpace(want[0]) == anything {
		return printed(want, got)
	}
	return len(got) > 0 && sameLine(want[0], got[0]) && printedAll(want[1:], got[1:])
}

func sameLine(want, got string) bool {
	trim := func(line string) string { return blanks.ReplaceAllString(strings.TrimSpace(line), " ") }
	parts := strings.Split(trim(want), anything)
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$").MatchString(trim(got))
}

func TestPagesAreReadAsTheyAreMeant(t *testing.T) {
	t.Parallel()
	page := "```console\n$ kubectl apply -f - <<EOF\na: b\nEOF\nx created\n\n$ echo a \\\n  b\na b\n…\n```\n```yaml\n$ no\n```\n"
	steps, err := stepsOf(page)
	if err != nil || len(steps) != 2 {
		t.Fatalf("there are two commands: %v %+v", err, steps)
	}
	if s := steps[0]; s.command != "kubectl apply -f - <<EOF\na: b\nEOF" || !slices.Equal(s.want, []string{"x created"}) || s.line != 2 {
		t.Errorf("a here-document is part of the command: %+v", s)
	}
	if s := steps[1]; s.command != "echo a \\\n  b" || !slices.Equal(s.want, []string{"a b", "…"}) {
		t.Errorf("so is a line after a backslash: %+v", s)
	}
	for name, c := range map[string]struct {
		reason    string
		want, got string
		same      bool
	}{
		"equal":    {"what is shown is printed", "a\nb", "a\nb", true},
		"more":     {"what is printed is shown", "a", "a\nb", false},
		"less":     {"all of it", "a\nb", "a", false},
		"part":     {"… is any text", "pod/… is sha256:…", "pod/x is sha256:00", true},
		"lines":    {"… alone is any number of lines", "a\n…\nd", "a\nb\nc\nd", true},
		"no lines": {"also none", "a\n…", "a", true},
		"first":    {"wherever it is", "…\nd", "a\nd", true},
		"columns":  {"columns may be wider", "NAME   AGE", "NAME         AGE", true},
		"dot":      {"a dot is a dot", "a.b", "axb", false},
	} {
		if got := printed(strings.Split(c.want, "\n"), strings.Split(c.got, "\n")); got != c.same {
			t.Errorf("%s: %s: want %t, got %t", name, c.reason, c.same, got)
		}
	}
}
