package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"tailscale.com/net/tsaddr"
)

func TestTCPIn(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	status := s.up("kitchen", 1, nil)
	v4, _ := w.peer("peer")
	headers := make(chan *proxyHeader, 4)
	for _, address := range status.Addresses {
		target := net.JoinHostPort(address.String(), "80")
		s.withInbound(func(header *proxyHeader, daemon *net.UnixConn) {
			headers <- header
			answerWith(answerAccept, echoBack)(header, daemon)
		})
		answer := w.must("tcp", map[string]any{"peer": "peer", "address": target, "send": "there and back"})
		if answer["received"] != "there and back" {
			t.Errorf("%s: %v", target, answer)
		}
		header := <-headers
		if header.udp || header.destination.String() != target || header.values[tlvNode] != "kitchen" ||
			header.values[tlvName] != "peer."+w.hello.Domain || header.values[tlvStableID] == "" || header.values[tlvUser] == "" ||
			address.Is4() && header.source.Addr() != v4 {
			t.Errorf("%s: header %+v", target, header)
		}

		s.withInbound(answerWith(answerRefuse, nil))
		if answer := w.do("tcp", map[string]any{"peer": "peer", "address": target}); answer["error"] != "refused" {
			t.Errorf("%s, refused: %v", target, answer)
		}
		s.withInbound(func(_ *proxyHeader, daemon *net.UnixConn) {}) // closes without an answer
		if answer := w.do("tcp", map[string]any{"peer": "peer", "address": target}); answer["error"] != "refused" {
			t.Errorf("%s, no answer: %v", target, answer)
		}
	}
	target := net.JoinHostPort(status.Addresses[0].String(), "81")
	s.withInbound(func(header *proxyHeader, daemon *net.UnixConn) {
		time.Sleep(1500 * time.Millisecond)
		answerWith(answerAccept, echoBack)(header, daemon)
	})
	began := time.Now()
	if answer := w.do("tcp", map[string]any{"peer": "peer", "address": target, "send": "slow"}); answer["received"] != "slow" || time.Since(began) < 1500*time.Millisecond {
		t.Errorf("a late answer: %v after %v", answer, time.Since(began))
	}
	s.withInbound(answerWith(answerAcceptTLS, nil))
	if answer := w.do("tcp", map[string]any{"peer": "peer", "address": target, "send": "no TLS"}); answer["ok"] == true {
		t.Errorf("bytes that are no TLS: %v", answer)
	}
}

func TestBulkIn(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	status := s.up("kitchen", 1, nil)
	target := net.JoinHostPort(status.Addresses[0].String(), "80")
	s.withInbound(answerWith(answerAccept, func(daemon *net.UnixConn) {
		sum := sha256.New()
		_, _ = io.Copy(sum, daemon)
		_, _ = io.WriteString(daemon, hex.EncodeToString(sum.Sum(nil)))
		_ = daemon.CloseWrite()
		_, _ = daemon.Read(make([]byte, 1))
	}))
	answer := w.must("upload", map[string]any{"peer": "peer", "address": target, "bytes": 20_000_000, "timeout": 30})
	if answer["sha256"] != answer["received"] {
		t.Errorf("%v", answer)
	}
}

func TestUDPIn(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	status := s.up("kitchen", 1, nil)
	for _, address := range status.Addresses {
		target := net.JoinHostPort(address.String(), "5683")
		s.withInbound(func(header *proxyHeader, daemon *net.UnixConn) {
			if !header.udp {
				return
			}
			answerWith(answerAccept, func(daemon *net.UnixConn) { _, _ = io.Copy(daemon, struct{ io.Reader }{daemon}) })(header, daemon)
		})
		answer := w.must("udp", map[string]any{"peer": "peer", "address": target, "send": "CoAP", "count": 20})
		if got := answer["received"].([]any); len(got) != 20 || got[19] != "CoAP" {
			t.Errorf("%s: %v", target, got)
		}
		s.withInbound(answerWith(answerRefuse, nil))
		target = net.JoinHostPort(address.String(), "5684")
		if answer := w.do("udp", map[string]any{"peer": "peer", "address": target, "send": "x"}); answer["error"] != "refused" {
			t.Errorf("%s, refused: %v", target, answer)
		}
	}
}

