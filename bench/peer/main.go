// A peer for comparison: what a Go exporter of the same counters costs. Only `make bench` builds and runs it.
//
// It serves the families of the collectors counters, endpoints and maps for one release of Calico (27 slots, one pinned
// version of each map) with cilium/ebpf and client_golang. Built with the tag `informer` it also follows the node's pods
// with client-go. It does nothing else that the exporter does.
package main

import (
	"flag"
	"log"
	"net/http"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func main() {
	address := flag.String("listen", "127.0.0.1:0", "address to listen on")
	bpfFS := flag.String("bpf.fs", "/sys/fs/bpf", "BPF file system")
	runDir := flag.String("run-dir", "/var/run/calico", "Calico's run directory")
	zeros := flag.String("zeros", "core", "core or all")
	flag.Parse()

	node, err := followNode(filepath.Join(*runDir, "endpoint-status"))
	if err != nil {
		log.Fatal(err)
	}
	pods, err := followPods()
	if err != nil {
		log.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "peer_pods", Help: "Pods of this node that the API server named."},
			func() float64 { return float64(pods()) }),
		newCollector(filepath.Join(*bpfFS, "tc/globals"), node, *zeros == "all"),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	http.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	log.Fatal(http.ListenAndServe(*address, nil))
}
