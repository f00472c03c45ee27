package filekeys

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A fault says what happens at one call, and after it.
type fault struct {
	name  string
	done  bool // the call takes effect
	fails bool // the call reports failure
	dies  bool // every later call fails: the process is gone
}

var faults = []fault{
	{name: "fails", fails: true},
	{name: "done but reported failed", done: true, fails: true},
	{name: "dies before", fails: true, dies: true},
	{name: "dies after", done: true, dies: true},
}

var errFault = errors.New("injected fault")

// faultFS passes calls on, until the one that has the fault.
type faultFS struct {
	FS
	mu    sync.Mutex
	calls int   // made so far
	at    int   // the call with the fault, from 1; 0: none
	fault fault //
	dead  bool
	log   []string
}

// reached reports whether the fault has happened.
func (f *faultFS) reached() bool { return f.at > 0 && f.calls >= f.at }

// call runs one call, or doesn't. An unfinished call may have had some of its effect:
// partly stands in for that.
func (f *faultFS) call(name string, do func() error, partly func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	f.log = append(f.log, name)
	if f.dead {
		return errFault
	}
	if f.calls != f.at {
		return do()
	}
	f.dead = f.fault.dies
	var err error
	if f.fault.done {
		err = do()
	} else if partly != nil {
		partly()
	}
	if f.fault.fails {
		return errFault
	}
	return err
}

func (f *faultFS) Mkdir(p string) error {
	return f.call("mkdir "+p, func() error { return f.FS.Mkdir(p) }, nil)
}

func (f *faultFS) Create(p string) (file File, err error) {
	err = f.call("create "+p, func() error { file, err = f.FS.Create(p); return err }, nil)
	if err != nil {
		if file != nil {
			file.Close()
		}
		return nil, err
	}
	return &faultFile{f, file, p}, nil
}

func (f *faultFS) Rename(a, b string) error {
	return f.call("rename "+b, func() error { return f.FS.Rename(a, b) }, nil)
}

func (f *faultFS) Remove(p string) error {
	return f.call("remove "+p, func() error { return f.FS.Remove(p) }, nil)
}

func (f *faultFS) SyncDir(p string) error {
	return f.call("syncdir "+p, func() error { return f.FS.SyncDir(p) }, nil)
}

func (f *faultFS) ReadFile(p string) (b []byte, err error) {
	err = f.call("read "+p, func() error { b, err = f.FS.ReadFile(p); return err }, nil)
	return b, err
}

func (f *faultFS) ReadDir(p string) (names []string, err error) {
	err = f.call("readdir "+p, func() error { names, err = f.FS.ReadDir(p); return err }, nil)
	return names, err
}

func (f *faultFS) Stat(p string) (info fs.FileInfo, err error) {
	err = f.call("stat "+p, func() error { info, err = f.FS.Stat(p); return err }, nil)
	return info, err
}

func (f *faultFS) Lock(p string) (l io.Closer, err error) {
	err = f.call("lock "+p, func() error { l, err = f.FS.Lock(p); return err }, nil)
	if err != nil && l != nil {
		l.Close()
	}
	return l, err
}

type faultFile struct {
	f    *faultFS
	file File
	path string
}

func (w *faultFile) Write(b []byte) (int, error) {
	err := w.f.call("write "+w.path,
		func() error { _, err := w.file.Write(b); return err },
		func() { w.file.Write(b[:len(b)/2]) })
	return len(b), err
}

func (w *faultFile) Sync() error { return w.f.call("sync "+w.path, w.file.Sync, nil) }

func (w *faultFile) Close() error {
	err := w.f.call("close "+w.path, w.file.Close, nil)
	if err != nil {
		w.file.Close() // the test shall not run out of files
	}
	return err
}

// memFS is a file system that can lose power. What was not synced may be lost then: the
// content of a file unless it was synced, an entry made, renamed or removed unless its
// directory was synced.
type memFS struct {
	mu   sync.Mutex
	root *node
	held map[string]bool // locks
}

type node struct {
	dir              bool
	data, synced     []byte           // of a file
	entries, durable map[string]*node // of a directory
}

func newDir() *node {
	return &node{dir: true, entries: map[string]*node{}, durable: map[string]*node{}}
}

// newMemFS has a directory /d.
func newMemFS() *memFS {
	m := &memFS{root: newDir(), held: map[string]bool{}}
	m.Mkdir("/d")
	m.SyncDir("/")
	return m
}

// clone copies a file system of which everything is synced and nothing locked.
func (m *memFS) clone() *memFS {
	var clone func(n *node) *node
	clone = func(n *node) *node {
		if !n.dir {
			return &node{data: bytes.Clone(n.data), synced: bytes.Clone(n.data)}
		}
		c := newDir()
		for name, e := range n.entries {
			c.entries[name] = clone(e)
		}
		c.durable = maps.Clone(c.entries)
		return c
	}
	return &memFS{root: clone(m.root), held: map[string]bool{}}
}

func fsErr(op, p string, err error) error { return &fs.PathError{Op: op, Path: p, Err: err} }

