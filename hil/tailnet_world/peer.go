package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"strings"
	"time"

	"tailscale.com/ipn"
	"tailscale.com/tsnet"
	"tailscale.com/types/logger"
)

const startTime = 30 * time.Second

// peer is a node of the tailnet that is not ours.
type peer struct {
	name   string
	server *tsnet.Server
}

func (w *world) startPeer(ctx context.Context, name string, verbose bool) (peerEntry, error) {
	logf := logger.Discard
	if verbose {
		logf = log.Printf
	}
	p := &peer{name: name, server: &tsnet.Server{
		Dir: w.stateOf(name), Hostname: name, ControlURL: w.control.url, Logf: logf, UserLogf: logf,
		AuthKey: w.control.RequireAuthKey,
	}}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	status, err := p.server.Up(ctx)
	if err != nil {
		return peerEntry{}, err
	}
	client, err := p.server.LocalClient()
	if err != nil {
		return peerEntry{}, err
	}
	if _, err := client.EditPrefs(ctx, &ipn.MaskedPrefs{RouteAllSet: true, Prefs: ipn.Prefs{RouteAll: true}}); err != nil {
		return peerEntry{}, err
	}
	if err := p.serve(); err != nil {
		return peerEntry{}, err
	}
	entry := peerEntry{Name: name, DNSName: strings.TrimSuffix(status.Self.DNSName, ".")}
	for _, address := range status.TailscaleIPs {
		entry.Addresses = append(entry.Addresses, address.String())
	}
	w.mu.Lock()
	w.peers[name] = p
	w.mu.Unlock()
	return entry, nil
}

// dial connects from the peer. Names are the tailnet's: by MagicDNS, bare ones too.
func (p *peer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	resolved, err := netip.ParseAddr(host)
	if err != nil {
		if resolved, err = p.resolve(ctx, host); err != nil {
			return nil, err
		}
	}
	target, err := netip.ParseAddrPort(net.JoinHostPort(resolved.String(), port))
	if err != nil {
		return nil, err
	}
	dialer := p.server.Sys().Dialer.Get()
	if !dialer.UseNetstackForIP(target.Addr()) {
		return nil, errors.New("no route")
	}
	if network == "udp" {
		return dialer.NetstackDialUDP(ctx, target)
	}
	return dialer.NetstackDialTCP(ctx, target)
}

func (p *peer) resolve(ctx context.Context, host string) (netip.Addr, error) {
	client, err := p.server.LocalClient()
	if err != nil {
		return netip.Addr{}, err
	}
	status, err := client.Status(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, other := range status.Peer {
		name := strings.TrimSuffix(other.DNSName, ".")
		if short, _, _ := strings.Cut(name, "."); (host == name || host == short) && len(other.TailscaleIPs) > 0 {
			return other.TailscaleIPs[0], nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no node is called %q", host)
}
