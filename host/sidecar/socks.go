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
	n, ok := s.socksLogin(daemon, r)
	if !ok {
		return
	}
	destination, code, err := socksRequest(r)
	if err != nil {
		return
	}
	done()
	if code != replyConnected {
		socksReply(daemon, code)
		return
	}
	m := n.member.Load()
	s.counters.dials.Add(1)
	if m == nil {
		s.counters.dialsFailed.Add(1)
		socksReply(daemon, replyNoNetwork)
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
		socksReply(daemon, code)
		return
	}
	remote, ok := conn.(remoteStream)
	if !ok {
		conn.Close()
		socksReply(daemon, replyFailed)
		return
	}
	if !socksReply(daemon, replyConnected) {
		abort(conn)
		return
	}
	relay(m.ctx, daemon, remote, conn, buffered(r), &s.memory.relayed)
}

func (s *sidecar) socksLogin(daemon *net.UnixConn, r *bufio.Reader) (*node, bool) {
	methods, err := socksField(r, socksVersion)
	if err != nil {
		return nil, false
	}
	offered := false
	for _, method := range methods {
		offered = offered || method == socksPasswords
	}
	if !offered {
		_, _ = daemon.Write([]byte{socksVersion, socksNoMethod})
		return nil, false
	}
	if _, err := daemon.Write([]byte{socksVersion, socksPasswords}); err != nil {
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
	status := byte(0)
	if n == nil {
		status = 1
	}
	_, err = daemon.Write([]byte{1, status})
	return n, n != nil && err == nil
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

func socksReply(daemon *net.UnixConn, code byte) bool {
	_, err := daemon.Write([]byte{socksVersion, code, 0, socksIPv4, 0, 0, 0, 0, 0, 0})
	return err == nil
}
