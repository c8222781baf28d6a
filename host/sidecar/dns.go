package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"
	"tailscale.com/types/dnstype"
)

const (
	dnsWaiting      = 64
	dnsTime         = 5 * time.Second
	dnsResolverTime = 2 * time.Second
	dnsTTL          = 5 // seconds, as the node's own resolver says
)

var (
	errNotOurs  = errors.New("not the tailnet's business")
	errNoAnswer = errors.New("no resolver answers")
	// Only the text counts: the node's resolver keeps statistics by it.
	dnsClient = netip.MustParseAddrPort("127.0.0.1:0")
)

// serveDNS answers questions for one node.
func (s *sidecar) serveDNS(daemon *net.UnixConn) {
	defer daemon.Close()
	r, done := readRequest(daemon, udpReadBuffer)
	buffer := make([]byte, 1<<16)
	name, _, err := readFrame(r, buffer)
	if err != nil {
		return
	}
	done()
	n := s.node(string(name))
	if n == nil {
		return
	}
	var (
		writing sync.Mutex
		slots   = make(chan struct{}, dnsWaiting)
	)
	for {
		question, err := readDNSMessage(r)
		if err != nil {
			return
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			s.counters.dnsQuestions.Add(1)
			answer := n.resolve(question)
			if answer == nil {
				return
			}
			writing.Lock()
			defer writing.Unlock()
			_, _ = daemon.Write(appendFrame(nil, answer))
		}()
	}
}

// readDNSMessage reads a message as RFC 1035 section 4.2.2 has it.
func readDNSMessage(r *bufio.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, message)
	return message, err
}

// resolve answers one question; nil if it is none.
func (n *node) resolve(question []byte) []byte {
	header, q, err := parseQuestion(question)
	if err != nil {
		return nil
	}
	m := n.member.Load()
	if m == nil || !m.running.Load() {
		return respond(header, q, dnsmessage.RCodeServerFailure, nil)
	}
	ctx, cancel := context.WithTimeout(m.ctx, dnsTime)
	defer cancel()
	answer, err := m.resolve(ctx, header, q, question)
	switch {
	case errors.Is(err, errNotOurs):
		return respond(header, q, dnsmessage.RCodeRefused, nil)
	case err != nil:
		return respond(header, q, dnsmessage.RCodeServerFailure, nil)
	}
	return answer
}

func parseQuestion(message []byte) (dnsmessage.Header, dnsmessage.Question, error) {
	var parser dnsmessage.Parser
	header, err := parser.Start(message)
	if err != nil {
		return header, dnsmessage.Question{}, err
	}
	if header.Response {
		return header, dnsmessage.Question{}, errMalformed
	}
	q, err := parser.Question()
	return header, q, err
}

func respond(header dnsmessage.Header, q dnsmessage.Question, code dnsmessage.RCode, addresses []netip.Addr) []byte {
	message := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: header.ID, Response: true, OpCode: header.OpCode, RecursionDesired: header.RecursionDesired,
			RecursionAvailable: true, RCode: code, Authoritative: len(addresses) > 0,
		},
		Questions: []dnsmessage.Question{q},
	}
	for _, address := range addresses {
		resource := dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: dnsTTL},
		}
		if address.Is4() {
			resource.Body = &dnsmessage.AResource{A: address.As4()}
		} else {
			resource.Body = &dnsmessage.AAAAResource{AAAA: address.As16()}
		}
		message.Answers = append(message.Answers, resource)
	}
	packed, err := message.Pack()
	if err != nil {
		return nil
	}
	return packed
}

// zones says who answers which names: a snapshot of the tailnet's DNS configuration.
type zones struct {
	magic     bool
	search    []string                       // without dots around, the tailnet's own first
	names     map[string][]netip.Addr        // of nodes and extra records
	routes    map[string][]*dnstype.Resolver // by suffix; empty: the node's own resolver
	resolvers []*dnstype.Resolver            // for all other names
	inTailnet func(netip.Addr) bool
}

