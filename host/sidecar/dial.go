package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"tailscale.com/net/packet"
	"tailscale.com/net/tsaddr"
	"tailscale.com/net/tstun"
	"tailscale.com/types/ipproto"
	"tailscale.com/wgengine/filter"
)

// Reply codes: RFC 1928 section 6, with the meanings of the protocol.
const (
	replyConnected          = 0
	replyFailed             = 1
	replyForbidden          = 2
	replyNoNetwork          = 3
	replyHostUnreachable    = 4
	replyRefused            = 5
	replyTimedOut           = 6
	replyCommandUnsupported = 7
	replyAddressUnsupported = 8
)

// Less than the daemon waits (10 s), so that the device always hears what we say of a silent node: unreachable.
const dialTime = 9 * time.Second

var (
	errForbidden  = errors.New("neither the tailnet nor an accepted route has this address")
	errACL        = errors.New("the tailnet's ACLs refuse it")
	errNotRunning = errors.New("the node is not in the tailnet")
)

// gonet makes text of the stack's errors.
var replyByText = map[string]byte{
	(&tcpip.ErrConnectionRefused{}).String():  replyRefused,
	(&tcpip.ErrConnectionReset{}).String():    replyRefused,
	(&tcpip.ErrHostUnreachable{}).String():    replyHostUnreachable,
	(&tcpip.ErrNetworkUnreachable{}).String(): replyHostUnreachable,
	(&tcpip.ErrHostDown{}).String():           replyHostUnreachable,
	(&tcpip.ErrTimeout{}).String():            replyTimedOut,
}

// replyCode says what a dial, a write or a read ended with.
func replyCode(err error) byte {
	var operation *net.OpError
	switch {
	case err == nil:
		return replyConnected
	case errors.Is(err, errForbidden), errors.Is(err, errACL):
		return replyForbidden
	case errors.Is(err, errNotRunning):
		return replyNoNetwork
	case errors.Is(err, context.DeadlineExceeded):
		return replyTimedOut
	case errors.As(err, &operation) && operation.Err != nil:
		if code, ok := replyByText[operation.Err.Error()]; ok {
			return code
		}
	}
	return replyFailed
}

// gate lets through what the node's own stack can carry. It never lets a dial reach the host's network: UseNetstackForIP
// is true for peers, the node itself and accepted routes (the exit node's 0.0.0.0/0 among them), and nothing else.
func (m *member) gate(address netip.Addr) error {
	switch {
	case !m.running.Load():
		return errNotRunning
	case !address.IsValid(), address.IsUnspecified(), address.IsLoopback(), address.IsMulticast(), address.IsLinkLocalUnicast(),
		address.Is4In6(), address.Zone() != "", address == tsaddr.TailscaleServiceIP(), address == tsaddr.TailscaleServiceIPv6(),
		!m.dialer.UseNetstackForIP(address):
		return errForbidden
	}
	return nil
}

// dialTCP connects from the node's own stack. It ends with ctx, and after dialTime.
func (m *member) dialTCP(ctx context.Context, destination netip.AddrPort) (net.Conn, error) {
	if err := m.gate(destination.Addr()); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	ctx, reject := context.WithCancelCause(ctx)
	defer reject(nil)
	defer m.rejections.expect(destination, reject)()
	conn, err := m.dialer.NetstackDialTCP(ctx, destination)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, err
	}
	tune(conn)
	return conn, nil
}

// dialUDP opens a flow from the node's own stack.
func (m *member) dialUDP(ctx context.Context, destination netip.AddrPort) (net.Conn, error) {
	if err := m.gate(destination.Addr()); err != nil {
		return nil, err
	}
	return m.dialer.NetstackDialUDP(ctx, destination)
}

// rejections ends dials that a peer's packet filter dropped: it says so in a message of Tailscale's own (TSMP), which the
// stack never sees, so that the dial would wait for its end.
type rejections struct {
	mu      sync.Mutex
	pending map[netip.AddrPort]map[*context.CancelCauseFunc]struct{}
}

// expect registers a dial; call the result when it is over.
func (r *rejections) expect(destination netip.AddrPort, reject context.CancelCauseFunc) (done func()) {
	key := &reject
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending == nil {
		r.pending = map[netip.AddrPort]map[*context.CancelCauseFunc]struct{}{}
	}
	if r.pending[destination] == nil {
		r.pending[destination] = map[*context.CancelCauseFunc]struct{}{}
	}
	r.pending[destination][key] = struct{}{}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if delete(r.pending[destination], key); len(r.pending[destination]) == 0 {
			delete(r.pending, destination)
		}
	}
}

func (r *rejections) rejected(destination netip.AddrPort, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for reject := range r.pending[destination] {
		(*reject)(why)
	}
}

// seeRejections looks for these messages on their way in.
func (m *member) seeRejections(next tstun.FilterFunc) tstun.FilterFunc {
	return func(p *packet.Parsed, wrapper *tstun.Wrapper) filter.Response {
		if p.IPProto == ipproto.TSMP {
			if h, ok := p.AsTailscaleRejectedHeader(); ok && !h.MaybeBroken && h.Proto == ipproto.TCP && m.rejectedBy(p.Src.Addr(), h.Dst.Addr()) {
				m.rejections.rejected(h.Dst, errACL)
			}
		}
		if next == nil {
			return filter.Accept
		}
		return next(p, wrapper)
	}
}

// rejectedBy tells whether the sender of a rejection is the one who carries the address.
func (m *member) rejectedBy(sender, destination netip.Addr) bool {
	if sender == destination {
		return true
	}
	a, b := m.people.Load().find(sender), m.people.Load().find(destination)
	return a != nil && a == b
}
