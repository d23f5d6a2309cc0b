package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strconv"
)

const (
	loopback      = "127.0.0.1"
	apiserverName = "kube-apiserver"
	serviceCIDR   = "10.96.0.0/16"
	podCIDR       = "10.244.0.0/16"
)

// ports are those of one attempt to start a cluster.
type ports struct {
	etcdClient, etcdPeer, apiserver, controllerManager, scheduler, registry, privateRegistry int
}

// The ports are below the range that the kernel takes those of clients from, or a
// connection could take one while its server is started again.
const (
	lowestPort  = 20000
	highestPort = 32000
)

// choosePorts finds ports that are free now. They are all held until the last
// one is found, so that none is found twice.
func choosePorts() (*ports, error) {
	p := &ports{}
	for _, into := range []*int{
		&p.etcdClient, &p.etcdPeer, &p.apiserver, &p.controllerManager, &p.scheduler, &p.registry, &p.privateRegistry,
	} {
		listener, err := listenAnywhere()
		if err != nil {
			return nil, fmt.Errorf("choose a port: %w", err)
		}
		defer listener.Close()
		*into = listener.Addr().(*net.TCPAddr).Port
	}
	return p, nil
}

// listenAnywhere takes any port that is free.
func listenAnywhere() (listener net.Listener, err error) {
	for range 100 {
		if listener, err = net.Listen("tcp", address(lowestPort+rand.IntN(highestPort-lowestPort))); err == nil {
			return listener, nil
		}
	}
	return nil, err
}

// address is port on the loopback interface.
func address(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }

func (c *cluster) apiserverURL() string { return "https://" + address(c.ports.apiserver) }

// startEtcd starts etcd, with TLS towards clients and (unused) peers.
func (c *cluster) startEtcd() error {
	client, peer := "https://"+address(c.ports.etcdClient), "https://"+address(c.ports.etcdPeer)
	tls := c.pki.etcd
	return c.processes.start("etcd", c.built.Paths["etcd"],
		"--name=istag-local",
		"--data-dir="+filepath.Join(c.dir, "etcd"),
		"--listen-client-urls="+client,
		"--advertise-client-urls="+client,
		"--listen-peer-urls="+peer,
		"--initial-advertise-peer-urls="+peer,
		"--initial-cluster=istag-local="+peer,
		"--client-cert-auth", "--trusted-ca-file="+c.pki.etcdCA.certFile,
		"--cert-file="+tls.certFile, "--key-file="+tls.keyFile,
		"--peer-client-cert-auth", "--peer-trusted-ca-file="+c.pki.etcdCA.certFile,
		"--peer-cert-file="+tls.certFile, "--peer-key-file="+tls.keyFile,
		// The cluster is thrown away: a power cut may take it.
		"--unsafe-no-fsync",
	)
}

// startAPIServer starts the API server, with the admission plugins that it
// enables by default and RBAC.
func (c *cluster) startAPIServer() error {
	return c.processes.start(apiserverName, c.built.Paths[apiserverName],
		"--bind-address="+loopback,
		"--secure-port="+strconv.Itoa(c.ports.apiserver),
		"--advertise-address="+loopback,
		// Endpoints may not be on loopback, and nothing could reach them here.
		"--endpoint-reconciler-type=none",
		"--cert-dir="+c.pkiDir(),
		"--tls-cert-file="+c.pki.apiserver.certFile, "--tls-private-key-file="+c.pki.apiserver.keyFile,
		"--client-ca-file="+c.pki.ca.certFile,
		"--etcd-servers=https://"+address(c.ports.etcdClient),
		"--etcd-cafile="+c.pki.etcdCA.certFile,
		"--etcd-certfile="+c.pki.apiserverToEtcd.certFile, "--etcd-keyfile="+c.pki.apiserverToEtcd.keyFile,
		"--service-cluster-ip-range="+serviceCIDR,
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+c.pki.serviceAccountKey,
		"--service-account-signing-key-file="+c.pki.serviceAccountKey,
		"--authorization-mode=RBAC",
		"--allow-privileged=true",
		// Aggregated APIs. Their Services are of type ExternalName, which --enable-aggregator-routing would refuse.
		"--proxy-client-cert-file="+c.pki.frontProxy.certFile, "--proxy-client-key-file="+c.pki.frontProxy.keyFile,
		"--requestheader-client-ca-file="+c.pki.frontProxyCA.certFile,
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-uid-headers=X-Remote-Uid",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
	)
}

// startControllerManager starts every controller.
func (c *cluster) startControllerManager() error {
	const name = "kube-controller-manager"
	kubeconfig, err := c.componentKubeconfig(name, c.pki.controllerManager)
	if err != nil {
		return err
	}
	return c.processes.start(name, c.built.Paths[name],
		"--controllers=*",
		"--leader-elect=false",
		"--bind-address="+loopback,
		"--secure-port="+strconv.Itoa(c.ports.controllerManager),
		"--cert-dir="+c.pkiDir(),
		"--tls-cert-file="+c.pki.apiserver.certFile, "--tls-private-key-file="+c.pki.apiserver.keyFile,
		"--kubeconfig="+kubeconfig,
		"--authentication-kubeconfig="+kubeconfig,
		"--authorization-kubeconfig="+kubeconfig,
		"--use-service-account-credentials=true",
		// Each controller fetches a token of its own first: with the default of
		// 20 requests a second that takes longer than all the rest of a start.
		"--kube-api-qps=500", "--kube-api-burst=1000",
		"--service-account-private-key-file="+c.pki.serviceAccountKey,
		"--root-ca-file="+c.pki.ca.certFile,
		"--cluster-signing-cert-file="+c.pki.ca.certFile, "--cluster-signing-key-file="+c.pki.ca.keyFile,
	)
}

// startScheduler starts the scheduler.
func (c *cluster) startScheduler() error {
	const name = "kube-scheduler"
	kubeconfig, err := c.componentKubeconfig(name, c.pki.scheduler)
	if err != nil {
		return err
	}
	return c.processes.start(name, c.built.Paths[name],
		"--leader-elect=false",
		"--bind-address="+loopback,
		"--secure-port="+strconv.Itoa(c.ports.scheduler),
		"--cert-dir="+c.pkiDir(),
		"--tls-cert-file="+c.pki.apiserver.certFile, "--tls-private-key-file="+c.pki.apiserver.keyFile,
		"--kubeconfig="+kubeconfig,
		"--authentication-kubeconfig="+kubeconfig,
		"--authorization-kubeconfig="+kubeconfig,
	)
}

// componentKubeconfig writes the kubeconfig of one component beside its
// certificate.
func (c *cluster) componentKubeconfig(name string, client keyPair) (string, error) {
	path := filepath.Join(c.pkiDir(), name+".kubeconfig")
	return path, writeKubeconfig(path, c.apiserverURL(), c.pki.ca.certFile, name, client)
}
