package main

import (
	"encoding/json"
	"sync"
)

// eventHub tells whole states to its followers. A slow follower gets the latest of each, not all: it keeps one line for
// each node and kind at most.
type eventHub struct {
	mu        sync.Mutex
	followers map[*follower]struct{}
}

type follower struct {
	wake    chan struct{}
	mu      sync.Mutex
	order   []string
	pending map[string][]byte
}

func newEventHub() *eventHub { return &eventHub{followers: map[*follower]struct{}{}} }

// follow begins to collect; initial is called when nothing can be missed any more, before what comes later.
func (h *eventHub) follow(initial func(*follower)) *follower {
	f := &follower{wake: make(chan struct{}, 1), pending: map[string][]byte{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.followers[f] = struct{}{}
	initial(f)
	return f
}

func (h *eventHub) unfollow(f *follower) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.followers, f)
}

func (h *eventHub) tell(key string, event any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for f := range h.followers {
		f.put(key, event)
	}
}

func (h *eventHub) node(status nodeStatus) { h.tell("node "+status.Name, nodeEvent(status)) }
func (h *eventHub) peers(name string) {
	h.tell("peers "+name, map[string]string{"event": "peers", "name": name})
}

// removed shares its key with the states: whichever came last is the truth.
func (h *eventHub) removed(name string) {
	h.tell("node "+name, map[string]string{"event": "removed", "name": name})
}

func nodeEvent(status nodeStatus) any {
	return struct {
		Event string     `json:"event"`
		Node  nodeStatus `json:"node"`
	}{"node", status}
}

func (f *follower) put(key string, event any) {
	line, err := json.Marshal(event)
	if err != nil {
		return // all are made of plain values
	}
	f.mu.Lock()
	if _, ok := f.pending[key]; !ok {
		f.order = append(f.order, key)
	}
	f.pending[key] = append(line, '\n')
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// take gives the lines that wait.
func (f *follower) take() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []byte
	for _, key := range f.order {
		lines = append(lines, f.pending[key]...)
	}
	f.order = f.order[:0]
	clear(f.pending)
	return lines
}
