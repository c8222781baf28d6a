package main

import (
	"context"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnstate"
	"tailscale.com/tailcfg"
	"tailscale.com/types/dnstype"
	"tailscale.com/types/views"
)

const (
	// How often a status is looked up when nothing says that it changed: that the control server is silent, nothing says.
	refreshAnyway = 15 * time.Second
	// How long it may be before that is told; a new connection to it takes a second or two.
	silentTime = 20 * time.Second
)

// nodeStatus is a node's status document.
type nodeStatus struct {
	Name               string          `json:"name"`
	State              string          `json:"state"`
	LoginURL           *string         `json:"login_url"`
	Error              *string         `json:"error"`
	Health             []string        `json:"health"`
	Hostname           string          `json:"hostname"`
	DNSName            *string         `json:"dns_name"`
	StableID           *string         `json:"stable_id"`
	Tailnet            *string         `json:"tailnet"`
	MagicDNSSuffix     *string         `json:"magic_dns_suffix"`
	Addresses          []netip.Addr    `json:"addresses"`
	Tags               []string        `json:"tags"`
	User               *string         `json:"user"`
	KeyExpiry          *time.Time      `json:"key_expiry"`
	CertificateDomains []string        `json:"certificate_domains"`
	RoutesAdvertised   []netip.Prefix  `json:"routes_advertised"`
	RoutesApproved     []netip.Prefix  `json:"routes_approved"`
	RoutesAccepted     []netip.Prefix  `json:"routes_accepted"`
	ExitNode           *exitNodeStatus `json:"exit_node"`
	Peers              int             `json:"peers"`
	DNS                dnsStatus       `json:"dns"`
}

type exitNodeStatus struct {
	Name   string `json:"name"`
	Online bool   `json:"online"`
}

type dnsStatus struct {
	Magic     bool                        `json:"magic"`
	Search    []string                    `json:"search"`
	Resolvers []resolverStatus            `json:"resolvers"`
	Routes    map[string][]resolverStatus `json:"routes"`
}

type resolverStatus struct {
	Address string `json:"address"`
	Via     string `json:"via"` // tailnet, direct
}

// peerStatus is a peer's document.
type peerStatus struct {
	StableID       string         `json:"stable_id"`
	Name           string         `json:"name"`
	DNSName        string         `json:"dns_name"`
	Addresses      []netip.Addr   `json:"addresses"`
	Routes         []netip.Prefix `json:"routes"`
	User           string         `json:"user"`
	Tags           []string       `json:"tags"`
	OS             string         `json:"os"`
	Online         bool           `json:"online"`
	ExitNodeOption bool           `json:"exit_node_option"`
	Expired        bool           `json:"expired"`
}

// people says who has an address. It is made anew at each change and never written to.
type people struct {
	peers     []*peerStatus // by name
	byAddress map[netip.Addr]*peerStatus
	names     map[string][]netip.Addr // full names without the final dot, in lower case; the node's own among them
}

// find gives the peer whose own address this is, or whose approved route is the most specific one with it.
func (p *people) find(address netip.Addr) *peerStatus {
	if peer := p.byAddress[address]; peer != nil {
		return peer
	}
	var found *peerStatus
	bits := -1
	for _, peer := range p.peers {
		for _, route := range peer.Routes {
			if route.Bits() > bits && route.Contains(address) {
				found, bits = peer, route.Bits()
			}
		}
	}
	return found
}

func (n *node) emptyStatus(state string) nodeStatus {
	config, _, _ := n.snapshot()
	return nodeStatus{
		Name: n.name, State: state, Hostname: config.Hostname, Health: []string{}, Addresses: []netip.Addr{}, Tags: []string{},
		CertificateDomains: []string{}, RoutesAdvertised: list(config.AdvertiseRoutes), RoutesApproved: []netip.Prefix{},
		RoutesAccepted: []netip.Prefix{},
		DNS:            dnsStatus{Search: []string{}, Resolvers: []resolverStatus{}, Routes: map[string][]resolverStatus{}},
	}
}

