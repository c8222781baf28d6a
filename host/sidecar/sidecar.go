package main

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// Each node costs some megabytes, and 36 more of address space that count against the memory limit.
	maxNodes = 64
	// A local client that does not finish its request keeps a goroutine and a descriptor no longer than this.
	requestTime = 10 * time.Second
)

var (
	errTooManyNodes = errors.New("there are 64 nodes already")
	nodeNamePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
)

// sidecar is the whole: the nodes, and what they share.
type sidecar struct {
	sockets, state string
	log            *slog.Logger
	secrets        *secretValues
	verbose        bool
	started        time.Time

	events   *eventHub
	echo     *echoAsker
	memory   *memoryKeeper
	counters counters

	listeners []net.Listener

	mu       sync.Mutex
	nodes    map[string]*node
	stopping bool

	// tsnet reads one of its settings from the environment: one node starts at a time.
	starting sync.Mutex
}

func newSidecar(sockets, state string, log *slog.Logger, secrets *secretValues, verbose bool) *sidecar {
	s := &sidecar{
		sockets: sockets, state: state, log: log, secrets: secrets, verbose: verbose,
		started: time.Now(), events: newEventHub(), nodes: map[string]*node{},
	}
	s.memory = newMemoryKeeper(s.nodeCount)
	s.echo = newEchoAsker(s.path("echo"), &s.counters)
	return s
}

func (s *sidecar) path(socket string) string { return filepath.Join(s.sockets, socket) }

// listen opens all four sockets and serves them.
func (s *sidecar) listen() error {
	flows := map[string]func(*net.UnixConn){"socks": s.serveSOCKS, "udp": s.serveUDP, "dns": s.serveDNS}
	for _, name := range []string{"control", "socks", "udp", "dns"} {
		// We hold the lock: what lies there is a dead process's.
		if err := os.Remove(s.path(name)); err != nil && !os.IsNotExist(err) {
			return err
		}
		listener, err := net.Listen("unix", s.path(name))
		if err != nil {
			return err
		}
		s.listeners = append(s.listeners, listener)
		if serve, ok := flows[name]; ok {
			go s.accept(listener, serve)
		} else {
			go s.serveControl(listener)
		}
	}
	go s.memory.run()
	return nil
}

func (s *sidecar) accept(listener net.Listener, serve func(*net.UnixConn)) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no descriptors: those in use come back
			s.log.Warn("cannot accept", "socket", listener.Addr().String(), "error", err.Error())
			time.Sleep(50 * time.Millisecond)
			continue
		}
		flowWorkers.run(func() { serve(conn.(*net.UnixConn)) })
	}
}

func (s *sidecar) nodeCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.nodes)
}

// node gives the node of that name, nil if there is none.
func (s *sidecar) node(name string) *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes[name]
}

func (s *sidecar) allNodes() []*node {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*node, 0, len(s.nodes))
	for _, n := range s.nodes {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	return all
}

// nodeNamed gives the node of that name, a new one with this configuration if there is none.
func (s *sidecar) nodeNamed(name string, config nodeConfig) (*node, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.nodes[name]; n != nil {
		return n, nil
	}
	if s.stopping {
		return nil, errors.New("the sidecar is stopping")
	}
	if len(s.nodes) >= maxNodes {
		return nil, errTooManyNodes
	}
	n := newNode(s, name, config)
	s.nodes[name] = n
	return n, nil
}

func (s *sidecar) removeNode(n *node) {
	s.mu.Lock()
	if s.nodes[n.name] == n {
		delete(s.nodes, n.name)
	}
	s.mu.Unlock()
	s.events.removed(n.name)
	s.memory.adjust()
}

// shutdown resets all flows and stops all nodes.
func (s *sidecar) shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	for _, listener := range s.listeners {
		listener.Close()
	}
	var all sync.WaitGroup
	for _, n := range s.allNodes() {
		all.Go(func() { n.stop(wantStopped) })
	}
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// readRequest gives a reader of a connection whose request must be complete in time; call done after it.
func readRequest(conn *net.UnixConn, size int) (r *bufio.Reader, done func()) {
	_ = conn.SetReadDeadline(time.Now().Add(requestTime))
	return bufio.NewReaderSize(conn, size), func() { _ = conn.SetReadDeadline(time.Time{}) }
}

// buffered gives what r has read already, and then the rest of conn.
func buffered(r *bufio.Reader) []byte {
	rest, _ := r.Peek(r.Buffered())
	return rest
}
