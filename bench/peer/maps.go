package main

import (
	"errors"
	"os"
	"syscall"

	"github.com/cilium/ebpf"
)

const batch = 1024

// pinned is a pinned map that stays open until its pin is replaced, with the buffers of the last reading.
type pinned[K, V any] struct {
	path   string
	copies int // values for each key: the possible CPUs for a per-CPU map, otherwise 1
	keys   []K
	values []V
	inode  uint64
	opened *ebpf.Map
}

// read fills keys and values with the whole map.
func (p *pinned[K, V]) read() error {
	if err := p.open(); err != nil {
		return err
	}
	var cursor ebpf.MapBatchCursor
	size, total := batch, 0
	for {
		p.grow(total + size)
		count, err := p.opened.BatchLookup(
			&cursor, p.keys[total:total+size], p.values[total*p.copies:(total+size)*p.copies], nil)
		if errors.Is(err, syscall.ENOSPC) && size < 2*int(p.opened.MaxEntries()) {
			size *= 2
			continue
		}
		total += count
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			p.keys, p.values = p.keys[:total], p.values[:total*p.copies]
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (p *pinned[K, V]) open() error {
	var status syscall.Stat_t
	if err := syscall.Stat(p.path, &status); err != nil {
		return &os.PathError{Op: "stat", Path: p.path, Err: err}
	}
	if p.opened != nil && p.inode == status.Ino {
		return nil
	}
	opened, err := ebpf.LoadPinnedMap(p.path, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	if p.opened != nil {
		_ = p.opened.Close()
	}
	p.opened, p.inode, p.copies = opened, status.Ino, 1
	if opened.Type() == ebpf.PerCPUHash {
		p.copies = ebpf.MustPossibleCPU()
	}
	return nil
}

func (p *pinned[K, V]) grow(entries int) {
	if cap(p.keys) < entries {
		p.keys = append(make([]K, 0, 2*entries), p.keys...)
		p.values = append(make([]V, 0, 2*entries*p.copies), p.values...)
	}
	p.keys, p.values = p.keys[:entries], p.values[:entries*p.copies]
}
