package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
	"unsafe"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"tailscale.com/wgengine/netstack"
)

func TestTCPOut(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	s.up("proxy", 1, nil)
	v4, v6 := w.peer("peer")

	for _, address := range []netip.Addr{v4, v6} {
		conn, code := s.dial("proxy", address, 7, "first bytes")
		if code != replyConnected {
			t.Fatalf("%v: reply %d", address, code)
		}
		_, err := io.WriteString(conn, " and more")
		must(t, err)
		must(t, conn.CloseWrite())
		if got := readText(t, conn); got != "first bytes and more" {
			t.Errorf("%v: %q came back", address, got)
		}
	}
	began := time.Now()
	if _, code := s.dial("proxy", v4, 8, ""); code != replyRefused || time.Since(began) > time.Second {
		t.Errorf("a port that refuses: reply %d after %v", code, time.Since(began))
	}

	// What comes at once is split anywhere just as well.
	conn := s.connect("socks")
	for _, b := range socksMessage("proxy", netip.AddrPortFrom(v4, 7), "x") {
		_, err := conn.Write([]byte{b})
		must(t, err)
	}
	must(t, conn.CloseWrite())
	if got := readText(t, conn); len(got) != 15 || got[14] != 'x' {
		t.Errorf("byte by byte: %q", got)
	}
}

func TestSOCKSRefusals(t *testing.T) {
	t.Parallel()
	s := startSidecar(t, startWorld(t, "peer"))
	s.up("proxy", 1, nil)
	for request, want := range map[string]string{
		"\x05\x01\x00":                     "\x05\xff",
		"\x05\x01\x02\x01\x07unknown\x01-": "\x05\x02\x01\x01",
		"\x05\x01\x02\x01\x05proxy\x01-\x05\x02\x00\x01\x64\x40\x00\x01\x00\x07": "\x05\x02\x01\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00",
		"\x05\x01\x02\x01\x05proxy\x01-\x05\x01\x00\x03\x04peer\x00\x07":         "\x05\x02\x01\x00\x05\x08\x00\x01\x00\x00\x00\x00\x00\x00",
		"\x05\x01\x02\x01\x05proxy\x00\x05\x01\x00\x01\x08\x08\x08\x08\x00\x35":  "\x05\x02\x01\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00",
		"\x04\x01": "",
	} {
		conn := s.connect("socks")
		_, err := io.WriteString(conn, request)
		must(t, err)
		if got := readText(t, conn); got != want {
			t.Errorf("%q: %q, want %q", request, got, want)
		}
	}
}

// Addresses of the host, of its network and of the Internet are never dialled, whoever listens there.
func TestNothingIsDialledOnTheHost(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	s.up("proxy", 1, nil)
	touched := make(chan net.Addr, 16)
	listener, err := net.Listen("tcp", ":0")
	must(t, err)
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			touched <- conn.RemoteAddr()
			conn.Close()
		}
	}()
	port := uint16(listener.Addr().(*net.TCPAddr).Port)
	addresses := []string{"127.0.0.1", "::1", "8.8.8.8", "100.100.100.100", "fd7a:115c:a1e0::53", "100.64.99.99", "169.254.169.254", "224.0.0.1", "0.0.0.0", "::ffff:127.0.0.1"}
	interfaces, err := net.InterfaceAddrs()
	must(t, err)
	for _, address := range interfaces {
		if ip, ok := address.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() {
			addresses = append(addresses, ip.IP.String())
		}
	}
	for _, text := range addresses {
		address := netip.MustParseAddr(text)
		if _, code := s.dial("proxy", address, port, ""); code != replyForbidden {
			t.Errorf("TCP to %s: reply %d", text, code)
		}
		if _, code := s.openUDP("proxy", address, port); code != replyForbidden {
			t.Errorf("UDP to %s: reply %d", text, code)
		}
	}
	select {
	case from := <-touched:
		t.Errorf("the host was dialled, from %v", from)
	case <-time.After(100 * time.Millisecond):
	}
}

