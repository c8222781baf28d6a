package main

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
)

// PROXY protocol v2, as in the document "The PROXY protocol" of HAProxy, section 2.2.
const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	proxyCommand   = 0x21 // version 2, command PROXY
	proxyTCP4      = 0x11
	proxyUDP4      = 0x12
	proxyTCP6      = 0x21
	proxyUDP6      = 0x22

	tlvNode     = 0xe0
	tlvStableID = 0xe1
	tlvName     = 0xe2
	tlvUser     = 0xe3
	tlvTags     = 0xe4
)

var errProxyHeader = errors.New("not a PROXY protocol v2 header of a TCP or UDP flow")

// proxyHeader is what stands in front of a flow.
type proxyHeader struct {
	udp                 bool
	source, destination netip.AddrPort
	values              map[byte]string // the TLVs; empty ones are not written
}

func (h *proxyHeader) marshal() []byte {
	family, transport := byte(0x10), byte(0x01)
	if h.destination.Addr().Is6() {
		family = 0x20
	}
	if h.udp {
		transport = 0x02
	}
	b := append([]byte(proxySignature), proxyCommand, family|transport, 0, 0)
	start := len(b)
	b = append(b, h.source.Addr().AsSlice()...)
	b = append(b, h.destination.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, h.source.Port())
	b = binary.BigEndian.AppendUint16(b, h.destination.Port())
	for _, kind := range []byte{tlvNode, tlvStableID, tlvName, tlvUser, tlvTags} {
		value := h.values[kind]
		if value == "" || len(b)-start+3+len(value) > 0xffff {
			continue
		}
		b = append(b, kind)
		b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
		b = append(b, value...)
	}
	binary.BigEndian.PutUint16(b[start-2:], uint16(len(b)-start))
	return b
}

func readProxyHeader(r io.Reader) (*proxyHeader, error) {
	fixed := make([]byte, 16)
	if _, err := io.ReadFull(r, fixed); err != nil {
		return nil, err
	}
	if string(fixed[:12]) != proxySignature || fixed[12] != proxyCommand {
		return nil, errProxyHeader
	}
	rest := make([]byte, binary.BigEndian.Uint16(fixed[14:]))
	if _, err := io.ReadFull(r, rest); err != nil {
		return nil, unexpected(err)
	}
	size := 4
	switch fixed[13] {
	case proxyTCP4, proxyUDP4:
	case proxyTCP6, proxyUDP6:
		size = 16
	default:
		return nil, errProxyHeader
	}
	if len(rest) < 2*size+4 {
		return nil, errProxyHeader
	}
	source, _ := netip.AddrFromSlice(rest[:size])
	destination, _ := netip.AddrFromSlice(rest[size : 2*size])
	h := &proxyHeader{
		udp:         fixed[13]&0x0f == 0x02,
		source:      netip.AddrPortFrom(source, binary.BigEndian.Uint16(rest[2*size:])),
		destination: netip.AddrPortFrom(destination, binary.BigEndian.Uint16(rest[2*size+2:])),
		values:      map[byte]string{},
	}
	for rest = rest[2*size+4:]; len(rest) > 0; {
		if len(rest) < 3 {
			return nil, errProxyHeader
		}
		kind, length := rest[0], int(binary.BigEndian.Uint16(rest[1:]))
		if len(rest) < 3+length {
			return nil, errProxyHeader
		}
		h.values[kind] = string(rest[3 : 3+length])
		rest = rest[3+length:]
	}
	return h, nil
}
