//go:build informer

package main

import (
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// followPods watches this node's pods as an exporter with client-go does, and keeps of each what the exporter keeps.
func followPods() (func() int, error) {
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	here := fields.OneTermEqualSelector("spec.nodeName", os.Getenv("NODE_NAME"))
	pods := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "pods", metav1.NamespaceAll, here)
	informer := cache.NewSharedIndexInformer(pods, &corev1.Pod{}, 0, cache.Indexers{})
	if err := informer.SetTransform(stripped); err != nil {
		return nil, err
	}
	go informer.Run(make(chan struct{}))
	return func() int { return len(informer.GetStore().ListKeys()) }, nil
}

func stripped(object any) (any, error) {
	full, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	kept := &corev1.Pod{}
	kept.Name, kept.Namespace, kept.UID = full.Name, full.Namespace, full.UID
	kept.ResourceVersion, kept.OwnerReferences = full.ResourceVersion, full.OwnerReferences
	kept.Spec.HostNetwork = full.Spec.HostNetwork
	kept.Status.Phase, kept.Status.PodIPs = full.Status.Phase, full.Status.PodIPs
	return kept, nil
}
