package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// Mount keeps the files tls.crt and tls.key in Dir equal to those of a Secret, as the kubelet does for a volume. It is for processes
// that run without a kubelet: `istag serve --all` and the local test cluster.
//
// It is a manager.Runnable, and needs no manager. At most one may use a directory.
type Mount struct {
	Client client.WithWatch
	Secret types.NamespacedName
	// Dir is made if it does not exist. It must not hold a tls.crt or tls.key that is not a Mount's.
	Dir string
}

// NeedLeaderElection says that every replica has its own files.
func (*Mount) NeedLeaderElection() bool { return false }

// Start watches the one Secret until ctx ends, and then returns nil. As the kubelet does, it leaves the files as they are when the
// Secret is deleted. Beyond the kubelet, it also leaves them when the Secret holds no certificate with its key, so that nobody who reads
// the files ever meets a pair that cannot serve. It returns an error if it cannot write to Dir.
func (m *Mount) Start(ctx context.Context) error {
	selector := client.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector("metadata.name", m.Secret.Name)}
	lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, raw metav1.ListOptions) (runtime.Object, error) {
			secrets := &corev1.SecretList{}
			return secrets, m.Client.List(ctx, secrets, &client.ListOptions{Raw: &raw}, client.InNamespace(m.Secret.Namespace), selector)
		},
		WatchFuncWithContext: func(ctx context.Context, raw metav1.ListOptions) (watch.Interface, error) {
			return m.Client.Watch(ctx, &corev1.SecretList{}, &client.ListOptions{Raw: &raw}, client.InNamespace(m.Secret.Namespace), selector)
		},
	}, m.Client)

	// The condition is never met, so this follows the Secret, through lost connections too, until ctx or the condition ends it.
	_, err := watchtools.UntilWithSync(ctx, lw, &corev1.Secret{}, nil, func(event watch.Event) (bool, error) {
		secret, ok := event.Object.(*corev1.Secret)
		if !ok || event.Type == watch.Deleted {
			return false, nil
		}
		return false, m.write(ctx, secret)
	})
	if ctx.Err() != nil {
		return nil //nolint:nilerr // Stopping on request is no failure.
	}
	return fmt.Errorf("keeping %q equal to secret %q: %w", m.Dir, m.Secret, err)
}

func (m *Mount) write(ctx context.Context, secret *corev1.Secret) error {
	files := pair{certKey: secret.Data[certKey], keyKey: secret.Data[keyKey]}
	logger := log.FromContext(ctx).WithValues("secret", m.Secret, "dir", m.Dir)
	if _, err := tls.X509KeyPair(files[certKey], files[keyKey]); err != nil {
		logger.Info("the secret holds no certificate with its key yet", "reason", err.Error())
		return nil
	}
	changed, err := files.writeTo(m.Dir)
	if err == nil && changed {
		logger.Info("wrote the serving certificate")
	}
	return err
}

const (
	// dataLink is the symbolic link that is swapped: tls.crt -> ..data/tls.crt, ..data -> ..pair-<random>. The names of the
	// kubelet's volumes, so that whatever copes with those copes with this.
	dataLink   = "..data"
	dataPrefix = "..pair-"
)

// pair holds what belongs together, by file name.
type pair map[string][]byte

// writeTo makes all files of the pair appear in dir at one instant, by the rename of one link, and says whether it had to.
// The previous files are removed only after that: a watcher of the files (certwatcher holds on to the inode) hears of the
// change by the removal, and finds the whole new pair when it looks.
func (p pair) writeTo(dir string) (bool, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return false, err
	}
	same := true
	for name, content := range p {
		if err := checkOurs(dir, name); err != nil {
			return false, err
		}
		old, err := os.ReadFile(filepath.Join(dir, name))
		same = same && err == nil && bytes.Equal(old, content)
	}
	if same {
		return false, nil
	}

	data, err := os.MkdirTemp(dir, dataPrefix)
	if err != nil {
		return false, err
	}
	for name, content := range p {
		if err := os.WriteFile(filepath.Join(data, name), content, 0o600); err != nil {
			return false, err
		}
	}
	if err := relink(filepath.Base(data), filepath.Join(dir, dataLink)); err != nil {
		return false, err
	}
	for name := range p {
		if err := relink(filepath.Join(dataLink, name), filepath.Join(dir, name)); err != nil {
			return false, err
		}
	}
	return true, removeOthers(dir, data)
}

// checkOurs refuses a file that writeTo did not make: it may be somebody's only copy of a key.
func checkOurs(dir, name string) error {
	path := filepath.Join(dir, name)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		if target == filepath.Join(dataLink, name) {
			return nil
		}
	}
	return fmt.Errorf("%q exists and was not made here: remove it, or choose another directory", path)
}

// relink makes path a symbolic link to target. Whoever opens path meanwhile gets the old or the new one.
func relink(target, path string) error {
	if old, err := os.Readlink(path); err == nil && old == target {
		return nil
	}
	next := path + ".next"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, next); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// removeOthers removes the previous data directory, and those that a process killed half-way left behind.
func removeOthers(dir, keep string) error {
	all, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range all {
		if !strings.HasPrefix(entry.Name(), dataPrefix) || entry.Name() == filepath.Base(keep) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}
