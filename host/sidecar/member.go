package main

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/ipn"
	"tailscale.com/net/dns"
	"tailscale.com/net/tsdial"
	"tailscale.com/net/tstun"
	"tailscale.com/tsnet"
	"tailscale.com/types/logger"
	"tailscale.com/wgengine/netstack"
)

const (
	watched = ipn.NotifyInitialState | ipn.NotifyInitialPrefs | ipn.NotifyPeerChanges | ipn.NotifyInitialHealthState
	// Peers come and go in crowds, and a status document lists them all.
	refreshInterval = 200 * time.Millisecond
	watchAgain      = time.Second
)

// member is one run of a node: a tsnet server, from its start to its end.
type member struct {
	node   *node
	log    *slog.Logger
	server *tsnet.Server
	local  *local.Client
	dialer *tsdial.Dialer
	tun    *tstun.Wrapper
	dns    *dns.Manager
	inject tstun.GROFilterFunc // the stack's own hook for packets from the tailnet

	ctx    context.Context // ends with the member, and ends its flows
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	running      atomic.Bool                  // in the tailnet
	addresses    atomic.Pointer[[]netip.Addr] // its own
	wantedIn     atomic.Pointer[[]netip.Prefix]
	people       atomic.Pointer[people] // who is who in the tailnet
	zones        atomic.Pointer[zones]  // who answers which names
	rejections   rejections
	limits       inboundLimits
	unreachables rateLimit
	pinPort      atomic.Uint32

	dirty chan struct{}
	mu    sync.Mutex
	// What the bus alone tells; the rest is asked for.
	loginURL, complaint string
	exitNodeApplied     string

	silentSince time.Time // only refresh uses it; zero while the control server answers
}

// startMember starts a node's stack and control client; it does not wait for the tailnet.
func startMember(n *node, config nodeConfig) (*member, error) {
	// A node allocates some 36 MB of buffers that it does not touch while idle. From fresh pages they cost nothing; from
	// a used heap they are resident.
	debug.FreeOSMemory()
	directory := n.stateDirectory(config)
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return nil, err
	}
	m := &member{node: n, log: n.sidecar.log.With("node", n.name), dirty: make(chan struct{}, 1)}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	logf := logger.Discard
	if n.sidecar.verbose {
		logf = libraryLogf(m.log)
	}
	m.server = &tsnet.Server{
		Dir: directory, Hostname: config.Hostname, ControlURL: config.ControlURL, AuthKey: string(config.AuthKey),
		Ephemeral: config.Ephemeral, AdvertiseTags: config.AdvertiseTags, Logf: logf, UserLogf: logf,
	}
	if err := m.server.Start(); err != nil {
		m.cancel()
		return nil, err
	}
	stack, ok := m.server.Sys().Netstack.Get().(*netstack.Impl)
	if !ok {
		m.cancel()
		return nil, errors.Join(errors.New("this tsnet has another network stack"), m.server.Close())
	}
	tuneStack(stack)
	m.dialer, m.tun, m.dns = m.server.Sys().Dialer.Get(), m.server.Sys().Tun.Get(), m.server.Sys().DNSManager.Get()
	m.addresses.Store(&[]netip.Addr{})
	m.people.Store(&people{})
	m.zones.Store(&zones{})
	m.setDestinations(config.InboundDestinations)

	// The peers learn of this node by the control server, so that nothing comes in before these are set.
	stack.GetTCPHandlerForFlow = m.handleTCP
	stack.GetUDPHandlerForFlow = m.handleUDP
	m.inject = m.tun.PostFilterPacketInboundFromWireGuard
	m.tun.PostFilterPacketInboundFromWireGuard = m.filterInbound
	m.tun.PreFilterPacketInboundFromWireGuard = m.seeRejections(m.tun.PreFilterPacketInboundFromWireGuard)

	client, err := m.server.LocalClient()
	if err == nil {
		m.local = client
		// Before it is in, so that the first request to the control server carries them.
		_, err = client.EditPrefs(m.ctx, config.masked())
	}
	if err != nil {
		m.cancel()
		return nil, errors.Join(err, m.server.Close())
	}
	return m, nil
}

// begin follows the node's state.
func (m *member) begin() {
	m.tasks.Go(m.watch)
	m.tasks.Go(m.refreshAlways)
	m.changed()
}

// close ends all flows and leaves the tailnet.
func (m *member) close() {
	m.running.Store(false)
	m.cancel()
	m.tasks.Wait() // an open watch would hold Close up for 5 s
	if err := m.server.Close(); err != nil {
		m.log.Warn("the node did not stop cleanly", "error", err.Error())
	}
}

// changed has the status looked up again soon.
func (m *member) changed() {
	select {
	case m.dirty <- struct{}{}:
	default:
	}
}

func (m *member) complain(text string) {
	m.mu.Lock()
	m.complaint = m.node.sidecar.secrets.redact(text)
	m.mu.Unlock()
}

func (m *member) watch() {
	for m.ctx.Err() == nil {
		if err := m.watchOnce(); err != nil && m.ctx.Err() == nil {
			m.log.Warn("the node's state cannot be followed, trying again", "error", err.Error())
			select {
			case <-m.ctx.Done():
			case <-time.After(watchAgain):
			}
		}
	}
}

func (m *member) watchOnce() error {
	watcher, err := m.local.WatchIPNBus(m.ctx, watched)
	if err != nil {
		return err
	}
	defer watcher.Close()
	for {
		notify, err := watcher.Next()
		if err != nil {
			return err
		}
		m.mu.Lock()
		if notify.BrowseToURL != nil {
			m.loginURL = *notify.BrowseToURL
		}
		if notify.LoginFinished != nil {
			m.loginURL, m.complaint = "", ""
		}
		if notify.ErrMessage != nil {
			m.complaint = m.node.sidecar.secrets.redact(*notify.ErrMessage)
			m.log.Warn("the tailnet complains", "error", m.complaint)
		}
		if notify.State != nil {
			m.running.Store(*notify.State == ipn.Running)
			if *notify.State == ipn.Running {
				m.loginURL, m.complaint = "", ""
			}
			m.log.Info("state", "state", notify.State.String())
		}
		m.mu.Unlock()
		m.changed()
	}
}

// refreshAlways looks the status up when it changed, and when the node's key expires, which nobody says.
func (m *member) refreshAlways() {
	expiry := time.NewTimer(time.Hour)
	defer expiry.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-m.dirty:
		case <-expiry.C:
		}
		next := m.refresh()
		expiry.Reset(next)
		select {
		case <-m.ctx.Done():
			return
		case <-time.After(refreshInterval):
		}
	}
}

func (m *member) setDestinations(prefixes []netip.Prefix) { m.wantedIn.Store(&prefixes) }

// own tells whether an address is the node's.
func (m *member) own(address netip.Addr) bool {
	for _, own := range *m.addresses.Load() {
		if own == address {
			return true
		}
	}
	return false
}

// wants tells whether the daemon has a device at an address.
func (m *member) wants(address netip.Addr) bool {
	for _, prefix := range *m.wantedIn.Load() {
		if prefix.Contains(address) {
			return true
		}
	}
	return false
}

// send puts a packet of ours on its way to the tailnet.
func (m *member) send(p []byte) {
	if err := m.tun.InjectOutbound(p); err != nil {
		m.log.Debug("packet not sent", "error", err.Error())
	}
}
