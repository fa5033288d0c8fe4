package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	workloadFlag   = 0x1
	notManagedFlag = 0x400
)

var readyFlags = map[string]uint32{"4": 0x2, "6": 0x4}

type counterKey struct{ Ifindex, Hook uint32 }

type ifstate struct {
	Flags    uint32
	Name     [16]byte
	Programs [8]int32
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("calico_bpf_"+name, help, labels, nil)
}

func counterDesc(name, help string, more ...string) *prometheus.Desc {
	return desc(name, help, append([]string{"interface", "hook", "direction", "namespace", "pod"}, more...)...)
}

var (
	programPackets  = counterDesc("program_packets_total", "Packets that entered Calico's program.")
	acceptedFlows   = counterDesc("accepted_flows_total", "New flows accepted at a tc hook.", "reason")
	acceptedPackets = counterDesc("accepted_packets_total", "Packets accepted one by one.", "reason")
	droppedPackets  = counterDesc("dropped_packets_total", "Packets dropped, by reason.", "reason")
	redirected      = counterDesc("redirected_packets_total", "Packets forwarded past the kernel's path.", "path")
	collisions      = counterDesc("nat_source_collisions_total", "Packets whose source port had to be changed.")
	unknownSlot     = counterDesc("unknown_slot_total", "Counter slots without a known meaning.", "slot")

	unknownInterfaces = desc("unknown_interfaces", "Interface indexes that nobody knows.")
	endpointInfo      = desc("endpoint_info", "Always 1: an endpoint.",
		"interface", "endpoint_kind", "namespace", "pod", "ifindex")
	addressInfo = desc("endpoint_address_info", "Always 1: an address of an endpoint.",
		"interface", "namespace", "pod", "ip", "ip_family")
	notReady = desc("endpoint_not_ready", "1 while programs are not in place.",
		"interface", "namespace", "pod", "ip_family")
	countersMissing = desc("endpoint_counters_missing", "1 while there is no counter entry.",
		"interface", "hook", "namespace", "pod")
	leftovers     = desc("leftover_entries", "Entries of the map for interfaces that the kernel does not have.", "map")
	problems      = desc("endpoint_problems", "How many series of each problem gauge there are.", "problem")
	mapEntries    = desc("map_entries", "Entries in the map.", "map", "ip_family")
	mapMaxEntries = desc("map_max_entries", "Entries that the map can hold.", "map", "ip_family")
	mapInfo       = desc("map_info", "Always 1: the map's pin and shape.",
		"map", "pin", "map_type", "key_size", "value_size", "slots", "layout", "chosen_by")
	stalePins = desc("map_stale_pins", "Other pinned versions of the map.", "map")
	success   = desc("scrape_collector_success", "1 if all was read.", "collector")
	duration  = desc("scrape_collector_duration_seconds", "Seconds the collector took.", "collector")
)

// series is a sample without its value: labels are made once and used while the endpoints stay the same.
type series struct {
	desc   *prometheus.Desc
	labels []string
	slot   int
	always bool
}

type endpoint struct {
	index                      uint32
	name, kind, namespace, pod string
	addresses                  []string
	known, managed, workload   bool
	flags                      uint32
}

type collector struct {
	mutex     sync.Mutex
	pins      string
	node      *node
	all       bool
	counters  pinned[counterKey, [slotCount]uint64]
	rules     pinned[uint64, uint64]
	states    pinned[uint32, ifstate]
	lastKeys  []uint32
	last      []ifstate
	endpoints map[uint32]*endpoint
	rows      map[counterKey][]series
	fixed     []prometheus.Metric // of the endpoints collector
	fixedFor  []counterKey
}

func newCollector(pins string, node *node, all bool) *collector {
	return &collector{pins: pins, node: node, all: all}
}

func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, one := range []*prometheus.Desc{
		programPackets, acceptedFlows, acceptedPackets, droppedPackets, redirected, collisions, unknownSlot,
		unknownInterfaces, endpointInfo, addressInfo, notReady, countersMissing, problems, leftovers, mapEntries, mapMaxEntries,
		mapInfo, stalePins, success, duration,
	} {
		descs <- one
	}
}