// refresh looks everything up, tells it, and says when to look again.
func (m *member) refresh() time.Duration {
	ctx, cancel := context.WithTimeout(m.ctx, requestTime)
	defer cancel()
	found, err := m.local.Status(ctx)
	if err != nil {
		if m.ctx.Err() == nil {
			m.log.Warn("no status", "error", err.Error())
		}
		return watchAgain
	}
	config, _, _ := m.node.snapshot()
	status := m.node.emptyStatus("starting")
	next := refreshAnyway
	m.describeSelf(&status, found)
	everyone := m.describePeers(found)
	m.describeRoutes(&status, found, everyone, config)
	own := slices.Clone(found.TailscaleIPs)
	m.addresses.Store(&own)
	before := m.people.Swap(everyone)
	if dnsConfig, err := m.local.DNSConfig(ctx); err == nil && dnsConfig != nil {
		m.describeDNS(&status, dnsConfig, found, everyone)
	} else {
		m.zones.Store(&zones{})
	}
	m.running.Store(found.BackendState == ipn.Running.String())
	if status.KeyExpiry != nil {
		if left := time.Until(*status.KeyExpiry); left > 0 {
			next = min(next, left+time.Second)
		}
	}
	if m.ctx.Err() != nil {
		return next
	}
	m.node.publish(status)
	if !slices.EqualFunc(before.peers, everyone.peers, func(a, b *peerStatus) bool { return reflect.DeepEqual(a, b) }) {
		m.node.sidecar.events.peers(m.node.name)
	}
	m.applyExitNode(ctx)
	return next
}

func (m *member) describeSelf(status *nodeStatus, found *ipnstate.Status) {
	m.mu.Lock()
	status.LoginURL, status.Error = textOrNil(m.loginURL), textOrNil(m.complaint)
	m.mu.Unlock()
	expired := false
	if self := found.Self; self != nil {
		status.DNSName, status.StableID = textOrNil(strings.TrimSuffix(self.DNSName, ".")), textOrNil(string(self.ID))
		status.Tags = tags(self.Tags)
		status.Addresses = list(found.TailscaleIPs)
		if user := found.User[self.UserID].LoginName; len(status.Tags) == 0 {
			status.User = textOrNil(user)
		}
		if self.KeyExpiry != nil && !self.KeyExpiry.IsZero() {
			status.KeyExpiry = self.KeyExpiry
			expired = !time.Now().Before(*self.KeyExpiry)
		}
		expired = expired || self.Expired
	}
	if found.CurrentTailnet != nil {
		status.Tailnet = textOrNil(found.CurrentTailnet.Name)
		status.MagicDNSSuffix = textOrNil(found.CurrentTailnet.MagicDNSSuffix)
	}
	status.CertificateDomains = list(found.CertDomains)
	switch found.BackendState {
	case ipn.Running.String():
		status.State, status.LoginURL, status.Error = "running", nil, nil
		status.Health = append(list(found.Health), m.silence(found.Self)...)
	case ipn.NeedsLogin.String():
		status.State = "needs-login"
		if status.LoginURL == nil {
			status.LoginURL = textOrNil(found.AuthURL)
		}
	case ipn.NeedsMachineAuth.String():
		status.State = "needs-approval"
	case ipn.Stopped.String():
		status.State = "stopped"
	}
	if expired && found.HaveNodeKey {
		status.State = "expired"
	}
	if status.State != "running" && status.Error == nil {
		status.Error = textOrNil(m.node.sidecar.secrets.redact(m.whyNotIn(found.Health)))
	}
}

// silence tells that the control server does not answer. The library waits for eight minutes before it does, and does not
// tell at all that the control server knows the node no more.
func (m *member) silence(self *ipnstate.PeerStatus) []string {
	if self == nil || self.Online {
		m.silentSince = time.Time{}
		return nil
	}
	if m.silentSince.IsZero() {
		m.silentSince = time.Now()
	}
	if time.Since(m.silentSince) < silentTime {
		return nil
	}
	return []string{"the control server is not reached, or does not know this node any more: what is known of the tailnet " +
		"still holds; if the node was removed from the tailnet, log it in again"}
}

// whyNotIn is why the control server was not reached, or did not let the node in. The library tries again and tells it as a
// part of its health alone (health.LoginStateWarnable); without a network it waits for one and says nothing.
func (m *member) whyNotIn(health []string) string {
	for _, text := range health {
		if _, reason, ok := strings.Cut(text, "The last login error was: "); ok {
			return reason
		}
	}
	if monitor, ok := m.server.Sys().NetMon.GetOK(); ok && !monitor.InterfaceState().AnyInterfaceUp() {
		return "the network is down"
	}
	return ""
}

func (m *member) describePeers(found *ipnstate.Status) *people {
	all := &people{byAddress: map[netip.Addr]*peerStatus{}, names: map[string][]netip.Addr{}}
	for _, p := range found.Peer {
		if p.ShareeNode {
			continue
		}
		name := strings.TrimSuffix(p.DNSName, ".")
		short, _, _ := strings.Cut(name, ".")
		peer := &peerStatus{
			StableID: string(p.ID), Name: short, DNSName: name, Addresses: list(p.TailscaleIPs), Routes: routes(p),
			Tags: tags(p.Tags), OS: p.OS, Online: p.Online, ExitNodeOption: p.ExitNodeOption, Expired: p.Expired,
		}
		if len(peer.Tags) == 0 {
			peer.User = found.User[p.UserID].LoginName
		}
		all.peers = append(all.peers, peer)
		for _, address := range peer.Addresses {
			all.byAddress[address] = peer
		}
		if name != "" {
			all.names[strings.ToLower(name)] = peer.Addresses
		}
	}
	if self := found.Self; self != nil && self.DNSName != "" {
		all.names[strings.ToLower(strings.TrimSuffix(self.DNSName, "."))] = found.TailscaleIPs
	}
	slices.SortFunc(all.peers, func(a, b *peerStatus) int {
		return strings.Compare(a.DNSName+a.StableID, b.DNSName+b.StableID)
	})
	return all
}