// find returns the node, or nil; its parent, or nil; and its name there.
func (m *memFS) find(p string) (n, parent *node, name string) {
	n = m.root
	for part := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		if part == "" {
			continue
		}
		if n == nil || !n.dir {
			return nil, nil, ""
		}
		parent, name, n = n, part, n.entries[part]
	}
	return n, parent, name
}

func (m *memFS) make(op, p string, made *node) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, parent, name := m.find(p)
	if n != nil {
		return fsErr(op, p, fs.ErrExist)
	}
	if parent == nil {
		return fsErr(op, p, fs.ErrNotExist)
	}
	parent.entries[name] = made
	return nil
}

func (m *memFS) Mkdir(p string) error { return m.make("mkdir", p, newDir()) }

func (m *memFS) Create(p string) (File, error) {
	n := &node{}
	if err := m.make("open", p, n); err != nil {
		return nil, err
	}
	return &memFile{m, n}, nil
}

type memFile struct {
	m *memFS
	n *node
}

func (f *memFile) Write(b []byte) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.n.data = append(f.n.data, b...)
	return len(b), nil
}

func (f *memFile) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.n.synced = bytes.Clone(f.n.data)
	return nil
}

func (f *memFile) Close() error { return nil }

func (m *memFS) Rename(a, b string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, from, fromName := m.find(a)
	_, to, toName := m.find(b)
	if n == nil || to == nil {
		return fsErr("rename", a, fs.ErrNotExist)
	}
	delete(from.entries, fromName)
	to.entries[toName] = n
	return nil
}

func (m *memFS) Remove(p string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, parent, name := m.find(p)
	if n == nil {
		return fsErr("remove", p, fs.ErrNotExist)
	}
	if len(n.entries) > 0 {
		return fsErr("remove", p, syscall.ENOTEMPTY)
	}
	delete(parent.entries, name)
	return nil
}

func (m *memFS) SyncDir(p string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, _, _ := m.find(p)
	if n == nil {
		return fsErr("sync", p, fs.ErrNotExist)
	}
	n.durable = maps.Clone(n.entries)
	return nil
}

func (m *memFS) ReadFile(p string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, _, _ := m.find(p)
	if n == nil || n.dir {
		return nil, fsErr("open", p, fs.ErrNotExist)
	}
	return bytes.Clone(n.data), nil
}

func (m *memFS) ReadDir(p string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, _, _ := m.find(p)
	if n == nil || !n.dir {
		return nil, fsErr("open", p, fs.ErrNotExist)
	}
	return slices.Collect(maps.Keys(n.entries)), nil
}

func (m *memFS) Stat(p string) (fs.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, _, name := m.find(p)
	if n == nil {
		return nil, fsErr("stat", p, fs.ErrNotExist)
	}
	return memInfo{n, name}, nil
}

type memInfo struct {
	n    *node
	name string
}

func (i memInfo) Name() string       { return i.name }
func (i memInfo) Size() int64        { return int64(len(i.n.data)) }
func (i memInfo) ModTime() time.Time { return time.Time{} }
func (i memInfo) IsDir() bool        { return i.n.dir }
func (i memInfo) Sys() any           { return nil }
func (i memInfo) Mode() fs.FileMode {
	if i.n.dir {
		return fs.ModeDir | 0o700
	}
	return 0o600
}

func (m *memFS) Lock(p string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, parent, name := m.find(p)
	if parent == nil {
		return nil, fsErr("open", p, fs.ErrNotExist)
	}
	if n == nil {
		parent.entries[name] = &node{}
	}
	if m.held[p] {
		return nil, ErrLocked
	}
	m.held[p] = true
	return closer(func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.held, p)
		return nil
	}), nil
}

type closer func() error

func (c closer) Close() error { return c() }

// powerCut loses what was not synced, but for what keep says has reached the disk by
// itself.
func (m *memFS) powerCut(keep func() bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = map[string]bool{}
	done := map[*node]bool{} // a node can have two names for a moment, by a rename half kept
	var cut func(n *node)
	cut = func(n *node) {
		if done[n] {
			return
		}
		done[n] = true
		if !n.dir {
			if !keep() {
				n.data = bytes.Clone(n.synced)
			}
			n.synced = bytes.Clone(n.data)
			return
		}
		names := map[string]bool{}
		for name := range n.entries {
			names[name] = true
		}
		for name := range n.durable {
			names[name] = true
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			was, is := n.durable[name], n.entries[name]
			if was != is && !keep() {
				is = was
			}
			if is == nil {
				delete(n.entries, name)
				continue
			}
			n.entries[name] = is
			cut(is)
		}
		n.durable = maps.Clone(n.entries)
	}
	cut(m.root)
}

// files calls f with the content of every file, as it is and as a power cut may leave
// it.
func (m *memFS) files(f func(name string, b []byte)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var walk func(p string, n *node)
	walk = func(p string, n *node) {
		if !n.dir {
			f(p, n.data)
			f(p+" (synced)", n.synced)
		}
		for name, e := range n.entries {
			walk(path.Join(p, name), e)
		}
		for name, e := range n.durable {
			if n.entries[name] != e {
				walk(path.Join(p, name)+" (undeleted)", e)
			}
		}
	}
	walk("/", m.root)
}