func newZones(config *tailcfg.DNSConfig, suffix string, everyone *people, inTailnet func(netip.Addr) bool) *zones {
	z := &zones{
		magic: config.Proxied, names: map[string][]netip.Addr{}, routes: map[string][]*dnstype.Resolver{},
		resolvers: config.Resolvers, inTailnet: inTailnet,
	}
	for _, domain := range config.Domains {
		z.search = append(z.search, strings.ToLower(strings.Trim(domain, ".")))
	}
	for name, resolvers := range config.Routes {
		z.routes[strings.ToLower(strings.Trim(name, "."))] = resolvers
	}
	if !config.Proxied {
		return z
	}
	if suffix = strings.ToLower(strings.Trim(suffix, ".")); suffix != "" {
		z.routes[suffix] = nil
		if len(z.search) == 0 {
			z.search = []string{suffix}
		}
	}
	for name, addresses := range everyone.names {
		z.names[name] = addresses
	}
	for _, record := range config.ExtraRecords {
		address, err := netip.ParseAddr(record.Value)
		if name := strings.ToLower(strings.Trim(record.Name, ".")); err == nil && (record.Type == "" || record.Type == "A" || record.Type == "AAAA") {
			z.names[name] = append(z.names[name], address)
		}
	}
	return z
}

// whose tells who answers for a name: the node (local), resolvers, or nobody here.
func (z *zones) whose(name string) (local bool, resolvers []*dnstype.Resolver) {
	if _, ok := z.names[name]; ok {
		return true, nil
	}
	best := -1
	local = false
	resolvers = z.resolvers
	for suffix, those := range z.routes {
		if len(suffix) > best && (name == suffix || strings.HasSuffix(name, "."+suffix)) {
			best, resolvers, local = len(suffix), those, len(those) == 0
		}
	}
	return local, resolvers
}

// resolve answers one question. No socket of the host's is used: the node's resolver is asked only what it knows by itself,
// because its own forwarder would send from the host.
func (m *member) resolve(ctx context.Context, header dnsmessage.Header, q dnsmessage.Question, question []byte) ([]byte, error) {
	z := m.zones.Load()
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	if q.Type == dnsmessage.TypePTR {
		if address, ok := reverseAddress(name); ok && z.magic && tsaddr.IsTailscaleIP(address) {
			return m.resolvePointer(ctx, header, q, question, address)
		}
	}
	if name != "" && !strings.Contains(name, ".") {
		for _, suffix := range z.search {
			full := name + "." + suffix
			local, resolvers := z.whose(full)
			if _, known := z.names[full]; local && (known || strings.Contains(name, "-via-")) || !local && len(resolvers) > 0 {
				if answer, found := m.resolveFor(ctx, header, q, full); found {
					return answer, nil
				}
			}
		}
		if z.magic {
			return respond(header, q, dnsmessage.RCodeNameError, nil), nil
		}
		return nil, errNotOurs
	}
	local, resolvers := z.whose(name)
	if local {
		// The node's resolver gives one address a question, and none of the second family.
		if addresses, ok := z.names[name]; ok && (q.Type == dnsmessage.TypeA || q.Type == dnsmessage.TypeAAAA) {
			return respond(header, q, dnsmessage.RCodeSuccess, family(addresses, q.Type)), nil
		}
		return m.dns.Query(ctx, question, "tcp", dnsClient)
	}
	return m.forward(ctx, z, resolvers, question)
}

// resolveFor answers a bare name by its full one, under the bare name.
func (m *member) resolveFor(ctx context.Context, header dnsmessage.Header, q dnsmessage.Question, full string) ([]byte, bool) {
	fullName, err := dnsmessage.NewName(full + ".")
	if err != nil {
		return nil, false
	}
	asked := q
	asked.Name = fullName
	message := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: header.ID, RecursionDesired: header.RecursionDesired},
		Questions: []dnsmessage.Question{asked},
	}
	packed, err := message.Pack()
	if err != nil {
		return nil, false
	}
	answer, err := m.resolve(ctx, header, asked, packed)
	if err != nil || message.Unpack(answer) != nil || message.RCode != dnsmessage.RCodeSuccess {
		return nil, false
	}
	message.Questions = []dnsmessage.Question{q}
	for i := range message.Answers {
		if message.Answers[i].Header.Name == fullName {
			message.Answers[i].Header.Name = q.Name
		}
	}
	packed, err = message.Pack()
	return packed, err == nil
}