func TestOfflinePeerAndACL(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer,other")
	s := startSidecar(t, w)
	s.up("proxy", 2, map[string]any{"hostname": "proxy"})
	peer, _ := w.peer("peer")
	other, _ := w.peer("other")
	if _, code := s.dial("proxy", peer, 7, ""); code != replyConnected {
		t.Fatalf("reply %d", code)
	}
	w.must("allow", map[string]any{"node": "peer", "sources": []string{}})
	if !eventually(func() bool {
		began := time.Now()
		_, code := s.dial("proxy", peer, 7, "")
		return code == replyForbidden && time.Since(began) < 2*time.Second
	}) {
		t.Error("a peer whose ACLs refuse us: never forbidden")
	}
	w.must("stop", map[string]any{"peer": "other"})
	began := time.Now()
	if _, code := s.dial("proxy", other, 7, ""); code != replyTimedOut || time.Since(began) > dialTime+time.Second {
		t.Errorf("an offline peer: reply %d after %v", code, time.Since(began))
	}
}

func TestHalfCloseAndBulk(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	s.up("proxy", 1, nil)
	v4, _ := w.peer("peer")
	data := bytes.Repeat([]byte("lopower "), 1<<20)
	sum := sha256.Sum256(data)
	conn, _ := s.dial("proxy", v4, 9, "")
	_, err := conn.Write(data)
	must(t, err)
	must(t, conn.CloseWrite())
	if got := readText(t, conn); got != hex.EncodeToString(sum[:]) {
		t.Errorf("up: %s", got)
	}
	conn, _ = s.dial("proxy", v4, 19, "10000000\n")
	if got := readText(t, conn); len(got) != 10_000_000 {
		t.Errorf("down: %d bytes", len(got))
	}
}

// A RST travels both ways, and is told apart from a FIN.
func TestReset(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	status := s.up("proxy", 1, map[string]any{"hostname": "proxy"})
	v4, _ := w.peer("peer")
	conn, _ := s.dial("proxy", v4, 21, "ab")
	_, _ = io.Copy(io.Discard, conn)
	if !hungUp(conn) {
		t.Error("the peer reset, and the daemon sees an orderly end")
	}
	conn, _ = s.dial("proxy", v4, 19, "5\n")
	if got := readText(t, conn); len(got) != 5 || hungUp(conn) {
		t.Errorf("the peer sent FIN: %d bytes, hung up %v", len(got), hungUp(conn))
	}
	s.withInbound(answerWith(answerAccept, func(daemon *net.UnixConn) {
		_, _ = io.WriteString(daemon, "partial")
		time.Sleep(100 * time.Millisecond)
		daemon.Close()
	}))
	target := net.JoinHostPort(status.Addresses[0].String(), "80")
	if answer := w.do("download", map[string]any{"peer": "peer", "address": target}); answer["error"] != "reset" {
		t.Errorf("the daemon reset: %v", answer)
	}
	s.withInbound(answerWith(answerAccept, func(daemon *net.UnixConn) {
		_, _ = io.WriteString(daemon, "whole")
		_ = daemon.CloseWrite()
		_, _ = io.Copy(io.Discard, daemon)
	}))
	if answer := w.do("download", map[string]any{"peer": "peer", "address": target, "timeout": 1}); answer["bytes"] != 5.0 || answer["error"] != nil {
		t.Errorf("the daemon sent FIN: %v", answer)
	}
}

