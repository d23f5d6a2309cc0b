package main

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"testing"

	"k8s.io/client-go/util/cert"
)

func TestPKI(t *testing.T) {
	p, err := newPKI(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	client, server := x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth
	cases := map[string]struct {
		reason string
		pair   keyPair
		by     *authority
		usage  x509.ExtKeyUsage
		host   string
		valid  bool
	}{
		"apiserver on loopback":  {"clients reach it there", p.apiserver, p.ca, server, "127.0.0.1", true},
		"apiserver by name":      {"kubeconfigs may say localhost", p.apiserver, p.ca, server, "localhost", true},
		"apiserver in cluster":   {"in-cluster clients use the Service's name", p.apiserver, p.ca, server, "kubernetes.default.svc", true},
		"apiserver elsewhere":    {"the certificate is for no other host", p.apiserver, p.ca, server, "example.com", false},
		"admin":                  {"the administrator is a client", p.admin, p.ca, client, "", true},
		"admin as a server":      {"a client's key must not serve", p.admin, p.ca, server, "", false},
		"admin at etcd":          {"etcd takes the API server alone", p.admin, p.etcdCA, client, "", false},
		"apiserver at etcd":      {"the API server is etcd's client", p.apiserverToEtcd, p.etcdCA, client, "", true},
		"etcd":                   {"etcd serves on loopback", p.etcd, p.etcdCA, server, "127.0.0.1", true},
		"etcd as a peer":         {"etcd's own gateway is its client", p.etcd, p.etcdCA, client, "", true},
		"front proxy":            {"aggregated APIs trust the front proxy", p.frontProxy, p.frontProxyCA, client, "", true},
		"front proxy as a user":  {"the front proxy is no user", p.frontProxy, p.ca, client, "", false},
		"admin as a front proxy": {"a user must not name other users", p.admin, p.frontProxyCA, client, "", false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := tls.LoadX509KeyPair(tc.pair.certFile, tc.pair.keyFile); err != nil {
				t.Fatalf("certificate and key must belong together: %v", err)
			}
			leaf, err := cert.CertsFromFile(tc.pair.certFile)
			if err != nil {
				t.Fatal(err)
			}
			roots, err := cert.NewPool(tc.by.certFile)
			if err != nil {
				t.Fatal(err)
			}
			_, err = leaf[0].Verify(x509.VerifyOptions{DNSName: tc.host, Roots: roots, KeyUsages: []x509.ExtKeyUsage{tc.usage}})
			if got := err == nil; got != tc.valid {
				t.Errorf("%s: valid is %v, want %v (%v)", tc.reason, got, tc.valid, err)
			}
		})
	}
}

func TestPKIKeepsKeysPrivate(t *testing.T) {
	p, err := newPKI(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{p.serviceAccountKey, p.ca.keyFile, p.admin.keyFile} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is readable by others: %v", info.Name(), info.Mode())
		}
	}
}