// via is the 4via6 address of an IPv4 one.
func via(t *testing.T, site uint32, text string) netip.Addr {
	t.Helper()
	prefix, err := tsaddr.MapVia(site, netip.PrefixFrom(netip.MustParseAddr(text), 32))
	must(t, err)
	return prefix.Addr()
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	routes := []string{"10.90.0.0/24", "fd7a:115c:a1e0:b1a:0:7:a5a:0/120"}
	s.up("proxy", 1, map[string]any{
		"hostname": "proxy", "advertise_routes": routes,
		"inbound_destinations": []string{"10.90.0.2/32", "fd7a:115c:a1e0:b1a:0:7:a5a:2/128"},
	})
	if status := s.status("proxy"); len(status.RoutesAdvertised) != 2 || len(status.RoutesApproved) != 0 {
		t.Errorf("before approval: %+v", status)
	}
	w.must("approve", map[string]any{"node": "proxy", "routes": routes})
	s.wait("proxy", "approved", func(status nodeStatus) bool { return len(status.RoutesApproved) == 2 })
	s.withInbound(answerWith(answerAccept, echoBack))
	targets := []string{"10.90.0.2", via(t, 7, "10.90.0.2").String()}
	for _, target := range targets {
		if !eventually(func() bool {
			return w.do("tcp", map[string]any{"peer": "peer", "address": net.JoinHostPort(target, "80"), "send": "x"})["received"] == "x"
		}) {
			t.Fatalf("%s never answered", target)
		}
	}
	// No device's: an ICMP error, and nobody is asked.
	s.withInbound(func(header *proxyHeader, _ *net.UnixConn) { t.Errorf("asked for %v", header.destination) })
	for _, target := range []string{"10.90.0.3", via(t, 7, "10.90.0.3").String()} {
		answer := w.do("tcp", map[string]any{"peer": "peer", "address": net.JoinHostPort(target, "80")})
		if answer["error"] != "unreachable" {
			t.Errorf("%s: %v", target, answer)
		}
	}
	// Which may change at any time.
	s.put("proxy", map[string]any{
		"hostname": "proxy", "advertise_routes": routes, "inbound_destinations": []string{"10.90.0.3/32"},
	})
	s.withInbound(answerWith(answerAccept, echoBack))
	if !eventually(func() bool {
		return w.do("tcp", map[string]any{"peer": "peer", "address": "10.90.0.3:80", "send": "y"})["received"] == "y"
	}) {
		t.Error("a new destination is not reached")
	}
	if answer := w.do("tcp", map[string]any{"peer": "peer", "address": "10.90.0.2:80"}); answer["error"] != "unreachable" {
		t.Errorf("a former destination: %v", answer)
	}
}

// A peer that ended first gets all that a device behind a route sends, though the flow's handler returns long before.
func TestRoutedFlowToItsLastByte(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	routes := []string{"10.90.0.0/24", "fd7a:115c:a1e0:b1a:0:7:a5a:0/120"}
	s.up("proxy", 1, map[string]any{"hostname": "proxy", "advertise_routes": routes, "inbound_destinations": routes})
	w.must("approve", map[string]any{"node": "proxy", "routes": routes})
	const size = 3_000_000
	s.withInbound(answerWith(answerAccept, func(daemon *net.UnixConn) {
		_, _ = io.Copy(io.Discard, daemon)
		_, _ = daemon.Write(make([]byte, size))
		_ = daemon.CloseWrite()
	}))
	for _, host := range []string{"10.90.0.2", via(t, 7, "10.90.0.2").String()} {
		target := net.JoinHostPort(host, "80")
		if !eventually(func() bool {
			return w.do("tcp", map[string]any{"peer": "peer", "address": target, "timeout": 1})["ok"] == true
		}) {
			t.Fatalf("%s never answered", target)
		}
		for range 5 {
			answer := w.must("tcp", map[string]any{"peer": "peer", "address": target, "send": "x", "timeout": 20})
			if got := len(answer["received"].(string)); got != size {
				t.Errorf("%s: %d bytes", target, got)
			}
		}
	}
}