func (c *collector) Collect(out chan<- prometheus.Metric) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for _, one := range []struct {
		name    string
		collect func(chan<- prometheus.Metric) error
	}{{"counters", c.collectCounters}, {"endpoints", c.collectEndpoints}, {"maps", c.collectMaps}} {
		start, well := time.Now(), 1.0
		if err := one.collect(out); err != nil {
			well = 0
		}
		out <- gauge(success, well, one.name)
		out <- gauge(duration, time.Since(start).Seconds(), one.name)
	}
}

func gauge(desc *prometheus.Desc, value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
}

var pinName = regexp.MustCompile(`^(cali_counters|cali_rule_ctrs|cali_iface)([0-9]*)(_old)?$`)

// findPins takes the highest version of each map.
func (c *collector) findPins() error {
	entries, err := os.ReadDir(c.pins)
	if err != nil {
		return err
	}
	paths := map[string]*string{
		"cali_counters": &c.counters.path, "cali_rule_ctrs": &c.rules.path, "cali_iface": &c.states.path,
	}
	best := map[string]int{}
	for _, entry := range entries {
		match := pinName.FindStringSubmatch(entry.Name())
		if match == nil || match[3] != "" {
			continue
		}
		if version, _ := strconv.Atoi(match[2]); version >= best[match[1]] {
			best[match[1]], *paths[match[1]] = version, filepath.Join(c.pins, entry.Name())
		}
	}
	return nil
}

func (c *collector) collectCounters(out chan<- prometheus.Metric) error {
	if err := c.findPins(); err != nil {
		return err
	}
	if err := c.counters.read(); err != nil {
		return err
	}
	if err := c.join(); err != nil {
		return err
	}
	unknown := 0
	for number, key := range c.counters.keys {
		var sums [slotCount]uint64
		for copy := range c.counters.copies {
			for at, value := range &c.counters.values[number*c.counters.copies+copy] {
				sums[at] += value
			}
		}
		for _, one := range c.row(key) {
			if value := sums[one.slot]; value != 0 || one.always {
				out <- prometheus.MustNewConstMetric(one.desc, prometheus.CounterValue, float64(value), one.labels...)
			}
		}
		if c.endpoints[key.Ifindex] == nil {
			unknown++
		}
	}
	// Links are always known here, so an entry without an interface is a leftover.
	out <- gauge(unknownInterfaces, 0)
	out <- gauge(leftovers, float64(unknown), "counters")
	return nil
}

// join puts links, interface state and files together, when one of them has changed.
func (c *collector) join() error {
	if err := c.states.read(); err != nil {
		return err
	}
	changed, err := c.node.refresh()
	if err != nil {
		return err
	}
	if !changed && slices.Equal(c.lastKeys, c.states.keys) && slices.Equal(c.last, c.states.values) {
		return nil
	}
	c.lastKeys, c.last = slices.Clone(c.states.keys), slices.Clone(c.states.values)
	c.rows, c.fixed = map[counterKey][]series{}, nil
	c.endpoints = make(map[uint32]*endpoint, len(c.lastKeys))
	for index, name := range c.node.names {
		c.endpoints[index] = &endpoint{index: index, name: name, kind: "host", addresses: c.node.addresses[index]}
	}
	for number, index := range c.lastKeys {
		state, one := &c.last[number], c.endpoints[index]
		if one == nil {
			name, _, _ := strings.Cut(string(state.Name[:]), "\x00")
			one = &endpoint{index: index, name: name}
			c.endpoints[index] = one
		}
		one.known, one.managed, one.flags = true, state.Flags&notManagedFlag == 0, state.Flags
		one.workload = one.managed && state.Flags&workloadFlag != 0
		one.kind = map[bool]string{true: "workload", false: "host"}[one.workload]
		if !one.managed {
			one.kind = "unmanaged"
		}
	}
	byName := make(map[string]*pod, len(c.node.pods))
	for _, one := range c.node.pods {
		byName[one.iface] = one
	}
	for _, one := range c.endpoints {
		if pod := byName[one.name]; pod != nil {
			one.namespace, one.pod = pod.namespace, pod.name
			if one.addresses == nil {
				one.addresses = pod.addresses
			}
		}
	}
	return nil
}

