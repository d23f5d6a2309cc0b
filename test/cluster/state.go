package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// stateFile is the name, within the cluster's folder, of the file that holds
// its [State].
const stateFile = "cluster.json"

// State is what `cluster run` prints, as one line of JSON on standard output,
// once everything is ready. The same JSON is in the file cluster.json of the
// cluster's folder from that moment until the cluster ends: when the file is
// not there, the cluster is not (yet, or any more) usable. When the API server is
// started again, the file is written anew.
//
// All paths are absolute. All addresses are on 127.0.0.1.
type State struct {
	// Dir is the folder that holds everything the cluster writes.
	Dir string `json:"dir"`

	// Kubeconfig is the administrator's kubeconfig (group system:masters).
	// Its one context is Context, with namespace "default".
	Kubeconfig string `json:"kubeconfig"`
	// Context is the name of the context in Kubeconfig.
	Context string `json:"context"`
	// APIServer is the URL of the API server, "https://127.0.0.1:PORT".
	APIServer string `json:"apiServer"`
	// CAFile is the certificate, in PEM, of the authority that signed the API
	// server's serving certificate and every client's.
	CAFile string `json:"caFile"`

	// BinDir is the folder of the binaries that were built here. With
	// KUBEBUILDER_ASSETS set some may be elsewhere: Binaries has them all.
	BinDir string `json:"binDir"`
	// Binaries maps the name of each binary ("etcd", "kube-apiserver",
	// "kubectl"…) to its path.
	Binaries map[string]string `json:"binaries"`
	// Kubectl is the path of kubectl, for convenience.
	Kubectl string `json:"kubectl"`

	// Registry is the "host:port" of the open registry, plain HTTP.
	Registry string `json:"registry"`
	// RegistryAccessLog is a file with one JSON object per request that the
	// open registry answered: {"time", "method", "path", "query", "status",
	// "user", "userAgent", "remoteAddr"}. A line is written before its answer
	// is sent, so whoever has the answer finds the line. The file is empty when
	// the cluster becomes ready: the requests that filled it are not in it.
	RegistryAccessLog string `json:"registryAccessLog"`
	// PrivateRegistry asks for a password.
	PrivateRegistry PrivateRegistry `json:"privateRegistry"`
	// Mirrors maps the host of an upstream registry to the prefix that serves
	// its repositories here: "quay.io" -> "127.0.0.1:PORT/quay.io".
	Mirrors map[string]string `json:"mirrors"`
	// Images lists every tag the registries were filled with.
	Images []Image `json:"images"`

	// Node is the name of the one node, simulated by kwok.
	Node string `json:"node"`

	// LogsDir holds one file per component, named COMPONENT.log.
	LogsDir string `json:"logsDir"`
	// PID is the process that runs the cluster: SIGTERM to it ends everything.
	PID int `json:"pid"`
	// PIDs maps each component to its process, which leads a process group of
	// the same number.
	PIDs map[string]int `json:"pids"`
	// Versions maps Kubernetes, etcd, kwok and distribution to the version that
	// was built. It says nothing of binaries found in KUBEBUILDER_ASSETS.
	Versions map[string]string `json:"versions"`
}

// PrivateRegistry is a registry, plain HTTP, that answers 401 with a Basic
// challenge to everybody but its one user.
type PrivateRegistry struct {
	// Host is "127.0.0.1:PORT".
	Host string `json:"host"`
	// Username and Password are the one account it knows.
	Username string `json:"username"`
	Password string `json:"password"`
	// AccessLog has the form of [State.RegistryAccessLog].
	AccessLog string `json:"accessLog"`
}

// Image is one tag that a registry was filled with.
type Image struct {
	// Name is the upstream repository, "quay.io/keycloak/keycloak".
	Name string `json:"name"`
	// Tag is the tag, "20.0.1".
	Tag string `json:"tag"`
	// Digest is what the tag points at: a manifest's digest, or an index's.
	// It is the same in every cluster.
	Digest string `json:"digest"`
	// Local is the repository as it is served here,
	// "127.0.0.1:PORT/quay.io/keycloak/keycloak".
	Local string `json:"local"`
	// Private tells that it is served by the private registry.
	Private bool `json:"private,omitempty"`
	// Broken tells that every pod with this image, by its repository or by its
	// digest under any name, crashes and never becomes Ready.
	Broken bool `json:"broken,omitempty"`
	// Platforms maps "os/arch" to the digest of that platform's manifest; only
	// for an index.
	Platforms map[string]string `json:"platforms,omitempty"`
}

// write puts the state where [State] promises it. A reader never sees half a
// file.
func (s *State) write() error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the state: %w", err)
	}
	path := filepath.Join(s.Dir, stateFile)
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
