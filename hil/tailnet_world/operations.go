package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"tailscale.com/ipn"
	"tailscale.com/tailcfg"
	"tailscale.com/types/dnstype"
)

// command is one line on stdin. Which fields an operation reads is said where it is defined.
type command struct {
	ID        json.RawMessage     `json:"id"`
	Op        string              `json:"op"`
	Peer      string              `json:"peer"`
	Node      string              `json:"node"`
	URL       string              `json:"url"`
	Address   string              `json:"address"` // host:port
	Send      string              `json:"send"`
	Count     int                 `json:"count"`
	Bytes     int64               `json:"bytes"`
	Timeout   float64             `json:"timeout"` // seconds; 5
	Routes    []string            `json:"routes"`
	Sources   []string            `json:"sources"`
	Up        bool                `json:"up"`
	Login     string              `json:"login"`
	Resolvers []string            `json:"resolvers"`
	Split     map[string][]string `json:"split"`
	Records   map[string]string   `json:"records"`
}

type answer map[string]any

type operation func(w *world, ctx context.Context, c *command) (answer, error)

var operations = map[string]operation{
	"fetch":     fetch,        // peer, url → status, body
	"tcp":       exchangeTCP,  // peer, address, send → received: send, FIN, read to the end
	"udp":       exchangeUDP,  // peer, address, send, count → received: a list, one datagram each
	"download":  download,     // peer, address → bytes, sha256, seconds: read to the end
	"upload":    upload,       // peer, address, bytes → sha256, seconds, received: send the pattern, FIN, read to the end
	"forward":   forward,      // peer, address → port: of loopback, TCP and UDP, which leads there
	"ping":      ping,         // peer, address (without port) → seconds
	"nodes":     nodes,        // → nodes: what the control server knows
	"advertise": advertise,    // peer, routes: it offers to carry these; TCP to them is refused
	"approve":   approve,      // node, routes: approve subnet routes, all others no longer
	"allow":     allow,        // node, sources: only these may connect to it, until the control server has other news
	"authorize": authorize,    // url: complete a login by URL
	"require":   requireLogin, // login: "open", "url", or an auth key: what new nodes need
	"expire":    expire,       // up: all nodes' keys have expired (true) or not
	"control":   setControl,   // up: the control server is there or not
	"dns":       setDNS,       // resolvers, split, records: the tailnet's DNS settings
	"stop":      stopPeer,     // peer: take it away without a word
}

