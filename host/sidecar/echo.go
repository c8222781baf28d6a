package main

import (
	"bufio"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"time"
)

// The daemon's verdicts on an echo request.
const (
	echoAnswered    = 0
	echoUnreachable = 1
	echoProhibited  = 2
)

const (
	maxEchoWaiting = 256
	maxEchoPayload = 65_000
	echoTime       = 10 * time.Second
)

type echoRequest struct {
	node                 string
	source, destination  netip.Addr
	identifier, sequence [2]byte
	ttl                  byte
	payload              []byte
	answer               func(verdict byte) // called once at most
}

func (e *echoRequest) marshal(id uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, id)
	version := byte(4)
	if e.destination.Is6() {
		version = 6
	}
	b = append(b, version)
	b = append(b, e.source.AsSlice()...)
	b = append(b, e.destination.AsSlice()...)
	b = append(b, e.identifier[:]...)
	b = append(b, e.sequence[:]...)
	b = append(b, e.ttl, byte(len(e.node)))
	b = append(b, e.node...)
	return append(b, e.payload...)
}

// echoAsker asks the daemon whether a device answers, over one connection for all.
type echoAsker struct {
	path     string
	counters *counters
	queue    chan echoRequest
}

func newEchoAsker(path string, counters *counters) *echoAsker {
	a := &echoAsker{path: path, counters: counters, queue: make(chan echoRequest, maxEchoWaiting)}
	go a.run()
	return a
}

// ask never blocks: it is called from a node's receive path.
func (a *echoAsker) ask(request echoRequest) {
	if len(request.payload) <= maxEchoPayload {
		select {
		case a.queue <- request:
			a.counters.echoAsked.Add(1)
			return
		default:
		}
	}
	a.counters.echoDropped.Add(1)
}

type echoWaiting struct {
	mu      sync.Mutex
	byID    map[uint32]echoRequest
	expires map[uint32]time.Time
}

func (w *echoWaiting) add(id uint32, request echoRequest) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.byID) >= maxEchoWaiting {
		now := time.Now()
		for id, expiry := range w.expires {
			if now.After(expiry) {
				delete(w.byID, id)
				delete(w.expires, id)
			}
		}
	}
	if len(w.byID) >= maxEchoWaiting {
		return false
	}
	w.byID[id], w.expires[id] = request, time.Now().Add(echoTime)
	return true
}

func (w *echoWaiting) take(id uint32) (echoRequest, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	request, ok := w.byID[id]
	ok = ok && time.Now().Before(w.expires[id])
	delete(w.byID, id)
	delete(w.expires, id)
	return request, ok
}

// run connects when there is something to ask; what waited on a connection that broke is forgotten.
func (a *echoAsker) run() {
	var conn net.Conn
	var waiting *echoWaiting
	for id := uint32(0); ; id++ {
		request := <-a.queue
		if conn == nil {
			var err error
			if conn, err = net.DialTimeout("unix", a.path, time.Second); err != nil {
				conn = nil
				a.counters.echoDropped.Add(1)
				continue
			}
			waiting = &echoWaiting{byID: map[uint32]echoRequest{}, expires: map[uint32]time.Time{}}
			go readVerdicts(conn, waiting)
		}
		if !waiting.add(id, request) {
			a.counters.echoDropped.Add(1)
			continue
		}
		_ = conn.SetWriteDeadline(time.Now().Add(echoTime))
		if _, err := conn.Write(appendFrame(nil, request.marshal(id))); err != nil {
			conn.Close()
			conn = nil
			a.counters.echoDropped.Add(1)
		}
	}
}

func readVerdicts(conn net.Conn, waiting *echoWaiting) {
	defer conn.Close()
	r, buffer := bufio.NewReader(conn), make([]byte, 1<<16)
	for {
		data, _, err := readFrame(r, buffer)
		if err != nil || len(data) != 5 {
			return
		}
		if request, ok := waiting.take(binary.BigEndian.Uint32(data)); ok {
			request.answer(data[4])
		}
	}
}
