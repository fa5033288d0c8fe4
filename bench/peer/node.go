package main

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// pod is what an endpoint-status file says.
type pod struct {
	namespace, name, iface string
	addresses              []string
	size                   int64
	changed                time.Time
}

// node follows links and routes by netlink's notifications, and the endpoint-status files by their times.
type node struct {
	folder    string
	dirty     atomic.Bool
	names     map[uint32]string
	addresses map[uint32][]string
	pods      map[string]*pod // by file name
}

func followNode(folder string) (*node, error) {
	n := &node{folder: folder, pods: map[string]*pod{}}
	links, routes, done := make(chan netlink.LinkUpdate, 64), make(chan netlink.RouteUpdate, 64), make(chan struct{})
	if err := netlink.LinkSubscribe(links, done); err != nil {
		return nil, err
	}
	if err := netlink.RouteSubscribe(routes, done); err != nil {
		return nil, err
	}
	n.dirty.Store(true)
	go func() {
		for {
			select {
			case <-links:
			case <-routes:
			}
			n.dirty.Store(true)
		}
	}()
	return n, nil
}

// refresh says whether anything is different from the last time.
func (n *node) refresh() (bool, error) {
	changed := n.dirty.Swap(false)
	if changed {
		if err := n.readLinks(); err != nil {
			n.dirty.Store(true)
			return false, err
		}
	}
	files, err := n.readFiles()
	return changed || files, err
}

func (n *node) readLinks() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	n.names, n.addresses = make(map[uint32]string, len(links)), make(map[uint32][]string, len(routes))
	for _, link := range links {
		n.names[uint32(link.Attrs().Index)] = link.Attrs().Name
	}
	for _, route := range routes {
		if route.Dst == nil || route.Gw != nil || route.Type != unix.RTN_UNICAST {
			continue
		}
		if ones, bits := route.Dst.Mask.Size(); ones == bits {
			index := uint32(route.LinkIndex)
			n.addresses[index] = append(n.addresses[index], route.Dst.IP.String())
		}
	}
	return nil
}

func (n *node) readFiles() (bool, error) {
	entries, err := os.ReadDir(n.folder)
	if err != nil {
		return false, err
	}
	changed := len(entries) != len(n.pods)
	if changed {
		n.forget(entries)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			continue
		}
		known := n.pods[entry.Name()]
		if known == nil || known.size != info.Size() || !known.changed.Equal(info.ModTime()) {
			n.pods[entry.Name()] = readPod(filepath.Join(n.folder, entry.Name()), info)
			changed = true
		}
	}
	return changed, nil
}

func (n *node) forget(entries []os.DirEntry) {
	kept := make(map[string]*pod, len(entries))
	for _, entry := range entries {
		if known := n.pods[entry.Name()]; known != nil {
			kept[entry.Name()] = known
		}
	}
	n.pods = kept
}

func readPod(path string, info os.FileInfo) *pod {
	found := &pod{size: info.Size(), changed: info.ModTime()}
	var status struct {
		IfaceName string   `json:"ifaceName"`
		IPv4Nets  []string `json:"ipv4Nets"`
		IPv6Nets  []string `json:"ipv6Nets"`
	}
	content, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(content, &status) != nil {
		return found
	}
	words := strings.Split(info.Name(), " ")
	if len(words) != 3 || words[0] != "k8s" {
		return found
	}
	workload, err := url.PathUnescape(words[1])
	if err != nil {
		return found
	}
	found.iface = status.IfaceName
	found.namespace, found.name, _ = strings.Cut(workload, "/")
	for _, net := range append(status.IPv4Nets, status.IPv6Nets...) {
		address, _, _ := strings.Cut(net, "/")
		found.addresses = append(found.addresses, address)
	}
	return found
}
