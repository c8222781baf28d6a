package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"tailscale.com/tailcfg"
)

const (
	maxBody         = 1 << 20
	aliveInterval   = 15 * time.Second
	maxPingTime     = 30 * time.Second
	certificateTime = 3 * time.Minute
)

// apiError is what a request ends with that cannot be done.
type apiError struct {
	status     int
	code, text string
}

func (e *apiError) Error() string { return e.text }

func badRequest(text string) error { return &apiError{http.StatusBadRequest, "bad-request", text} }

type handler func(r *http.Request) (any, error)

// serveControl serves the control socket.
func (s *sidecar) serveControl(listener net.Listener) {
	mux := http.NewServeMux()
	handle := func(pattern string, serve handler) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { s.answer(w, r, serve) })
	}
	withNode := func(pattern string, serve func(n *node, r *http.Request) (any, error)) {
		handle(pattern, func(r *http.Request) (any, error) {
			n := s.node(r.PathValue("node"))
			if n == nil {
				return nil, &apiError{http.StatusNotFound, "no-such-node", "there is no node " + strconv.Quote(r.PathValue("node"))}
			}
			return serve(n, r)
		})
	}
	handle("GET /{$}", func(*http.Request) (any, error) { return s.describe(), nil })
	handle("GET /nodes", func(*http.Request) (any, error) {
		all := []nodeStatus{}
		for _, n := range s.allNodes() {
			all = append(all, n.currentStatus())
		}
		return map[string]any{"nodes": all}, nil
	})
	handle("PUT /nodes/{node}", s.putNode)
	withNode("GET /nodes/{node}", func(n *node, _ *http.Request) (any, error) { return n.currentStatus(), nil })
	withNode("DELETE /nodes/{node}", s.deleteNode)
	withNode("POST /nodes/{node}/login", s.login)
	withNode("POST /nodes/{node}/logout", func(n *node, _ *http.Request) (any, error) {
		return answerWithStatus(n, n.logout())
	})
	withNode("POST /nodes/{node}/down", func(n *node, _ *http.Request) (any, error) {
		n.stop(wantStopped)
		return n.currentStatus(), nil
	})
	withNode("POST /nodes/{node}/up", func(n *node, _ *http.Request) (any, error) {
		n.start()
		return n.currentStatus(), nil
	})
	withNode("GET /nodes/{node}/peers", func(n *node, _ *http.Request) (any, error) {
		m, err := running(n)
		if err != nil {
			return nil, err
		}
		return map[string]any{"peers": list(m.people.Load().peers)}, nil
	})
	withNode("GET /nodes/{node}/whois", whois)
	withNode("POST /nodes/{node}/ping", ping)
	withNode("GET /nodes/{node}/certificate", certificateOf)
	mux.HandleFunc("GET /events", s.serveEvents)
	server := &http.Server{
		ReadHeaderTimeout: requestTime,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Lopower-Sidecar-Protocol", strconv.Itoa(protocolVersion))
			mux.ServeHTTP(w, r)
		}),
	}
	if err := server.Serve(listener); !errors.Is(err, net.ErrClosed) {
		s.log.Error("the control socket is gone", "error", err.Error())
	}
}

func (s *sidecar) answer(w http.ResponseWriter, r *http.Request, serve handler) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	status := http.StatusOK
	document, err := serve(r)
	if err != nil {
		failed := &apiError{http.StatusInternalServerError, "failed", err.Error()}
		_ = errors.As(err, &failed)
		status, document = failed.status, map[string]string{"error": s.secrets.redact(failed.text), "code": failed.code}
	} else if accepted, ok := document.(acceptedStatus); ok {
		status, document = http.StatusAccepted, accepted.nodeStatus
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(document)
}

// acceptedStatus is a status of something that has only begun.
type acceptedStatus struct{ nodeStatus }

func answerWithStatus(n *node, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return n.currentStatus(), nil
}

func (s *sidecar) describe() any {
	return struct {
		hello
		Nodes         int              `json:"nodes"`
		RSSBytes      int64            `json:"rss_bytes"`
		UptimeSeconds float64          `json:"uptime_seconds"`
		Counters      map[string]int64 `json:"counters"`
	}{sayHello(), s.nodeCount(), residentBytes(), time.Since(s.started).Seconds(), s.counters.document()}
}

func (s *sidecar) putNode(r *http.Request) (any, error) {
	name := r.PathValue("node")
	if !nodeNamePattern.MatchString(name) {
		return nil, badRequest("a node's name is of a-z, 0-9 and hyphens, 63 at most")
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, badRequest(err.Error())
	}
	config, err := parseConfig(name, body)
	if err != nil {
		return nil, badRequest(err.Error())
	}
	if n := s.node(name); n != nil && config.ExitNode != "" {
		if m := n.member.Load(); m != nil && m.running.Load() && m.exitNode(config.ExitNode) == nil {
			return nil, badRequest("no peer " + strconv.Quote(config.ExitNode) + " offers to be an exit node")
		}
	}
	n, err := s.nodeNamed(name, config)
	if errors.Is(err, errTooManyNodes) {
		return nil, &apiError{http.StatusConflict, "too-many-nodes", err.Error()}
	} else if err != nil {
		return nil, err
	}
	// An OAuth client secret is exchanged for a key over the network first: that is not waited for.
	go n.configure(config)
	return n.currentStatus(), nil
}