// TestTimeWait fails when the library's node keeps its stack elsewhere.
func TestTimeWait(t *testing.T) {
	t.Parallel()
	node := new(netstack.Impl)
	field := reflect.ValueOf(node).Elem().FieldByName("ipstack")
	if !field.IsValid() || field.Type() != reflect.TypeFor[*stack.Stack]() {
		t.Fatal("the stack beneath a node is not found any more")
	}
	inside := stack.New(stack.Options{TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol}})
	defer inside.Close()
	*(**stack.Stack)(unsafe.Pointer(field.UnsafeAddr())) = inside
	tuneStack(node)
	var option tcpip.TCPTimeWaitTimeoutOption
	if err := inside.TransportProtocolOption(tcp.ProtocolNumber, &option); err != nil || time.Duration(option) != timeWait {
		t.Errorf("TIME-WAIT takes %v (%v)", time.Duration(option), err)
	}
}

func TestGivingADialUp(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer,other")
	s := startSidecar(t, w)
	s.up("proxy", 2, nil)
	other, _ := w.peer("other")
	w.must("stop", map[string]any{"peer": "other"})
	counter := func(name string) any { return s.must("GET", "/", nil)["counters"].(map[string]any)[name] }
	for i := range 50 {
		conn := s.connect("socks")
		_, err := conn.Write(socksMessage("proxy", netip.AddrPortFrom(other, 7), "first"))
		must(t, err)
		if !eventually(func() bool { return counter("dials") == float64(i+1) }) {
			t.Fatal("the dial does not begin")
		}
		conn.Close()
	}
	began := time.Now()
	if !eventually(func() bool {
		return counter("dials_failed") == 50.0
	}) || time.Since(began) > 5*time.Second {
		t.Errorf("dials went on for %v after they were given up", time.Since(began))
	}
}

func TestUDPOut(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	s.up("proxy", 1, nil)
	v4, v6 := w.peer("peer")
	for _, address := range []netip.Addr{v4, v6} {
		conn, code := s.openUDP("proxy", address, 7)
		if code != replyConnected {
			t.Fatalf("%v: code %d", address, code)
		}
		var many []byte
		for i := range 50 {
			many = appendFrame(many, bytes.Repeat([]byte{byte(i)}, i*20))
		}
		_, err := conn.Write(many)
		must(t, err)
		buffer := make([]byte, 1<<16)
		seen := map[int]bool{}
		for range 50 {
			data, _, err := readFrame(conn, buffer)
			must(t, err)
			seen[len(data)] = true
		}
		if len(seen) != 50 {
			t.Errorf("%v: %d different datagrams came back", address, len(seen))
		}
	}
	if _, code := s.openUDP("nobody", v4, 7); code != replyFailed {
		t.Errorf("an unknown node: code %d", code)
	}
}

