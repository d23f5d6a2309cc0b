package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"time"

	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// certificateLife is long enough that no cluster outlives its certificates by
// accident.
const certificateLife = 365 * 24 * time.Hour

// kubernetesServiceIP is the first address of serviceCIDR: the Service
// default/kubernetes.
const kubernetesServiceIP = "10.96.0.1"

// keyPair is a certificate and its key, as files in PEM.
type keyPair struct {
	certFile, keyFile string
}

// pki is every key and certificate of one cluster. Three authorities, because
// what one vouches for must mean nothing to the others: a client of the API
// server is no client of etcd, and neither is the aggregator.
type pki struct {
	ca           *authority
	etcdCA       *authority
	frontProxyCA *authority

	etcd              keyPair // serves clients and peers
	apiserverToEtcd   keyPair
	apiserver         keyPair
	frontProxy        keyPair
	admin             keyPair
	controllerManager keyPair
	scheduler         keyPair
	kwok              keyPair

	// serviceAccountKey signs tokens, and its public half verifies them.
	serviceAccountKey string
}

// newPKI makes all of it anew in dir.
func newPKI(dir string) (*pki, error) {
	p := &pki{serviceAccountKey: filepath.Join(dir, "service-account.key")}
	if _, err := newKey(p.serviceAccountKey); err != nil {
		return nil, err
	}
	for name, ca := range map[string]**authority{"ca": &p.ca, "etcd-ca": &p.etcdCA, "front-proxy-ca": &p.frontProxyCA} {
		made, err := newAuthority(dir, name)
		if err != nil {
			return nil, err
		}
		*ca = made
	}
	local := []string{"localhost"}
	inCluster := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	for _, leaf := range []struct {
		into    *keyPair
		by      *authority
		file    string
		subject pkix.Name
		hosts   []string // none: a client only
	}{
		{&p.etcd, p.etcdCA, "etcd", pkix.Name{CommonName: "etcd"}, local},
		{&p.apiserverToEtcd, p.etcdCA, "apiserver-etcd-client", pkix.Name{CommonName: "kube-apiserver"}, nil},
		{&p.apiserver, p.ca, "apiserver", pkix.Name{CommonName: "kube-apiserver"}, inCluster},
		{&p.frontProxy, p.frontProxyCA, "front-proxy-client", pkix.Name{CommonName: "front-proxy-client"}, nil},
		{&p.admin, p.ca, "admin", pkix.Name{CommonName: "istag-local-admin", Organization: []string{"system:masters"}}, nil},
		{&p.controllerManager, p.ca, "controller-manager", pkix.Name{CommonName: "system:kube-controller-manager"}, nil},
		{&p.scheduler, p.ca, "scheduler", pkix.Name{CommonName: "system:kube-scheduler"}, nil},
		// kwok plays every kubelet at once, which no role of Kubernetes covers.
		{&p.kwok, p.ca, "kwok", pkix.Name{CommonName: "kwok", Organization: []string{"system:masters"}}, nil},
	} {
		made, err := leaf.by.issue(dir, leaf.file, leaf.subject, leaf.hosts)
		if err != nil {
			return nil, err
		}
		*leaf.into = made
	}
	return p, nil
}

// authority signs certificates.
type authority struct {
	keyPair
	cert *x509.Certificate
	key  crypto.Signer
}

// newAuthority makes a self-signed authority in dir.
func newAuthority(dir, name string) (*authority, error) {
	a := &authority{keyPair: files(dir, name)}
	var err error
	if a.key, err = newKey(a.keyFile); err != nil {
		return nil, err
	}
	if a.cert, err = cert.NewSelfSignedCACert(cert.Config{CommonName: "istag-local-" + name}, a.key); err != nil {
		return nil, fmt.Errorf("sign the authority %q: %w", name, err)
	}
	return a, writeCertificate(a.certFile, a.cert.Raw)
}

// issue makes a key in dir and signs a certificate for it: a client's, and a
// server's too if there are hosts, for these on 127.0.0.1.
func (a *authority) issue(dir, name string, subject pkix.Name, hosts []string) (keyPair, error) {
	pair := files(dir, name)
	key, err := newKey(pair.keyFile)
	if err != nil {
		return keyPair{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return keyPair{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    a.cert.NotBefore,
		NotAfter:     time.Now().Add(certificateLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if len(hosts) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		template.DNSNames = hosts
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.ParseIP(kubernetesServiceIP)}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return keyPair{}, fmt.Errorf("sign the certificate %q: %w", name, err)
	}
	return pair, writeCertificate(pair.certFile, der)
}

// files names the files of a key pair.
func files(dir, name string) keyPair {
	return keyPair{certFile: filepath.Join(dir, name+".crt"), keyFile: filepath.Join(dir, name+".key")}
}

// newKey makes a key and writes it to path, for its owner only.
func newKey(path string) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	data, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return nil, err
	}
	return key, keyutil.WriteKey(path, data)
}

// writeCertificate writes one certificate in PEM.
func writeCertificate(path string, der []byte) error {
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	data, err := cert.EncodeCertificates(parsed)
	if err != nil {
		return err
	}
	return cert.WriteCert(path, data)
}
