package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"golang.org/x/net/dns/dnsmessage"
)

// What each peer serves. All other TCP ports refuse.
const (
	echoPort   = 7  // TCP and UDP: what comes goes back
	hashPort   = 9  // TCP: takes all until FIN, then says its SHA-256 in hex and ends
	sourcePort = 19 // TCP: "N\n" gives N bytes (byteAt), then ends
	countPort  = 20 // TCP: takes all until FIN, then says how many bytes it was and ends
	resetPort  = 21 // TCP: answers the first byte with a RST
	dnsPort    = 53 // UDP and TCP: A of anything is 192.0.2.53, TXT is long; but NXDOMAIN under "missing."
	httpPort   = 80 // GET / says "NAME\n"; GET /address says the client's
)

const transferBuffer = 256 << 10

func (p *peer) serve() error {
	for port, serve := range map[int]func(net.Conn){
		echoPort: echoStream, hashPort: hashStream, sourcePort: sendStream, countPort: countStream, resetPort: resetStream,
		dnsPort: dnsStream,
	} {
		listener, err := p.server.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			return err
		}
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go serve(conn)
			}
		}()
	}
	listener, err := p.server.Listen("tcp", ":"+strconv.Itoa(httpPort))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, p.name) })
	mux.HandleFunc("GET /address", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.RemoteAddr) })
	go func() { _ = http.Serve(listener, mux) }()
	v4, v6 := p.server.TailscaleIPs()
	for port, answer := range map[uint16]func([]byte) []byte{
		echoPort: func(b []byte) []byte { return b },
		dnsPort:  func(b []byte) []byte { return answerDNS(b, true) },
	} {
		for _, address := range []net.IP{v4.AsSlice(), v6.AsSlice()} {
			conn, err := p.server.ListenPacket("udp", net.JoinHostPort(address.String(), strconv.Itoa(int(port))))
			if err != nil {
				return err
			}
			go serveDatagrams(conn, answer)
		}
	}
	return nil
}

func serveDatagrams(conn net.PacketConn, answer func([]byte) []byte) {
	buffer := make([]byte, 1<<16)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		if reply := answer(buffer[:n]); reply != nil {
			_, _ = conn.WriteTo(reply, from)
		}
	}
}

func echoStream(conn net.Conn) {
	defer conn.Close()
	_, _ = io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{conn}, make([]byte, transferBuffer))
}

func hashStream(conn net.Conn) {
	defer conn.Close()
	sum := sha256.New()
	if _, err := io.CopyBuffer(sum, struct{ io.Reader }{conn}, make([]byte, transferBuffer)); err == nil {
		_, _ = io.WriteString(conn, hex.EncodeToString(sum.Sum(nil)))
	}
}

func countStream(conn net.Conn) {
	defer conn.Close()
	count, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, transferBuffer))
	if err == nil {
		_, _ = io.WriteString(conn, strconv.FormatInt(count, 10))
	}
}

func sendStream(conn net.Conn) {
	defer conn.Close()
	var count int64
	if _, err := fmt.Fscanf(conn, "%d\n", &count); err == nil {
		_ = sendPattern(conn, count)
	}
}

// sendPattern sends so many bytes of a pattern that repeats every 65,521 bytes: byte i is (i mod 65521)*31 mod 256.
func sendPattern(w io.Writer, count int64) error {
	pattern := make([]byte, 65_521*4)
	for i := range pattern {
		pattern[i] = byte(i % 65_521 * 31)
	}
	for count > 0 {
		n := min(count, int64(len(pattern)))
		if _, err := w.Write(pattern[:n]); err != nil {
			return err
		}
		count -= n
	}
	return nil
}

// resetStream leaves data unread, for which closing sends a RST.
func resetStream(conn net.Conn) {
	_, _ = conn.Read(make([]byte, 1))
	conn.Close()
}

func dnsStream(conn net.Conn) {
	defer conn.Close()
	for {
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		message := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, message); err != nil {
			return
		}
		answer := answerDNS(message, false)
		_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
	}
}

func answerDNS(question []byte, datagram bool) []byte {
	var message dnsmessage.Message
	if message.Unpack(question) != nil || len(message.Questions) != 1 {
		return nil
	}
	q := message.Questions[0]
	message.Header = dnsmessage.Header{ID: message.ID, Response: true, RecursionAvailable: true}
	message.Additionals = nil
	head := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60}
	switch {
	case len(q.Name.String()) > 8 && q.Name.String()[:8] == "missing.":
		message.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		message.Answers = []dnsmessage.Resource{{Header: head, Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, 53}}}}
	case q.Type == dnsmessage.TypeTXT && datagram:
		message.Truncated = true
	case q.Type == dnsmessage.TypeTXT:
		text := make([]string, 20)
		for i := range text {
			text[i] = fmt.Sprintf("%0200d", i)
		}
		message.Answers = []dnsmessage.Resource{{Header: head, Body: &dnsmessage.TXTResource{TXT: text}}}
	}
	packed, err := message.Pack()
	if err != nil {
		return nil
	}
	return packed
}