// A second node of ours is the peer: its daemon refuses.
func TestUDPOutRefused(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	s.put("kitchen", nil)
	s.put("proxy", nil)
	kitchen := s.running("kitchen", 2)
	s.running("proxy", 2)
	s.withInbound(answerWith(answerRefuse, nil))
	for _, address := range kitchen.Addresses {
		conn, code := s.openUDP("proxy", address, 9999)
		if code != replyConnected {
			t.Fatalf("code %d", code)
		}
		_, err := conn.Write(appendFrame(nil, []byte("anybody?")))
		must(t, err)
		must(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
		if _, notice, err := readFrame(conn, make([]byte, 1<<16)); err != nil || notice != replyRefused {
			t.Errorf("%v: notice %d, %v", address, notice, err)
		}
		// The flow goes on.
		s.withInbound(answerWith(answerAccept, func(daemon *net.UnixConn) { _, _ = io.Copy(daemon, struct{ io.Reader }{daemon}) }))
		_, err = conn.Write(appendFrame(nil, []byte("again")))
		must(t, err)
		if data, _, err := readFrame(conn, make([]byte, 1<<16)); err != nil || string(data) != "again" {
			t.Errorf("%v: %q, %v", address, data, err)
		}
		// The device may say so later as well.
		s.withInbound(answerWith(answerAccept, func(daemon *net.UnixConn) {
			_, _, _ = readFrame(daemon, make([]byte, 1<<16))
			_, _ = daemon.Write(appendNotice(nil, replyRefused))
			time.Sleep(time.Second)
		}))
		conn, _ = s.openUDP("proxy", address, 9998)
		_, err = conn.Write(appendFrame(nil, []byte("later")))
		must(t, err)
		must(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
		if _, notice, err := readFrame(conn, make([]byte, 1<<16)); err != nil || notice != replyRefused {
			t.Errorf("%v, said later: notice %d, %v", address, notice, err)
		}
		s.withInbound(answerWith(answerRefuse, nil))
	}
}

func TestTwoNodesAreTwoNodes(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	s.put("kitchen", nil)
	s.put("garden", nil)
	peer, _ := w.peer("peer")
	for _, name := range []string{"kitchen", "garden"} {
		status := s.running(name, 2)
		conn, code := s.dial(name, peer, 80, "GET /address HTTP/1.0\r\n\r\n")
		if code != replyConnected {
			t.Fatalf("%s: reply %d", name, code)
		}
		if got := readText(t, conn); !strings.Contains(got, "\r\n\r\n"+status.Addresses[0].String()+":") {
			t.Errorf("%s, %v: the peer saw %q", name, status.Addresses, got)
		}
	}
}

func TestAcceptedRoutesAndExitNode(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	s.up("proxy", 1, nil)
	inside, outside := netip.MustParseAddr("192.168.77.5"), netip.MustParseAddr("192.0.2.1")
	expect := func(what string, address netip.Addr, want byte) {
		t.Helper()
		if _, code := s.dial("proxy", address, 80, ""); code != want {
			t.Errorf("%s: reply %d, want %d", what, code, want)
		}
	}
	expect("before the route", inside, replyForbidden)
	w.must("advertise", map[string]any{"peer": "peer", "routes": []string{"192.168.77.0/24"}})
	w.must("approve", map[string]any{"node": "peer", "routes": []string{"192.168.77.0/24"}})
	s.wait("proxy", "told of the route", func(status nodeStatus) bool { return len(status.RoutesAccepted) == 1 })
	expect("an accepted route", inside, replyRefused) // the peer serves nothing there
	s.put("proxy", map[string]any{"accept_routes": false})
	s.wait("proxy", "without routes", func(status nodeStatus) bool { return len(status.RoutesAccepted) == 0 })
	expect("a route that is not accepted", inside, replyForbidden)

	if status, document := s.request("PUT", "/nodes/proxy", map[string]any{"control_url": s.control, "exit_node": "peer"}); status != 400 {
		t.Errorf("a peer that is no exit node: %d %v", status, document)
	}
	w.must("approve", map[string]any{"node": "peer", "routes": []string{"0.0.0.0/0", "::/0"}})
	s.wait("proxy", "told of the exit node", func(nodeStatus) bool {
		status, _ := s.request("PUT", "/nodes/proxy", map[string]any{"control_url": s.control, "exit_node": "peer"})
		return status == 200
	})
	expectExit := s.wait("proxy", "using the exit node", func(status nodeStatus) bool { return status.ExitNode != nil })
	if expectExit.ExitNode.Name != "peer."+w.hello.Domain || len(expectExit.RoutesAccepted) != 0 {
		t.Errorf("%+v", expectExit)
	}
	// The test tailnet's peers carry nothing to the Internet, so this is as far as it goes.
	if _, code := s.openUDP("proxy", outside, 80); code != replyConnected {
		t.Errorf("through the exit node: code %d", code)
	}
	for _, never := range []string{"127.0.0.1", "100.100.100.100", "169.254.169.254", "::1"} {
		expect(never, netip.MustParseAddr(never), replyForbidden)
	}
	s.put("proxy", nil)
	s.wait("proxy", "without the exit node", func(status nodeStatus) bool { return status.ExitNode == nil })
	if _, code := s.openUDP("proxy", outside, 80); code != replyForbidden {
		t.Errorf("without the exit node: code %d", code)
	}
}