func (m *member) describeRoutes(status *nodeStatus, found *ipnstate.Status, everyone *people, config nodeConfig) {
	status.Peers = len(everyone.peers)
	if found.Self != nil {
		status.RoutesApproved = routes(found.Self)
	}
	if config.AcceptRoutes {
		for _, peer := range everyone.peers {
			for _, route := range peer.Routes {
				if !slices.Contains(status.RoutesAccepted, route) && route.Bits() > 0 {
					status.RoutesAccepted = append(status.RoutesAccepted, route)
				}
			}
		}
	}
	if exit := found.ExitNodeStatus; exit != nil {
		status.ExitNode = &exitNodeStatus{Online: exit.Online}
		for _, peer := range everyone.peers {
			if peer.StableID == string(exit.ID) {
				status.ExitNode.Name = peer.DNSName
			}
		}
	}
}

func (m *member) describeDNS(status *nodeStatus, config *tailcfg.DNSConfig, found *ipnstate.Status, everyone *people) {
	suffix := ""
	if found.CurrentTailnet != nil {
		suffix = found.CurrentTailnet.MagicDNSSuffix
	}
	z := newZones(config, suffix, everyone, m.dialer.UseNetstackForIP)
	m.zones.Store(z)
	status.DNS.Magic = config.Proxied
	status.DNS.Search = list(z.search)
	status.DNS.Resolvers = m.resolvers(config.Resolvers)
	for name, resolvers := range config.Routes {
		status.DNS.Routes[strings.Trim(name, ".")] = m.resolvers(resolvers)
	}
}

func (m *member) resolvers(configured []*dnstype.Resolver) []resolverStatus {
	all := []resolverStatus{}
	for _, resolver := range configured {
		entry := resolverStatus{Address: resolver.Addr, Via: "direct"}
		if address, ok := resolver.IPPort(); ok {
			entry.Address = address.String()
			if m.dialer.UseNetstackForIP(address.Addr()) {
				entry.Via = "tailnet"
			}
		}
		all = append(all, entry)
	}
	return all
}

// applyExitNode sets the configured exit node as soon as its peer is known: until then nothing has a default route.
func (m *member) applyExitNode(ctx context.Context) {
	config, _, _ := m.node.snapshot()
	m.mu.Lock()
	applied := m.exitNodeApplied
	m.mu.Unlock()
	if config.ExitNode == applied {
		return
	}
	change := &ipn.MaskedPrefs{ExitNodeIDSet: true, ExitNodeIPSet: true}
	if config.ExitNode != "" {
		peer := m.exitNode(config.ExitNode)
		if peer == nil {
			return
		}
		change.ExitNodeID = tailcfg.StableNodeID(peer.StableID)
	}
	if _, err := m.local.EditPrefs(ctx, change); err != nil {
		m.log.Warn("the exit node was not taken over", "error", err.Error())
		return
	}
	m.mu.Lock()
	m.exitNodeApplied = config.ExitNode
	m.mu.Unlock()
	m.changed()
}

// exitNode gives the peer of that name or address that offers to be one, nil if there is none.
func (m *member) exitNode(wanted string) *peerStatus {
	for _, peer := range m.people.Load().peers {
		if !peer.ExitNodeOption {
			continue
		}
		address, err := netip.ParseAddr(wanted)
		if strings.EqualFold(wanted, peer.Name) || strings.EqualFold(strings.TrimSuffix(wanted, "."), peer.DNSName) ||
			err == nil && slices.Contains(peer.Addresses, address) {
			return peer
		}
	}
	return nil
}

// routes are what a node may carry beyond its own addresses.
func routes(p *ipnstate.PeerStatus) []netip.Prefix {
	found := []netip.Prefix{}
	if p.AllowedIPs == nil {
		return found
	}
	for _, prefix := range p.AllowedIPs.All() {
		if !prefix.IsSingleIP() || !slices.Contains(p.TailscaleIPs, prefix.Addr()) {
			found = append(found, prefix)
		}
	}
	return found
}

func tags(found *views.Slice[string]) []string {
	if found == nil {
		return []string{}
	}
	return list(found.AsSlice())
}

// list is never nil: JSON has [] and not null.
func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}

func textOrNil(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
