package main

import (
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// contextName is the context of every kubeconfig written here.
const contextName = "istag-local"

// writeKubeconfig writes a kubeconfig that speaks to server with the client
// certificate given. Everything is embedded, so that the file may be copied.
func writeKubeconfig(path, server, caFile, user string, client keyPair) error {
	config := api.NewConfig()
	cluster := api.NewCluster()
	cluster.Server = server
	cluster.CertificateAuthority = caFile
	config.Clusters[contextName] = cluster
	auth := api.NewAuthInfo()
	auth.ClientCertificate = client.certFile
	auth.ClientKey = client.keyFile
	config.AuthInfos[user] = auth
	context := api.NewContext()
	context.Cluster = contextName
	context.AuthInfo = user
	context.Namespace = "default"
	config.Contexts[contextName] = context
	config.CurrentContext = contextName
	if err := api.FlattenConfig(config); err != nil {
		return err
	}
	return clientcmd.WriteToFile(*config, path)
}