func (w *world) perform(ctx context.Context, line []byte) answer {
	var c command
	if err := json.Unmarshal(line, &c); err != nil {
		return answer{"ok": false, "error": err.Error()}
	}
	perform, ok := operations[c.Op]
	if !ok {
		return answer{"id": c.ID, "ok": false, "error": fmt.Sprintf("there is no operation %q", c.Op)}
	}
	timeout := 5 * time.Second
	if c.Timeout > 0 {
		timeout = time.Duration(c.Timeout * float64(time.Second))
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	result, err := perform(w, ctx, &c)
	if result == nil {
		result = answer{}
	}
	result["id"], result["ok"] = c.ID, err == nil
	if err != nil {
		result["error"] = describe(err)
	}
	return result
}

// describe gives the outcomes that tests tell apart one word each.
func describe(err error) string {
	text := err.Error()
	var timeout net.Error
	switch {
	case strings.Contains(text, "connection was refused"), strings.Contains(text, "connection refused"):
		return "refused"
	case strings.Contains(text, "no route to host"), strings.Contains(text, "network is unreachable"):
		return "unreachable"
	case strings.Contains(text, "connection reset by peer"):
		return "reset"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return text
}

// connect dials from the command's peer; the connection ends with ctx.
func (w *world) connect(ctx context.Context, c *command, network string) (net.Conn, error) {
	p, err := w.peerNamed(c.Peer)
	if err != nil {
		return nil, err
	}
	conn, err := p.dial(ctx, network, c.Address)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	return conn, conn.SetDeadline(deadline)
}

func fetch(w *world, ctx context.Context, c *command) (answer, error) {
	p, err := w.peerNamed(c.Peer)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{DialContext: p.dial, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{"status": response.StatusCode, "body": string(body)}, err
}

func exchangeTCP(w *world, ctx context.Context, c *command) (answer, error) {
	conn, err := w.connect(ctx, c, "tcp")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, c.Send); err != nil {
		return nil, err
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return nil, err
	}
	received, err := io.ReadAll(conn)
	return answer{"received": string(received)}, err
}

func exchangeUDP(w *world, ctx context.Context, c *command) (answer, error) {
	conn, err := w.connect(ctx, c, "udp")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	received, buffer := []string{}, make([]byte, 1<<16)
	for range max(c.Count, 1) {
		if _, err := io.WriteString(conn, c.Send); err != nil {
			return nil, err
		}
		n, err := readDatagram(ctx, conn, buffer)
		if err != nil {
			return answer{"received": received}, err
		}
		received = append(received, string(buffer[:n]))
	}
	return answer{"received": received}, nil
}

// readDatagram comes back for ICMP errors, which do not wake a read that waits.
func readDatagram(ctx context.Context, conn net.Conn, buffer []byte) (int, error) {
	for {
		_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, err := conn.Read(buffer)
		var timeout net.Error
		if err == nil || !errors.As(err, &timeout) || !timeout.Timeout() {
			return n, err
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
}

func download(w *world, ctx context.Context, c *command) (answer, error) {
	conn, err := w.connect(ctx, c, "tcp")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, c.Send); err != nil {
		return nil, err
	}
	sum, began := sha256.New(), time.Now()
	count, err := io.CopyBuffer(sum, struct{ io.Reader }{conn}, make([]byte, transferBuffer))
	return answer{
		"bytes": count, "sha256": hex.EncodeToString(sum.Sum(nil)), "seconds": time.Since(began).Seconds(),
	}, err
}

func upload(w *world, ctx context.Context, c *command) (answer, error) {
	conn, err := w.connect(ctx, c, "tcp")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	sum, began := sha256.New(), time.Now()
	if err := sendPattern(io.MultiWriter(conn, sum), c.Bytes); err != nil {
		return nil, err
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return nil, err
	}
	received, err := io.ReadAll(conn)
	return answer{
		"sha256": hex.EncodeToString(sum.Sum(nil)), "seconds": time.Since(began).Seconds(), "received": string(received),
	}, err
}

func ping(w *world, ctx context.Context, c *command) (answer, error) {
	p, err := w.peerNamed(c.Peer)
	if err != nil {
		return nil, err
	}
	address, err := netip.ParseAddr(c.Address)
	if err != nil {
		return nil, err
	}
	client, err := p.server.LocalClient()
	if err != nil {
		return nil, err
	}
	result, err := client.Ping(ctx, address, tailcfg.PingICMP)
	if err != nil {
		return nil, err
	}
	if result.Err != "" {
		return nil, errors.New(result.Err)
	}
	return answer{"seconds": result.LatencySeconds}, nil
}

func nodes(w *world, _ context.Context, _ *command) (answer, error) {
	all := []answer{}
	for _, node := range w.control.AllNodes() {
		entry := answer{"name": node.Hostinfo.Hostname(), "dns_name": node.Name, "stable_id": node.StableID}
		addresses, advertised := []string{}, []string{}
		for _, prefix := range node.Addresses {
			addresses = append(addresses, prefix.Addr().String())
		}
		for _, prefix := range node.Hostinfo.RoutableIPs().All() {
			advertised = append(advertised, prefix.String())
		}
		entry["addresses"], entry["advertised"] = addresses, advertised
		all = append(all, entry)
	}
	return answer{"nodes": all}, nil
}

func advertise(w *world, ctx context.Context, c *command) (answer, error) {
	p, err := w.peerNamed(c.Peer)
	if err != nil {
		return nil, err
	}
	var prefixes []netip.Prefix
	for _, route := range c.Routes {
		prefix, err := netip.ParsePrefix(route)
		if err != nil {
			return nil, err
		}
		prefixes = append(prefixes, prefix)
	}
	client, err := p.server.LocalClient()
	if err != nil {
		return nil, err
	}
	_, err = client.EditPrefs(ctx, &ipn.MaskedPrefs{AdvertiseRoutesSet: true, Prefs: ipn.Prefs{AdvertiseRoutes: prefixes}})
	return nil, err
}

func approve(w *world, _ context.Context, c *command) (answer, error) {
	return nil, w.control.approve(c.Node, c.Routes)
}

func allow(w *world, _ context.Context, c *command) (answer, error) {
	return nil, w.control.allow(c.Node, c.Sources)
}

func authorize(w *world, _ context.Context, c *command) (answer, error) {
	if !w.control.CompleteAuth(c.URL) {
		return nil, errors.New("nobody logs in by this URL")
	}
	return nil, nil
}

func requireLogin(w *world, _ context.Context, c *command) (answer, error) {
	w.control.RequireAuth, w.control.RequireAuthKey = c.Login == "url", ""
	if c.Login != "url" && c.Login != "open" {
		w.control.RequireAuthKey = c.Login
	}
	return nil, nil
}

func expire(w *world, _ context.Context, c *command) (answer, error) {
	w.control.SetExpireAllNodes(c.Up)
	return nil, nil
}

func setControl(w *world, _ context.Context, c *command) (answer, error) {
	return nil, w.control.setUp(c.Up)
}

func setDNS(w *world, _ context.Context, c *command) (answer, error) {
	config := &tailcfg.DNSConfig{
		Proxied: true, Domains: []string{w.control.MagicDNSDomain}, Resolvers: resolvers(c.Resolvers),
		Routes: map[string][]*dnstype.Resolver{},
	}
	for suffix, addresses := range c.Split {
		config.Routes[suffix] = resolvers(addresses)
	}
	for name, value := range c.Records {
		config.ExtraRecords = append(config.ExtraRecords, tailcfg.DNSRecord{Name: name, Value: value})
	}
	w.control.DNSConfig = config
	w.control.AddDNSRecords() // tells all nodes
	return nil, nil
}

func resolvers(addresses []string) []*dnstype.Resolver {
	var all []*dnstype.Resolver
	for _, address := range addresses {
		all = append(all, &dnstype.Resolver{Addr: address})
	}
	return all
}

func stopPeer(w *world, _ context.Context, c *command) (answer, error) {
	p, err := w.peerNamed(c.Peer)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	delete(w.peers, c.Peer)
	w.mu.Unlock()
	return nil, p.server.Close()
}
