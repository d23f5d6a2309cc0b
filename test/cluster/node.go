package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	nodefast "sigs.k8s.io/kwok/kustomize/stage/node/fast"
	nodeheartbeat "sigs.k8s.io/kwok/kustomize/stage/node/heartbeat-with-lease"
	podfast "sigs.k8s.io/kwok/kustomize/stage/pod/fast"
)

const (
	nodeName = "kwok-0"
	// kwokLabel and its value mark the nodes that kwok plays. A real node
	// beside it, without the label, is left alone.
	kwokLabel, kwokLabelValue = "type", "kwok"
)

//go:embed broken-stage.yaml
var brokenStage string

// stages tell kwok what a kubelet would report, and when. They are upstream's:
// pods become Ready at once, those of Jobs then succeed, those deleted go. One
// is ours: the pods of the broken image crash.
func stages() (string, error) {
	digest, err := brokenDigest()
	if err != nil {
		return "", err
	}
	return strings.Join([]string{
		nodefast.DefaultNodeInit,
		nodeheartbeat.DefaultNodeHeartbeatWithLease,
		podfast.DefaultPodReady,
		podfast.DefaultPodComplete,
		podfast.DefaultPodDelete,
		strings.NewReplacer("BROKEN_REPOSITORY", brokenRepository, "BROKEN_DIGEST", digest).Replace(brokenStage),
	}, "\n---\n"), nil
}

// startKwok starts kwok in the part of the kubelets of its nodes.
func (c *cluster) startKwok() error {
	kubeconfig, err := c.componentKubeconfig("kwok", c.pki.kwok)
	if err != nil {
		return err
	}
	stages, err := stages()
	if err != nil {
		return err
	}
	config := filepath.Join(c.dir, "kwok.yaml")
	if err := os.WriteFile(config, []byte(stages), 0o600); err != nil {
		return err
	}
	return c.processes.start("kwok", c.built.Paths["kwok"],
		"--kubeconfig="+kubeconfig,
		"--config="+config,
		"--manage-all-nodes=false",
		"--manage-nodes-with-label-selector="+kwokLabel+"="+kwokLabelValue,
		"--node-ip="+loopback,
		// With a port kwok serves the kubelet's API on every interface.
		"--node-port=0",
		"--node-lease-duration-seconds=40",
		"--cidr="+podCIDR,
	)
}

// createNode registers the node, as its kubelet would. It may be there already
// in a folder that held a cluster before.
func createNode(ctx context.Context, client kubernetes.Interface, version string) error {
	resources := corev1.ResourceList{
		corev1.ResourceCPU:              resource.MustParse("1k"),
		corev1.ResourceMemory:           resource.MustParse("1Ti"),
		corev1.ResourceEphemeralStorage: resource.MustParse("10Ti"),
		corev1.ResourcePods:             resource.MustParse("100k"),
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: nodeName,
			Labels: map[string]string{
				kwokLabel:                kwokLabelValue,
				corev1.LabelHostname:     nodeName,
				corev1.LabelOSStable:     "linux",
				corev1.LabelArchStable:   "amd64",
				corev1.LabelTopologyZone: "local",
			},
		},
		Status: corev1.NodeStatus{
			Capacity:    resources,
			Allocatable: resources,
			// Or kwok puts its own version there, which is no kubelet's.
			NodeInfo: corev1.NodeSystemInfo{KubeletVersion: version},
		},
	}
	_, err := client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create the node: %w", err)
	}
	// Its kwok is gone, but the next one would wait until its lease runs out.
	err = client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Delete(ctx, nodeName, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete the lease of an earlier kwok: %w", err)
	}
	return nil
}

// nodeReady tells whether the node is Ready and takes pods.
func nodeReady(ctx context.Context, client kubernetes.Interface) (bool, error) {
	node, err := client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
	if err != nil {
		return false, err
	}
	// A new node bears not-ready taints until a controller has seen it Ready.
	if len(node.Spec.Taints) > 0 {
		return false, nil
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue, nil
		}
	}
	return false, nil
}

// leaseRenewed tells whether the node's lease was renewed after a moment.
func leaseRenewed(ctx context.Context, client kubernetes.Interface, after time.Time) (bool, error) {
	lease, err := client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, nodeName, metav1.GetOptions{})
	if err != nil {
		return false, err
	}
	return lease.Spec.RenewTime != nil && lease.Spec.RenewTime.After(after), nil
}