func (c *collector) row(key counterKey) []series {
	if row, known := c.rows[key]; known {
		return row
	}
	row := make([]series, 0, slotCount)
	if one := c.endpoints[key.Ifindex]; one != nil && key.Hook <= xdp {
		labels := []string{one.name, hookNames[key.Hook], direction(key.Hook, one.workload), one.namespace, one.pod}
		for number, slot := range slots {
			made := series{desc: descOf(slot, key.Hook), labels: labels, slot: number}
			if slot.reason != "" {
				made.labels = append(slices.Clip(labels), slot.reason)
			}
			whole := c.all || one.known && one.kind == "host"
			made.always = whole && slot.category != "unknown" || coreSlots[number] && one.known && key.Hook != xdp
			row = append(row, made)
		}
	}
	c.rows[key] = row
	return row
}

func descOf(one slot, hook uint32) *prometheus.Desc {
	switch one.category {
	case "total":
		return programPackets
	case "accepted":
		if hook != xdp && one.reason != "another_program" {
			return acceptedFlows
		}
		return acceptedPackets
	case "dropped":
		return droppedPackets
	case "redirected":
		return redirected
	case "collision":
		return collisions
	}
	return unknownSlot
}

func (c *collector) collectEndpoints(out chan<- prometheus.Metric) error {
	if c.fixed == nil || !slices.Equal(c.fixedFor, c.counters.keys) {
		c.fixedFor, c.fixed = slices.Clone(c.counters.keys), c.endpointMetrics()
	}
	for _, one := range c.fixed {
		out <- one
	}
	return nil
}

func (c *collector) endpointMetrics() []prometheus.Metric {
	counted := make(map[counterKey]bool, len(c.counters.keys))
	for _, key := range c.counters.keys {
		counted[key] = true
	}
	var metrics []prometheus.Metric
	unready, missing := 0, 0
	for _, one := range c.endpoints {
		if !one.known && !counted[counterKey{one.index, 0}] && !counted[counterKey{one.index, 1}] {
			continue
		}
		index := strconv.FormatUint(uint64(one.index), 10)
		metrics = append(metrics, gauge(endpointInfo, 1, one.name, one.kind, one.namespace, one.pod, index))
		for _, address := range one.addresses {
			family := "4"
			if strings.Contains(address, ":") {
				family = "6"
			}
			if one.workload {
				metrics = append(metrics, gauge(addressInfo, 1, one.name, one.namespace, one.pod, address, family))
			}
		}
		if !one.managed {
			continue
		}
		for family, flag := range readyFlags {
			if one.flags&flag == 0 {
				metrics, unready = append(metrics, gauge(notReady, 1, one.name, one.namespace, one.pod, family)), unready+1
			}
		}
		for hook := range uint32(xdp) {
			if !counted[counterKey{one.index, hook}] {
				metrics = append(metrics, gauge(countersMissing, 1, one.name, hookNames[hook], one.namespace, one.pod))
				missing++
			}
		}
	}
	return append(metrics,
		gauge(problems, float64(unready), "not_ready"), gauge(problems, float64(missing), "counters_missing"),
		gauge(problems, 0, "uncounted"), gauge(leftovers, 0, "iface"))
}

func (c *collector) collectMaps(out chan<- prometheus.Metric) error {
	if err := c.rules.read(); err != nil {
		return err
	}
	shape(out, "counters", len(c.counters.keys), c.counters.opened, c.counters.path, strconv.Itoa(slotCount), "builtin")
	shape(out, "rules", len(c.rules.keys), c.rules.opened, c.rules.path, "", "")
	shape(out, "iface", len(c.states.keys), c.states.opened, c.states.path, "", "")
	return nil
}

func shape(out chan<- prometheus.Metric, datum string, entries int, opened *ebpf.Map, path, slots, layout string) {
	kind := "hash"
	if opened.Type() == ebpf.PerCPUHash {
		kind = "percpu_hash"
	}
	key, value := strconv.Itoa(int(opened.KeySize())), strconv.Itoa(int(opened.ValueSize()))
	out <- gauge(mapEntries, float64(entries), datum, "")
	out <- gauge(mapMaxEntries, float64(opened.MaxEntries()), datum, "")
	out <- gauge(mapInfo, 1, datum, filepath.Base(path), kind, key, value, slots, layout, "only")
	out <- gauge(stalePins, 0, datum)
}