// resolvePointer names an address of the tailnet. The node's resolver would pass one it does not know on to the host's.
func (m *member) resolvePointer(ctx context.Context, header dnsmessage.Header, q dnsmessage.Question, question []byte, address netip.Addr) ([]byte, error) {
	for _, addresses := range m.zones.Load().names {
		for _, known := range addresses {
			if known == address {
				return m.dns.Query(ctx, question, "tcp", dnsClient)
			}
		}
	}
	return respond(header, q, dnsmessage.RCodeNameError, nil), nil
}

func family(addresses []netip.Addr, kind dnsmessage.Type) []netip.Addr {
	var found []netip.Addr
	for _, address := range addresses {
		if address.Is4() == (kind == dnsmessage.TypeA) {
			found = append(found, address)
		}
	}
	return found
}

// reverseAddress reads a complete name under in-addr.arpa or ip6.arpa.
func reverseAddress(name string) (netip.Addr, bool) {
	if labels, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		parts := strings.Split(labels, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		address, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
		return address, err == nil
	}
	labels, ok := strings.CutSuffix(name, ".ip6.arpa")
	parts := strings.Split(labels, ".")
	if !ok || len(parts) != 32 {
		return netip.Addr{}, false
	}
	var text strings.Builder
	for i := len(parts) - 1; i >= 0; i-- {
		if len(parts[i]) != 1 {
			return netip.Addr{}, false
		}
		text.WriteString(parts[i])
		if i > 0 && i%4 == 0 {
			text.WriteByte(':')
		}
	}
	address, err := netip.ParseAddr(text.String())
	return address, err == nil
}

// forward asks those of the resolvers that are in the tailnet, through the node, one after another.
func (m *member) forward(ctx context.Context, z *zones, resolvers []*dnstype.Resolver, question []byte) ([]byte, error) {
	err := errNotOurs
	for _, resolver := range resolvers {
		address, ok := resolver.IPPort()
		if !ok || !z.inTailnet(address.Addr()) {
			continue
		}
		var answer []byte
		if answer, err = m.askResolver(ctx, address, question); err == nil {
			return answer, nil
		}
		err = errNoAnswer
	}
	return nil, err
}

func (m *member) askResolver(ctx context.Context, address netip.AddrPort, question []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, dnsResolverTime)
	defer cancel()
	answer, err := m.exchange(ctx, address, question, m.dialUDP)
	if err == nil && answer[2]&0x02 != 0 { // truncated
		framed := appendFrame(nil, question)
		return m.exchange(ctx, address, framed, m.dialTCP)
	}
	return answer, err
}

type dialFunc func(context.Context, netip.AddrPort) (net.Conn, error)

// exchange sends one message, framed if it goes by TCP, and waits for its answer.
func (m *member) exchange(ctx context.Context, address netip.AddrPort, sent []byte, dial dialFunc) ([]byte, error) {
	conn, err := dial(ctx, address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	if _, err := conn.Write(sent); err != nil {
		return nil, err
	}
	if conn.LocalAddr().Network() == "tcp" {
		answer, err := readDNSMessage(bufio.NewReader(conn))
		if err == nil && !answers(answer, sent[2:]) {
			err = errMalformed
		}
		return answer, err
	}
	buffer := make([]byte, 1<<16)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return nil, err
		}
		if answers(buffer[:n], sent) {
			return buffer[:n], nil
		}
	}
}

// answers tells whether a message is a response to this question.
func answers(message, question []byte) bool {
	var a, b dnsmessage.Parser
	header, err := a.Start(message)
	asked, err2 := b.Start(question)
	if err != nil || err2 != nil || !header.Response || header.ID != asked.ID {
		return false
	}
	echoed, err := a.Question()
	wanted, err2 := b.Question()
	return err == nil && err2 == nil && echoed.Type == wanted.Type && echoed.Class == wanted.Class &&
		strings.EqualFold(echoed.Name.String(), wanted.Name.String())
}
