package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"tailscale.com/net/tsaddr"
	"tailscale.com/types/nettype"
)

// The daemon's answers to an inbound flow.
const (
	answerAccept    = 0
	answerRefuse    = 1
	answerAcceptTLS = 2
)

const (
	answerTime  = 10 * time.Second
	tlsTime     = 15 * time.Second
	certificate = 24 * time.Hour // a certificate must be valid for this long, or is renewed

	// A tailnet node that connects to every port waits for an answer 10 s each.
	maxInboundWaiting = 2048
	// Each source port of a peer is a UDP flow of its own.
	maxInboundUDP = 4096
)

// inboundLimits are one member's.
type inboundLimits struct {
	waiting, udp atomic.Int64
}

// enter counts one more, unless there are too many.
func enter(count *atomic.Int64, limit int64) bool {
	if count.Add(1) > limit {
		count.Add(-1)
		return false
	}
	return true
}

// handleTCP is called for each SYN, in a goroutine of its own, before anything is answered. (nil, true) is a RST; what is
// not intercepted would be dialled on the host's network, so everything is.
func (m *member) handleTCP(source, destination netip.AddrPort) (func(net.Conn), bool) {
	if tsaddr.TailscaleViaRange().Contains(destination.Addr()) {
		m.pin(tsaddr.UnmapVia(destination.Addr()))
	}
	counters := &m.node.sidecar.counters
	if !enter(&m.limits.waiting, maxInboundWaiting) {
		counters.inboundDropped.Add(1)
		return nil, true
	}
	daemon, answer := m.ask(source, destination, false)
	m.limits.waiting.Add(-1)
	if answer != answerAccept && answer != answerAcceptTLS {
		counters.inboundRefused.Add(1)
		return nil, true
	}
	counters.inboundAccepted.Add(1)
	// When the handler returns the stack gives a routed address up, and what is still to be sent from it is lost.
	return func(conn net.Conn) {
		remote, ok := conn.(remoteStream)
		if !ok {
			conn.Close()
			daemon.Close()
			return
		}
		tune(conn)
		if answer == answerAcceptTLS {
			secured, err := m.secure(conn)
			if err != nil {
				m.log.Info("TLS failed", "peer", source.String(), "error", err.Error())
				abort(conn)
				daemon.Close()
				return
			}
			remote = secured
		}
		relay(m.ctx, daemon, remote, conn, nil, &m.node.sidecar.memory.relayed)
		if !m.own(destination.Addr()) {
			drain(m.ctx, conn)
		}
	}, true
}

// secure ends TLS with the node's certificate for its own name.
func (m *member) secure(conn net.Conn) (*tls.Conn, error) {
	secured := tls.Server(conn, &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"}, // the device speaks HTTP/1.1, whatever the client would like
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			ctx, cancel := context.WithTimeout(m.ctx, tlsTime)
			defer cancel()
			return m.certificate(ctx)
		},
	})
	ctx, cancel := context.WithTimeout(m.ctx, tlsTime)
	defer cancel()
	return secured, secured.HandshakeContext(ctx)
}

func (m *member) certificate(ctx context.Context) (*tls.Certificate, error) {
	domains := m.node.currentStatus().CertificateDomains
	if len(domains) == 0 {
		return nil, errors.New("the tailnet gives this node no certificates: enable HTTPS in its DNS settings")
	}
	chain, key, err := m.local.CertPairWithValidity(ctx, domains[0], certificate)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(chain, key)
	return &pair, err
}

// handleUDP is called for each flow's first datagram inside the node's receive path, where nothing may block.
func (m *member) handleUDP(source, destination netip.AddrPort) (func(nettype.ConnPacketConn), bool) {
	if source.Addr() == pinSource {
		return nil, true
	}
	if !enter(&m.limits.udp, maxInboundUDP) {
		m.node.sidecar.counters.inboundDropped.Add(1)
		return nil, true
	}
	return func(flow nettype.ConnPacketConn) {
		defer m.limits.udp.Add(-1)
		defer flow.Close()
		counters := &m.node.sidecar.counters
		daemon, answer := m.ask(source, destination, true)
		if answer != answerAccept {
			counters.inboundRefused.Add(1)
			m.sendUnreachable(source, destination, replyRefused)
			return
		}
		counters.inboundAccepted.Add(1)
		u := &udpRelay{member: m, daemon: daemon, tailnet: flow, notice: func(code byte) {
			m.sendUnreachable(source, destination, code)
		}}
		u.run(bufio.NewReaderSize(daemon, udpReadBuffer))
	}, true
}

// ask shows the daemon a flow and waits for its answer. The connection is nil unless that is to accept.
func (m *member) ask(source, destination netip.AddrPort, udp bool) (*net.UnixConn, byte) {
	ctx, cancel := context.WithTimeout(m.ctx, answerTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", m.node.sidecar.path("inbound"))
	if err != nil {
		m.log.Debug("the daemon takes no flows", "error", err.Error())
		return nil, answerRefuse
	}
	daemon := conn.(*net.UnixConn)
	deadline, _ := ctx.Deadline()
	_ = daemon.SetDeadline(deadline)
	stop := context.AfterFunc(m.ctx, func() { daemon.Close() })
	defer stop()
	values := map[byte]string{tlvNode: m.node.name}
	if peer := m.people.Load().find(source.Addr()); peer != nil {
		values[tlvStableID], values[tlvName], values[tlvUser] = peer.StableID, peer.DNSName, peer.User
		values[tlvTags] = strings.Join(peer.Tags, ",")
	}
	header := proxyHeader{udp: udp, source: source, destination: destination, values: values}
	var answer [1]byte
	_, err = daemon.Write(header.marshal())
	if err == nil {
		_, err = io.ReadFull(daemon, answer[:])
	}
	accepted := answer[0] == answerAccept || answer[0] == answerAcceptTLS && !udp
	if err != nil || !accepted {
		daemon.Close()
		return nil, answerRefuse
	}
	_ = daemon.SetDeadline(time.Time{})
	return daemon, answer[0]
}
