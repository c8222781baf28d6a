package main

import (
	"bytes"
	"net/netip"
	"sync"
	"time"

	"tailscale.com/net/packet"
	"tailscale.com/net/tstun"
	"tailscale.com/wgengine/filter"
	"tailscale.com/wgengine/netstack/gro"
)

const (
	maxUnreachables = 100 // a second, for each node
	pinPort         = 9   // discard
	minIPv6MTU      = 1280
)

// pinSource sends nothing, ever: it is no peer's address.
var pinSource = netip.MustParseAddr("100.100.100.101")

// filterInbound sees each packet from the tailnet after its ACLs. It keeps addresses that are no device's out of the stack,
// which registers each UDP destination for ever, and echo requests to devices, for which the stack would run the host's ping.
func (m *member) filterInbound(p *packet.Parsed, wrapper *tstun.Wrapper, g *gro.GRO) (filter.Response, *gro.GRO) {
	destination := p.Dst.Addr()
	switch {
	case m.own(destination):
		return m.inject(p, wrapper, g)
	case len(*m.addresses.Load()) == 0: // not in the tailnet long enough to know
		return filter.DropSilently, g
	case !m.wants(destination):
		if !p.IsError() && destination.IsGlobalUnicast() {
			m.sendICMPError(destination, p.Src.Addr(), p.Buffer(), replyNoNetwork)
		}
		return filter.DropSilently, g
	case p.IsEchoRequest():
		m.askEcho(p)
		return filter.DropSilently, g
	}
	return m.inject(p, wrapper, g)
}

// askEcho has the daemon ask the device, and answers when that has.
func (m *member) askEcho(p *packet.Parsed) {
	original := bytes.Clone(p.Buffer())
	var q packet.Parsed
	q.Decode(original)
	message := q.Transport()
	if len(message) < 8 {
		return
	}
	ttl := original[8]
	if q.IPVersion == 6 {
		ttl = original[7]
	}
	m.node.sidecar.echo.ask(echoRequest{
		node: m.node.name, source: q.Src.Addr(), destination: q.Dst.Addr(),
		identifier: [2]byte(message[4:6]), sequence: [2]byte(message[6:8]), ttl: ttl, payload: message[8:],
		answer: func(verdict byte) { m.answerEcho(&q, verdict) },
	})
}

func (m *member) answerEcho(p *packet.Parsed, verdict byte) {
	if m.ctx.Err() != nil {
		return
	}
	switch verdict {
	case echoAnswered:
		if p.IPVersion == 4 {
			h := p.ICMP4Header()
			h.ToResponse()
			m.send(packet.Generate(&h, p.Payload()))
		} else {
			h := p.ICMP6Header()
			h.ToResponse()
			m.send(packet.Generate(&h, p.Payload()))
		}
	case echoUnreachable, echoProhibited:
		code := byte(replyHostUnreachable)
		if verdict == echoProhibited {
			code = replyForbidden
		}
		m.sendICMPError(p.Dst.Addr(), p.Src.Addr(), p.Buffer(), code)
	}
}

// sendUnreachable tells a peer that its datagrams to a device do not arrive.
func (m *member) sendUnreachable(peer, device netip.AddrPort, code byte) {
	var original []byte
	if peer.Addr().Is4() {
		original = packet.Generate(packet.UDP4Header{
			IP4Header: packet.IP4Header{Src: peer.Addr(), Dst: device.Addr()}, SrcPort: peer.Port(), DstPort: device.Port(),
		}, nil)
	} else {
		original = packet.Generate(packet.UDP6Header{
			IP6Header: packet.IP6Header{Src: peer.Addr(), Dst: device.Addr()}, SrcPort: peer.Port(), DstPort: device.Port(),
		}, nil)
	}
	m.sendICMPError(device.Addr(), peer.Addr(), original, code)
}

// sendICMPError sends a destination unreachable message (RFC 792, RFC 4443 section 3.1) for a reply code. It does not block and
// keeps nothing of the original packet.
func (m *member) sendICMPError(from, to netip.Addr, original []byte, code byte) {
	if !m.unreachables.allow() {
		return
	}
	m.node.sidecar.counters.unreachableSent.Add(1)
	type codes struct {
		v4 packet.ICMP4Code
		v6 packet.ICMP6Code
	}
	which := codes{1, 3} // host, address
	switch code {
	case replyRefused:
		which = codes{3, 4} // port
	case replyForbidden:
		which = codes{13, 1} // administratively prohibited
	case replyNoNetwork:
		which = codes{1, 0} // host, no route: gVisor takes no notice of "address"
	}
	if from.Is4() {
		h := packet.ICMP4Header{
			IP4Header: packet.IP4Header{Src: from, Dst: to}, Type: packet.ICMP4Unreachable, Code: which.v4,
		}
		go m.send(packet.Generate(h, unreachablePayload(original, 28)))
		return
	}
	h := packet.ICMP6Header{
		IP6Header: packet.IP6Header{Src: from, Dst: to}, Type: packet.ICMP6Unreachable, Code: which.v6,
	}
	go m.send(packet.Generate(h, unreachablePayload(original, minIPv6MTU-h.Len()-4)))
}

// unreachablePayload is four unused bytes and the beginning of the packet complained about.
func unreachablePayload(original []byte, limit int) []byte {
	return append(make([]byte, 4), original[:min(limit, len(original))]...)
}

// pin raises the stack's use count of an IPv4 address by one. tailscale.com v1.102.3 counts a 4via6 TCP flow up on the via
// address but down on the IPv4 address inside it, which takes the latter away from the plain IPv4 route. A UDP flow that is
// intercepted counts up and never down. TestViaAndPlainRoutes fails where this is missing, or no longer needed.
func (m *member) pin(address netip.Addr) {
	datagram := packet.Generate(packet.UDP4Header{
		IP4Header: packet.IP4Header{Src: pinSource, Dst: address}, SrcPort: uint16(m.pinPort.Add(1)), DstPort: pinPort,
	}, nil)
	var p packet.Parsed
	p.Decode(datagram)
	m.inject(&p, m.tun, nil)
}

// rateLimit allows so many a second.
type rateLimit struct {
	mu     sync.Mutex
	second int64
	count  int
}

func (r *rateLimit) allow() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now().Unix(); now != r.second {
		r.second, r.count = now, 0
	}
	r.count++
	return r.count <= maxUnreachables
}
