package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
)

const (
	socksVersion      = 5
	socksPasswords    = 2 // RFC 1929
	socksNoMethod     = 0xff
	socksConnect      = 1
	socksIPv4         = 1
	socksIPv6         = 4
	socksRequestBytes = 4 << 10
)

// serveSOCKS serves one flow: RFC 1928 with RFC 1929, whose user name is the node.
func (s *sidecar) serveSOCKS(daemon *net.UnixConn) {
	defer daemon.Close()
	r, done := readRequest(daemon, socksRequestBytes)
	w := &socksWriter{daemon: daemon, requests: r}
	n, ok := s.socksLogin(w, r)
	if !ok {
		return
	}
	destination, code, err := socksRequest(r)
	if err != nil {
		return
	}
	done()
	if code != replyConnected {
		socksReply(w, code)
		return
	}
	m := n.member.Load()
	s.counters.dials.Add(1)
	if m == nil {
		s.counters.dialsFailed.Add(1)
		socksReply(w, replyNoNetwork)
		return
	}
	ctx, cancel := context.WithCancel(m.ctx)
	defer cancel()
	stopWatching := watchHangup(daemon, cancel)
	conn, err := m.dialTCP(ctx, destination)
	stopWatching()
	if err != nil {
		s.counters.dialsFailed.Add(1)
		code := replyCode(err)
		m.log.Debug("dial", "destination", destination.String(), "reply", code, "error", err.Error())
		socksReply(w, code)
		return
	}
	remote, ok := conn.(remoteStream)
	if !ok {
		conn.Close()
		socksReply(w, replyFailed)
		return
	}
	if !socksReply(w, replyConnected) {
		abort(conn)
		return
	}
	relay(m.ctx, daemon, remote, conn, buffered(r), &s.memory.relayed)
}

// socksWriter keeps an answer back while more of the request is there already: a client that sent all of it at once is woken
// once, and not for each answer.
type socksWriter struct {
	daemon   *net.UnixConn
	requests *bufio.Reader
	kept     []byte
}

func (w *socksWriter) answer(b ...byte) error {
	w.kept = append(w.kept, b...)
	if w.requests.Buffered() > 0 {
		return nil
	}
	return w.flush()
}

func (w *socksWriter) flush() error {
	_, err := w.daemon.Write(w.kept)
	w.kept = nil
	return err
}

func (s *sidecar) socksLogin(w *socksWriter, r *bufio.Reader) (*node, bool) {
	methods, err := socksField(r, socksVersion)
	if err != nil {
		return nil, false
	}
	offered := false
	for _, method := range methods {
		offered = offered || method == socksPasswords
	}
	if !offered {
		w.kept = []byte{socksVersion, socksNoMethod}
		_ = w.flush()
		return nil, false
	}
	if err := w.answer(socksVersion, socksPasswords); err != nil {
		return nil, false
	}
	name, err := socksField(r, 1)
	if err != nil {
		return nil, false
	}
	length, err := r.ReadByte()
	if err != nil {
		return nil, false
	}
	if _, err := r.Discard(int(length)); err != nil {
		return nil, false
	}
	n := s.node(string(name))
	if n == nil {
		w.kept = append(w.kept, 1, 1)
		_ = w.flush()
		return nil, false
	}
	return n, w.answer(1, 0) == nil
}

// socksField reads a version byte and a field that follows its length.
func socksField(r *bufio.Reader, version byte) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	if head[0] != version {
		return nil, errMalformed
	}
	field := make([]byte, head[1])
	_, err := io.ReadFull(r, field)
	return field, err
}

func socksRequest(r *bufio.Reader) (destination netip.AddrPort, code byte, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return netip.AddrPort{}, 0, err
	}
	size := 0
	switch {
	case head[0] != socksVersion:
		return netip.AddrPort{}, 0, errMalformed
	case head[1] != socksConnect:
		return netip.AddrPort{}, replyCommandUnsupported, nil
	case head[3] == socksIPv4:
		size = 4
	case head[3] == socksIPv6:
		size = 16
	default:
		return netip.AddrPort{}, replyAddressUnsupported, nil
	}
	rest := make([]byte, size+2)
	if _, err := io.ReadFull(r, rest); err != nil {
		return netip.AddrPort{}, 0, err
	}
	address, _ := netip.AddrFromSlice(rest[:size])
	return netip.AddrPortFrom(address, binary.BigEndian.Uint16(rest[size:])), replyConnected, nil
}

func socksReply(w *socksWriter, code byte) bool {
	w.kept = append(w.kept, socksVersion, code, 0, socksIPv4, 0, 0, 0, 0, 0, 0)
	return w.flush() == nil
}
