package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// The daemon closes idle flows; this is for one that forgot.
	udpIdleTime = 10 * time.Minute
	// Datagrams that wait for a daemon slower than the tailnet, for each flow. More are dropped.
	udpQueue      = 256
	udpQueueBytes = 512 << 10
	// An ICMP error does not wake a blocked read of the stack's: after each write reads come back this often, this long.
	udpErrorPoll = 250 * time.Millisecond
	udpErrorTime = 2 * time.Second

	udpReadBuffer = 16 << 10
)

var (
	errMalformed = errors.New("malformed request")
	datagrams    = sync.Pool{New: func() any { b := make([]byte, 1<<16); return &b }}
)

// serveUDP serves one flow to the tailnet.
func (s *sidecar) serveUDP(daemon *net.UnixConn) {
	defer daemon.Close()
	r, done := readRequest(daemon, udpReadBuffer)
	header, err := readProxyHeader(r)
	if err != nil || !header.udp {
		return
	}
	done()
	n := s.node(header.values[tlvNode])
	code, flow := byte(replyFailed), net.Conn(nil)
	if n != nil {
		code = replyNoNetwork
	}
	var m *member
	if n != nil {
		m = n.member.Load()
	}
	if m != nil {
		flow, err = m.dialUDP(m.ctx, header.destination)
		code = replyCode(err)
	}
	if _, err := daemon.Write([]byte{code}); err != nil || code != replyConnected {
		if flow != nil {
			flow.Close()
		}
		return
	}
	s.counters.udpFlows.Add(1)
	u := &udpRelay{member: m, daemon: daemon, tailnet: flow}
	u.run(r)
}

// udpRelay moves datagrams between the daemon's frames and a flow of the node's stack.
type udpRelay struct {
	member  *member
	daemon  *net.UnixConn
	tailnet net.Conn
	// notice, if set, takes the daemon's notices.
	notice func(code byte)

	last      atomic.Int64 // when something moved, Unix nanoseconds
	pollUntil atomic.Int64 // until then reads look for ICMP errors

	mu      sync.Mutex
	waiting []byte // frames to the daemon
	count   int
	wake    chan struct{}
}

// run relays until one side closes, nothing moves for udpIdleTime, or the node stops. Both sides are closed then.
func (u *udpRelay) run(frames *bufio.Reader) {
	u.wake = make(chan struct{}, 1)
	u.touch()
	over := make(chan struct{})
	var once sync.Once
	end := func() {
		once.Do(func() {
			close(over)
			u.tailnet.Close()
			u.daemon.Close()
		})
	}
	stop := make(chan struct{})
	go func() {
		select {
		case <-u.member.ctx.Done():
			end()
		case <-stop:
		}
	}()
	defer close(stop)
	var tasks sync.WaitGroup
	tasks.Go(func() {
		defer end()
		u.fromDaemon(frames)
	})
	tasks.Go(func() {
		defer end()
		u.toDaemon(over)
	})
	u.fromTailnet(over)
	end()
	tasks.Wait()
}

func (u *udpRelay) touch() { u.last.Store(time.Now().UnixNano()) }

func (u *udpRelay) fromDaemon(frames *bufio.Reader) {
	buffer := datagrams.Get().(*[]byte)
	defer datagrams.Put(buffer)
	for {
		data, notice, err := readFrame(frames, *buffer)
		if err != nil {
			return
		}
		u.touch()
		if data == nil {
			if u.notice != nil {
				u.notice(notice)
			}
			continue
		}
		now := time.Now()
		if now.UnixNano() > u.pollUntil.Swap(now.Add(udpErrorTime).UnixNano()) {
			_ = u.tailnet.SetReadDeadline(now.Add(udpErrorPoll)) // shortens a read that waits already
		}
		u.member.node.sidecar.memory.relayed.Add(int64(len(data)))
		if _, err := u.tailnet.Write(data); err != nil {
			if u.failed(err) {
				return
			}
			// What failed was an earlier datagram; this one was not sent.
			if _, err := u.tailnet.Write(data); err != nil && u.failed(err) {
				return
			}
		}
	}
}

// failed tells the daemon of an ICMP error, and whether the flow is over.
func (u *udpRelay) failed(err error) bool {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	code := replyCode(err)
	if code == replyFailed {
		return true
	}
	u.mu.Lock()
	u.waiting = appendNotice(u.waiting, code)
	u.mu.Unlock()
	u.awaken()
	return false
}

func (u *udpRelay) fromTailnet(over <-chan struct{}) {
	buffer := datagrams.Get().(*[]byte)
	defer datagrams.Put(buffer)
	for {
		now := time.Now()
		deadline := now.Add(udpIdleTime / 4)
		if now.UnixNano() < u.pollUntil.Load() {
			deadline = now.Add(udpErrorPoll)
		}
		_ = u.tailnet.SetReadDeadline(deadline)
		n, err := u.tailnet.Read((*buffer)[:maxFrame])
		if err == nil {
			u.touch()
			u.queue((*buffer)[:n])
			continue
		}
		select {
		case <-over:
			return
		default:
		}
		if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
			if time.Since(time.Unix(0, u.last.Load())) > udpIdleTime {
				return
			}
		} else if u.failed(err) {
			return
		}
	}
}

func (u *udpRelay) queue(data []byte) {
	sidecar := u.member.node.sidecar
	sidecar.memory.relayed.Add(int64(len(data)))
	u.mu.Lock()
	full := u.count >= udpQueue || len(u.waiting) > udpQueueBytes
	if !full {
		u.waiting = appendFrame(u.waiting, data)
		u.count++
	}
	u.mu.Unlock()
	if full {
		sidecar.counters.udpDropped.Add(1)
		return
	}
	u.awaken()
}

func (u *udpRelay) awaken() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// toDaemon writes all frames that wait in one go.
func (u *udpRelay) toDaemon(over <-chan struct{}) {
	var spare []byte
	for {
		select {
		case <-u.wake:
		case <-over:
			return
		}
		u.mu.Lock()
		frames := u.waiting
		u.waiting, u.count = spare[:0], 0
		u.mu.Unlock()
		if _, err := u.daemon.Write(frames); err != nil {
			return
		}
		spare = frames
		if cap(spare) > udpReadBuffer { // an idle flow keeps little
			spare = nil
		}
	}
}