func (s *sidecar) deleteNode(n *node, r *http.Request) (any, error) {
	if r.URL.Query().Get("forget") != "true" {
		n.stop(wantStopped)
		s.removeNode(n)
		return map[string]any{}, nil
	}
	err := n.logout()
	n.stop(wantStopped)
	s.removeNode(n)
	if forgetErr := n.forget(); forgetErr != nil {
		return nil, forgetErr
	}
	if err != nil { // its keys are gone all the same; the tailnet's admin sees it until then
		s.log.Warn("the control server was not told that the node is gone", "node", n.name, "error", err.Error())
	}
	return map[string]any{}, nil
}

func (s *sidecar) login(n *node, r *http.Request) (any, error) {
	var body struct {
		AuthKey secret `json:"auth_key"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil && !errors.Is(err, io.EOF) {
		return nil, badRequest(err.Error())
	}
	go n.login(body.AuthKey)
	return acceptedStatus{n.currentStatus()}, nil
}

// running gives a node's member if it is in the tailnet.
func running(n *node) (*member, error) {
	if m := n.member.Load(); m != nil && m.running.Load() {
		return m, nil
	}
	return nil, &apiError{http.StatusConflict, "not-running", errNotRunning.Error()}
}

func whois(n *node, r *http.Request) (any, error) {
	m, err := running(n)
	if err != nil {
		return nil, err
	}
	text := r.URL.Query().Get("address")
	address, err := netip.ParseAddrPort(text)
	if err != nil {
		plain, err := netip.ParseAddr(text)
		if err != nil {
			return nil, badRequest("address=IP:PORT or address=IP is missing")
		}
		address = netip.AddrPortFrom(plain, 0)
	}
	if peer := m.people.Load().find(address.Addr()); peer != nil {
		return peer, nil
	}
	found, err := m.local.WhoIs(r.Context(), address.String())
	if err != nil || found.Node == nil {
		return nil, &apiError{http.StatusNotFound, "no-such-peer", "no node of the tailnet has " + text}
	}
	name := strings.TrimSuffix(found.Node.Name, ".")
	short, _, _ := strings.Cut(name, ".")
	peer := &peerStatus{
		StableID: string(found.Node.StableID), Name: short, DNSName: name, Addresses: []netip.Addr{}, Routes: []netip.Prefix{},
		Tags: list(found.Node.Tags), Online: found.Node.Online != nil && *found.Node.Online, Expired: found.Node.Expired,
	}
	for _, prefix := range found.Node.Addresses {
		peer.Addresses = append(peer.Addresses, prefix.Addr())
	}
	if found.UserProfile != nil && len(peer.Tags) == 0 {
		peer.User = found.UserProfile.LoginName
	}
	return peer, nil
}

func ping(n *node, r *http.Request) (any, error) {
	m, err := running(n)
	if err != nil {
		return nil, err
	}
	body := struct {
		Address netip.Addr `json:"address"`
		Timeout float64    `json:"timeout"`
	}{Timeout: 5}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || !body.Address.IsValid() {
		return nil, badRequest("the body is not {\"address\": IP, \"timeout\": SECONDS}")
	}
	answer := struct {
		Seconds *float64 `json:"seconds"`
		Error   *string  `json:"error"`
	}{}
	if err := m.gate(body.Address); err != nil {
		answer.Error = textOrNil(err.Error())
		return answer, nil
	}
	timeout := min(max(time.Duration(body.Timeout*float64(time.Second)), time.Millisecond), maxPingTime)
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	found, err := m.local.Ping(ctx, body.Address, tailcfg.PingICMP)
	switch {
	case err != nil && ctx.Err() != nil:
		answer.Error = textOrNil("no answer")
	case err != nil:
		answer.Error = textOrNil(err.Error())
	case found.Err != "":
		answer.Error = textOrNil(found.Err)
	default:
		answer.Seconds = &found.LatencySeconds
	}
	return answer, nil
}

func certificateOf(n *node, r *http.Request) (any, error) {
	m, err := running(n)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), certificateTime)
	defer cancel()
	pair, err := m.certificate(ctx)
	if err != nil {
		return nil, err
	}
	return map[string]any{"name": n.currentStatus().CertificateDomains[0], "not_after": pair.Leaf.NotAfter}, nil
}

func (s *sidecar) serveEvents(w http.ResponseWriter, r *http.Request) {
	f := s.events.follow(func(f *follower) {
		for _, n := range s.allNodes() {
			f.put("node "+n.name, nodeEvent(n.currentStatus()))
		}
		f.put("ready", map[string]string{"event": "ready"})
	})
	defer s.events.unfollow(f)
	w.Header().Set("Content-Type", "application/x-ndjson")
	alive := time.NewTicker(aliveInterval)
	defer alive.Stop()
	flush := http.NewResponseController(w).Flush
	for {
		var lines []byte
		select {
		case <-r.Context().Done():
			return
		case <-alive.C:
			lines = []byte{'\n'}
		case <-f.wake:
			lines = f.take()
		}
		if _, err := w.Write(lines); err != nil || flush() != nil {
			return
		}
	}
}
