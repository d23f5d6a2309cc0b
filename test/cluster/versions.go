package main

import (
	"crypto/sha256"
	"embed"
	"fmt"
	"io/fs"
	"runtime"
	"strings"

	"golang.org/x/mod/modfile"
)

// moduleName is this module, as in go.mod.
const moduleName = "istag.dev/test/cluster"

// recipe is everything of this module that decides what a built binary is.
//
//go:embed go.mod go.sum cmd
var recipe embed.FS

// parts maps the name a version is reported under to the module it is of.
var parts = map[string]string{
	"kubernetes":   "k8s.io/kubernetes",
	"etcd":         "go.etcd.io/etcd/server/v3",
	"kwok":         "sigs.k8s.io/kwok",
	"distribution": "github.com/distribution/distribution/v3",
}

// versions returns what this module's go.mod selects for each of [parts].
func versions() (map[string]string, error) {
	data, err := recipe.ReadFile("go.mod")
	if err != nil {
		return nil, err
	}
	file, err := modfile.ParseLax("go.mod", data, nil)
	if err != nil {
		return nil, err
	}
	required := map[string]string{}
	for _, require := range file.Require {
		required[require.Mod.Path] = require.Mod.Version
	}
	found := map[string]string{}
	for part, module := range parts {
		version, ok := required[module]
		if !ok {
			return nil, fmt.Errorf("go.mod does not require %s", module)
		}
		found[part] = version
	}
	return found, nil
}

// buildKey names the folder of the binaries that these versions, this Go and
// this module's recipe make. Different keys never share a folder, so a change
// of version builds anew and going back to the old one does not.
func buildKey(versions map[string]string) (string, error) {
	sum := sha256.New()
	err := fs.WalkDir(recipe, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasSuffix(path, "_test.go") {
			return err
		}
		data, err := recipe.ReadFile(path)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(sum, "%s %d\n%s", path, len(data), data)
		return err
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("kubernetes-%s_etcd-%s_kwok-%s_distribution-%s_%s-%s-%s_%x",
		versions["kubernetes"], versions["etcd"], versions["kwok"], versions["distribution"],
		runtime.Version(), runtime.GOOS, runtime.GOARCH, sum.Sum(nil)[:4]), nil
}

// linkerFlags sets the version that every Kubernetes binary reports: built as
// a module it would call itself v0.0.0-master, which clients fail to parse.
func linkerFlags(versions map[string]string) string {
	version := versions["kubernetes"]
	number := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	flags := []string{"-s", "-w"}
	for _, target := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags = append(flags,
			"-X", target+".gitVersion="+version,
			"-X", target+".gitMajor="+number[0],
			"-X", target+".gitMinor="+number[1],
			"-X", target+".gitTreeState=clean")
	}
	return strings.Join(flags, " ")
}
