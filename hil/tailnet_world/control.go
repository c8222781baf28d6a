package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"tailscale.com/derp/derpserver"
	"tailscale.com/net/stunserver"
	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// control is the control server, which can go away and come back at the same port.
type control struct {
	*testcontrol.Server
	url     string
	address string
	mu      sync.Mutex
	serving *http.Server // nil while it is down
}

// relay is where a DERP relay and a STUN server are.
type relay struct {
	Address  string `json:"address"`
	DERPPort int    `json:"derp_port"`
	STUNPort int    `json:"stun_port"`
}

// serveRelay serves DERP and STUN at ports of address; 0 takes any.
func serveRelay(ctx context.Context, address string, derpPort, stunPort int, logf logger.Logf) (relay, error) {
	tls := httptest.NewUnstartedServer(derpserver.Handler(derpserver.New(key.NewNode(), logf)))
	tls.Config.ErrorLog = logger.StdLogger(logf)
	listener, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(derpPort)))
	if err != nil {
		return relay{}, err
	}
	tls.Listener.Close()
	tls.Listener = listener
	// DERP takes the connection over, which HTTP/2 does not allow.
	tls.EnableHTTP2 = false
	tls.StartTLS()
	stun := stunserver.New(ctx)
	if err := stun.Listen(net.JoinHostPort(address, strconv.Itoa(stunPort))); err != nil {
		return relay{}, err
	}
	go func() { _ = stun.Serve() }()
	return relay{address, listener.Addr().(*net.TCPAddr).Port, stun.LocalAddr().(*net.UDPAddr).Port}, nil
}

func (r relay) region() *tailcfg.DERPRegion {
	return &tailcfg.DERPRegion{RegionID: 1, RegionCode: "test", Nodes: []*tailcfg.DERPNode{{
		Name: "t1", RegionID: 1, HostName: r.Address, IPv4: r.Address, IPv6: "none", STUNTestIP: r.Address,
		STUNPort: r.STUNPort, DERPPort: r.DERPPort, InsecureForTests: true,
	}}}
}

func serveControl(address, domain string, through relay, logf logger.Logf) (*control, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		return nil, err
	}
	c := &control{address: listener.Addr().String(), url: "http://" + listener.Addr().String()}
	c.Server = &testcontrol.Server{
		ExplicitBaseURL: c.url, MagicDNSDomain: domain, Logf: logf, AllOnline: true,
		DNSConfig: &tailcfg.DNSConfig{Proxied: true, Domains: []string{domain}},
		DERPMap:   &tailcfg.DERPMap{Regions: map[int]*tailcfg.DERPRegion{1: through.region()}},
	}
	c.serve(listener)
	return c, nil
}

// ServeHTTP keeps requests away that testcontrol panics at.
func (c *control) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for _, known := range []string{"/generate_204", "/key", "/machine/", "/ts2021", "/c2n/"} {
		if strings.HasPrefix(r.URL.Path, known) {
			c.Server.ServeHTTP(w, r)
			return
		}
	}
	http.NotFound(w, r)
}

func (c *control) serve(listener net.Listener) {
	server := &http.Server{Handler: c}
	c.mu.Lock()
	c.serving = server
	c.mu.Unlock()
	go func() { _ = server.Serve(listener) }()
}

// setUp takes the control server away with all its connections, or brings it back.
func (c *control) setUp(up bool) error {
	c.mu.Lock()
	serving := c.serving
	c.mu.Unlock()
	if (serving != nil) == up {
		return nil
	}
	if !up {
		c.mu.Lock()
		c.serving = nil
		c.mu.Unlock()
		return serving.Close()
	}
	listener, err := net.Listen("tcp", c.address)
	if err != nil {
		return err
	}
	c.serve(listener)
	return nil
}

// nodeNamed gives the node that asked for this host name last.
func (c *control) nodeNamed(name string) (*tailcfg.Node, error) {
	var found *tailcfg.Node
	for _, node := range c.AllNodes() {
		if node.Hostinfo.Valid() && node.Hostinfo.Hostname() == name && (found == nil || node.ID > found.ID) {
			found = node
		}
	}
	if found == nil {
		return nil, fmt.Errorf("no node asked to be called %q", name)
	}
	return found, nil
}

// allow replaces a node's packet filter until the control server has other news for it.
func (c *control) allow(name string, sources []string) error {
	node, err := c.nodeNamed(name)
	if err != nil {
		return err
	}
	if len(sources) == 0 {
		sources = []string{"255.255.255.255"} // nobody; an empty filter would not be sent
	}
	rules := []tailcfg.FilterRule{{
		SrcIPs:   sources,
		DstPorts: []tailcfg.NetPortRange{{IP: "*", Ports: tailcfg.PortRangeAny}},
	}}
	if !c.AddRawMapResponse(node.Key, &tailcfg.MapResponse{PacketFilter: rules}) {
		return errors.New("the node does not listen")
	}
	return nil
}

func (c *control) approve(name string, routes []string) error {
	node, err := c.nodeNamed(name)
	if err != nil {
		return err
	}
	var prefixes []netip.Prefix
	for _, route := range routes {
		prefix, err := netip.ParsePrefix(route)
		if err != nil {
			return err
		}
		prefixes = append(prefixes, prefix)
	}
	c.SetSubnetRoutes(node.Key, prefixes)
	return nil
}
