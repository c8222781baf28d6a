package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// asker asks questions of a node, one at a time.
type asker struct {
	t    *testing.T
	conn *net.UnixConn
	id   uint16
}

func (s *testSidecar) asker(node string) *asker {
	s.t.Helper()
	conn := s.connect("dns")
	_, err := conn.Write(appendFrame(nil, []byte(node)))
	must(s.t, err)
	return &asker{t: s.t, conn: conn}
}

func (a *asker) question(name string, kind dnsmessage.Type) []byte {
	a.t.Helper()
	a.id++
	message := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: a.id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
	}
	packed, err := message.Pack()
	must(a.t, err)
	return appendFrame(nil, packed)
}

// ask gives the answer as text: its code if it is an error, or its records.
func (a *asker) ask(name string, kind dnsmessage.Type) string {
	a.t.Helper()
	_, err := a.conn.Write(a.question(name, kind))
	must(a.t, err)
	return a.read(name)
}

func (a *asker) read(name string) string {
	a.t.Helper()
	must(a.t, a.conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	data, _, err := readFrame(a.conn, make([]byte, 1<<16))
	must(a.t, err)
	var message dnsmessage.Message
	must(a.t, message.Unpack(data))
	if !message.Response || len(message.Questions) != 1 || !strings.EqualFold(message.Questions[0].Name.String(), name) {
		a.t.Errorf("%s: an answer to another question: %+v", name, message)
	}
	if message.RCode != dnsmessage.RCodeSuccess {
		return strings.TrimPrefix(message.RCode.String(), "RCode")
	}
	var records []string
	for _, answer := range message.Answers {
		switch body := answer.Body.(type) {
		case *dnsmessage.AResource:
			records = append(records, netip.AddrFrom4(body.A).String())
		case *dnsmessage.AAAAResource:
			records = append(records, netip.AddrFrom16(body.AAAA).String())
		case *dnsmessage.PTRResource:
			records = append(records, body.PTR.String())
		case *dnsmessage.TXTResource:
			records = append(records, fmt.Sprintf("%d texts", len(body.TXT)))
		}
	}
	return strings.Join(records, " ")
}

func TestDNS(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	s.up("proxy", 1, map[string]any{"hostname": "proxy"})
	v4, v6 := w.peer("peer")
	a := s.asker("proxy")
	full := "peer." + w.hello.Domain + "."
	const notOurs = "Refused"
	check := func(name string, kind dnsmessage.Type, want string) {
		t.Helper()
		if got := a.ask(name, kind); got != want {
			t.Errorf("%s %v: %q, want %q", name, kind, got, want)
		}
	}
	check(full, dnsmessage.TypeA, v4.String())
	check(strings.ToUpper(full), dnsmessage.TypeA, v4.String())
	check(full, dnsmessage.TypeAAAA, v6.String())
	check(full, dnsmessage.TypeTXT, "")
	check("peer.", dnsmessage.TypeA, v4.String())
	check("peer.", dnsmessage.TypeAAAA, v6.String())
	check("nobody.", dnsmessage.TypeA, "NameError")
	check("nobody."+w.hello.Domain+".", dnsmessage.TypeA, "NameError")
	check("proxy.", dnsmessage.TypeA, s.status("proxy").Addresses[0].String())
	check("10-90-0-2-via-7."+w.hello.Domain+".", dnsmessage.TypeAAAA, via(t, 7, "10.90.0.2").String())
	check("10-90-0-2-via-7.", dnsmessage.TypeAAAA, via(t, 7, "10.90.0.2").String())
	check(reverseName(v4), dnsmessage.TypePTR, full)
	check(reverseName(v6), dnsmessage.TypePTR, full)
	check(reverseName(netip.MustParseAddr("100.64.99.99")), dnsmessage.TypePTR, "NameError")
	check(reverseName(netip.MustParseAddr("192.0.2.1")), dnsmessage.TypePTR, notOurs)
	check("example.org.", dnsmessage.TypeA, notOurs)
	check(".", dnsmessage.TypeNS, notOurs)

	// Split DNS to a peer, extra records, and a resolver that is not in the tailnet.
	w.must("dns", map[string]any{
		"split":     map[string][]string{"corp.example": {v4.String()}, "deep.corp.example": {"192.0.2.1"}, "dead.example": {"100.64.99.99"}},
		"records":   map[string]string{"printer.example": "192.0.2.9"},
		"resolvers": []string{"https://dns.google/dns-query"},
	})
	s.wait("proxy", "told of DNS", func(status nodeStatus) bool { return len(status.DNS.Routes) == 3 })
	check("x.corp.example.", dnsmessage.TypeA, "192.0.2.53")
	check("missing.corp.example.", dnsmessage.TypeA, "NameError")
	check("x.corp.example.", dnsmessage.TypeTXT, "20 texts") // truncated by UDP: asked again by TCP
	check("x.deep.corp.example.", dnsmessage.TypeA, notOurs)
	check("x.dead.example.", dnsmessage.TypeA, notOurs)
	check("printer.example.", dnsmessage.TypeA, "192.0.2.9")
	check("example.org.", dnsmessage.TypeA, notOurs)
	status := s.status("proxy")
	if status.DNS.Resolvers[0] != (resolverStatus{"https://dns.google/dns-query", "direct"}) ||
		status.DNS.Routes["corp.example"][0] != (resolverStatus{v4.String() + ":53", "tailnet"}) ||
		status.DNS.Routes["deep.corp.example"][0] != (resolverStatus{"192.0.2.1:53", "direct"}) {
		t.Errorf("status: %+v", status.DNS)
	}

	// The tailnet overrides all DNS.
	w.must("dns", map[string]any{"resolvers": []string{v6.String()}})
	s.wait("proxy", "told of DNS", func(status nodeStatus) bool { return len(status.DNS.Routes) == 0 })
	check("example.org.", dnsmessage.TypeA, "192.0.2.53")
	check(full, dnsmessage.TypeA, v4.String())

	// Many at a time, in any order.
	var many []byte
	for range 40 {
		many = append(many, a.question("example.org.", dnsmessage.TypeA)...)
	}
	_, err := a.conn.Write(many)
	must(t, err)
	for range 40 {
		if got := a.read("example.org."); got != "192.0.2.53" {
			t.Errorf("one of many: %q", got)
		}
	}
	s.must("POST", "/nodes/proxy/down", nil)
	check(full, dnsmessage.TypeA, "ServerFailure")
}

func reverseName(address netip.Addr) string {
	if address.Is4() {
		b := address.As4()
		return fmt.Sprintf("%d.%d.%d.%d.in-addr.arpa.", b[3], b[2], b[1], b[0])
	}
	b := address.As16()
	var text strings.Builder
	for i := 15; i >= 0; i-- {
		fmt.Fprintf(&text, "%x.%x.", b[i]&15, b[i]>>4)
	}
	return text.String() + "ip6.arpa."
}
