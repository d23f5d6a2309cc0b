// Package certs keeps the serving certificate of the admission webhook and of the API: made, renewed, trusted by the API server
// and put on disk without a restart.
//
// On a cluster the work is divided so that the webhook, which hears strangers, holds no secret but the key:
//
//	controller (leader)                 API server            webhook, apiserver
//	  rotator      -> Secret istag-tls  ----- kubelet ----->  tls.crt, tls.key on a volume, reloaded when they change
//	  trust bundle -> caBundle of both webhook configurations and of the APIService
//
// AddRotator is the controller's part. Await and AwaitFiles let a server start before its files exist. Mount is the kubelet's
// part, for processes that run without one. Where somebody else provides the certificate (cert-manager, or an administrator),
// nothing else is used.
package certs

import corev1 "k8s.io/api/core/v1"

// The keys of the Secret, and the names of the files.
const (
	certKey = corev1.TLSCertKey
	keyKey  = corev1.TLSPrivateKeyKey
	caKey   = "ca.crt"
)