// 4via6 flows must not break the plain route to the same device.
func TestViaAndPlainRoutes(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	routes := []string{"10.90.0.0/24", "fd7a:115c:a1e0:b1a:0:7:a5a:0/120"}
	s.up("proxy", 1, map[string]any{"hostname": "proxy", "advertise_routes": routes, "inbound_destinations": routes})
	w.must("approve", map[string]any{"node": "proxy", "routes": routes})
	s.withInbound(answerWith(answerAccept, echoBack))
	exchange := func(host string) any {
		return w.do("tcp", map[string]any{"peer": "peer", "address": net.JoinHostPort(host, "80"), "send": host, "timeout": 2})["received"]
	}
	plain, mapped := "10.90.0.2", via(t, 7, "10.90.0.2").String()
	if !eventually(func() bool { return exchange(plain) == plain && exchange(mapped) == mapped }) {
		t.Fatal("the routes do not work")
	}
	for round := range 8 {
		for _, host := range []string{mapped, mapped, plain, mapped, plain, plain} {
			if got := exchange(host); got != host {
				t.Fatalf("round %d, %s: %v", round, host, got)
			}
		}
	}
	for _, host := range []string{mapped, plain} { // frames that come back are datagrams that come back
		answer := w.do("udp", map[string]any{"peer": "peer", "address": net.JoinHostPort(host, "5683"), "send": "x", "timeout": 2})
		if answer["ok"] != true {
			t.Errorf("UDP to %s: %v", host, answer)
		}
	}
	if got := exchange(plain); got != plain {
		t.Errorf("after UDP: %v", got)
	}
}

func TestEchoRequests(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	routes := []string{"10.90.0.0/24", "fd7a:115c:a1e0:b1a:0:7:a5a:0/120"}
	status := s.up("proxy", 1, map[string]any{
		"hostname": "proxy", "advertise_routes": routes,
		"inbound_destinations": []string{"10.90.0.2/31", "fd7a:115c:a1e0:b1a:0:7:a5a:2/127"},
	})
	w.must("approve", map[string]any{"node": "proxy", "routes": routes})
	var mu sync.Mutex
	var frames [][]byte
	s.withVerdicts(func(frame []byte) (byte, bool) {
		mu.Lock()
		defer mu.Unlock()
		frames = append(frames, append([]byte(nil), frame...))
		return echoAnswered, true
	})
	ping := func(address string) bool {
		return w.do("ping", map[string]any{"peer": "peer", "address": address, "timeout": 1})["ok"] == true
	}
	for _, address := range []string{"10.90.0.2", via(t, 7, "10.90.0.2").String()} {
		if !eventually(func() bool { return ping(address) }) {
			t.Fatalf("%s is not answered", address)
		}
		mu.Lock()
		frame := frames[len(frames)-1]
		mu.Unlock()
		size := len(netip.MustParseAddr(address).AsSlice())
		destination, _ := netip.AddrFromSlice(frame[5+size : 5+2*size])
		tail := frame[5+2*size:]
		if destination.String() != address || tail[4] == 0 || string(tail[6:6+tail[5]]) != "proxy" {
			t.Errorf("%s: % x", address, frame)
		}
	}
	s.withVerdicts(func([]byte) (byte, bool) { return echoUnreachable, true })
	if ping("10.90.0.2") {
		t.Error("the device did not answer, and the sidecar did")
	}
	mu.Lock()
	count := len(frames)
	mu.Unlock()
	if ping("10.90.0.9") {
		t.Error("an address that is no device's is answered")
	}
	if !ping(status.Addresses[0].String()) {
		t.Error("the node's own address is not answered")
	}
	mu.Lock()
	defer mu.Unlock()
	if len(frames) != count {
		t.Error("asked for addresses that are not the daemon's")
	}
}

func TestWhoIsAndPing(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	s.up("proxy", 1, nil)
	v4, v6 := w.peer("peer")
	for _, address := range []string{v4.String(), v6.String(), netip.AddrPortFrom(v6, 1234).String()} {
		peer := s.must("GET", "/nodes/proxy/whois?address="+strings.NewReplacer("[", "%5B", "]", "%5D").Replace(address), nil)
		if peer["name"] != "peer" || peer["dns_name"] != "peer."+w.hello.Domain || peer["user"] == "" {
			t.Errorf("%s is %v", address, peer)
		}
	}
	if status, document := s.request("GET", "/nodes/proxy/whois?address=100.99.99.99:1", nil); status != 404 || document["code"] != "no-such-peer" {
		t.Errorf("nobody's address: %d %v", status, document)
	}
	if answer := s.must("POST", "/nodes/proxy/ping", map[string]any{"address": v4.String()}); answer["seconds"] == nil {
		t.Errorf("ping: %v", answer)
	}
	if answer := s.must("POST", "/nodes/proxy/ping", map[string]any{"address": "8.8.8.8"}); answer["error"] == nil {
		t.Errorf("ping outside: %v", answer)
	}
	peers, err := json.Marshal(s.must("GET", "/nodes/proxy/peers", nil)["peers"])
	must(t, err)
	var all []peerStatus
	must(t, json.Unmarshal(peers, &all))
	if len(all) != 1 || all[0].Name != "peer" || len(all[0].Addresses) != 2 {
		t.Errorf("peers: %s", peers)
	}
}
