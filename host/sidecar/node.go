package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tailscale.com/envknob"
	"tailscale.com/ipn"
)

const logoutTime = 10 * time.Second

// nodeConfig is the body of PUT /nodes/N.
type nodeConfig struct {
	Hostname            string         `json:"hostname"`
	ControlURL          string         `json:"control_url"`
	AuthKey             secret         `json:"auth_key"`
	AdvertiseTags       []string       `json:"advertise_tags"`
	Ephemeral           bool           `json:"ephemeral"`
	AcceptRoutes        bool           `json:"accept_routes"`
	ExitNode            string         `json:"exit_node"`
	AdvertiseRoutes     []netip.Prefix `json:"advertise_routes"`
	InboundDestinations []netip.Prefix `json:"inbound_destinations"`
}

func (c *nodeConfig) check() error {
	for _, prefixes := range [][]netip.Prefix{c.AdvertiseRoutes, c.InboundDestinations} {
		for _, prefix := range prefixes {
			if !prefix.IsValid() || prefix != prefix.Masked() {
				return fmt.Errorf("%s is no prefix: it has bits behind its length", prefix)
			}
		}
	}
	return nil
}

// masked are the prefs that follow from the configuration. Starting tsnet resets them, and a logout forgets them.
func (c *nodeConfig) masked() *ipn.MaskedPrefs {
	return &ipn.MaskedPrefs{
		HostnameSet: true, AdvertiseTagsSet: true, RouteAllSet: true, AdvertiseRoutesSet: true, WantRunningSet: true,
		Prefs: ipn.Prefs{
			Hostname: c.Hostname, AdvertiseTags: c.AdvertiseTags, RouteAll: c.AcceptRoutes,
			AdvertiseRoutes: c.AdvertiseRoutes, WantRunning: true,
		},
	}
}

// wanted is what the daemon last asked of a node.
type wanted int

const (
	wantRunning wanted = iota
	wantStopped
	wantLoggedOut
)

// node is one node of ours, in the tailnet or not.
type node struct {
	name    string
	sidecar *sidecar
	member  atomic.Pointer[member] // nil: not started

	operation sync.Mutex // one change of configuration or life at a time

	mu      sync.Mutex // guards the following; never held while waiting
	config  nodeConfig
	wanted  wanted
	failure string
	status  nodeStatus
}

func newNode(s *sidecar, name string, config nodeConfig) *node {
	n := &node{name: name, sidecar: s, config: config}
	n.status = n.emptyStatus("starting")
	return n
}

func (n *node) snapshot() (nodeConfig, wanted, string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.config, n.wanted, n.failure
}

// currentStatus is the last one told.
func (n *node) currentStatus() nodeStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.status
}

// publish tells the node's status to whoever follows events, if it changed.
func (n *node) publish(status nodeStatus) {
	n.mu.Lock()
	changed := !reflect.DeepEqual(n.status, status)
	n.status = status
	n.mu.Unlock()
	if changed {
		n.sidecar.events.node(status)
	}
}

func (n *node) publishNotRunning() {
	_, want, failure := n.snapshot()
	state := "stopped"
	switch {
	case failure != "":
		state = "failed"
	case want == wantLoggedOut:
		state = "needs-login"
	case want == wantRunning:
		state = "starting"
	}
	status := n.emptyStatus(state)
	if failure != "" {
		status.Error = &failure
	}
	n.publish(status)
}

// configure takes a configuration over. Whether the node gets into the tailnet with it is told by events.
func (n *node) configure(config nodeConfig) {
	n.sidecar.secrets.add(config.AuthKey)
	n.operation.Lock()
	defer n.operation.Unlock()
	n.mu.Lock()
	old := n.config
	n.config = config
	want, failure := n.wanted, n.failure
	n.mu.Unlock()
	if want != wantRunning {
		n.publishNotRunning()
		return
	}
	m := n.member.Load()
	state := n.currentStatus().State
	waits := failure != "" || state == "needs-login" || state == "expired"
	newKey := config.AuthKey != "" && config.AuthKey != old.AuthKey
	if m == nil || old.ControlURL != config.ControlURL || old.Ephemeral != config.Ephemeral || waits && newKey {
		n.restart(state == "expired" && newKey)
		return
	}
	m.setDestinations(config.InboundDestinations)
	ctx, cancel := context.WithTimeout(m.ctx, requestTime)
	defer cancel()
	if _, err := m.local.EditPrefs(ctx, config.masked()); err != nil {
		m.log.Warn("the configuration was not taken over", "error", err.Error())
		m.complain(err.Error())
	}
	m.applyExitNode(ctx)
	m.changed()
}

// restart starts the node's member anew. With login, it logs in even if it has a key already. n.operation is held.
func (n *node) restart(login bool) {
	n.close()
	n.mu.Lock()
	n.wanted, n.failure = wantRunning, ""
	config := n.config
	n.mu.Unlock()
	n.publishNotRunning()
	n.sidecar.memory.adjust()

	n.sidecar.starting.Lock()
	defer n.sidecar.starting.Unlock()
	envknob.Setenv("TSNET_FORCE_LOGIN", map[bool]string{true: "true", false: ""}[login])
	m, err := startMember(n, config)
	if err != nil {
		n.sidecar.log.Error("the node did not start", "node", n.name, "error", err.Error())
		n.mu.Lock()
		n.failure = n.sidecar.secrets.redact(err.Error())
		n.mu.Unlock()
		n.publishNotRunning()
		return
	}
	n.member.Store(m)
	m.begin()
}

// close stops the member, if there is one; all its flows are reset. n.operation is held.
func (n *node) close() {
	if m := n.member.Swap(nil); m != nil {
		m.close()
	}
}

// login begins a login: with a key, or by URL.
func (n *node) login(authKey secret) {
	n.sidecar.secrets.add(authKey)
	n.operation.Lock()
	defer n.operation.Unlock()
	n.mu.Lock()
	n.config.AuthKey = authKey
	n.mu.Unlock()
	n.restart(true)
}

// stop takes the node out of the tailnet; its identity stays.
func (n *node) stop(want wanted) {
	n.operation.Lock()
	defer n.operation.Unlock()
	n.close()
	n.mu.Lock()
	n.wanted, n.failure = want, ""
	n.mu.Unlock()
	n.publishNotRunning()
}

// start brings a stopped node in again.
func (n *node) start() {
	n.operation.Lock()
	defer n.operation.Unlock()
	if n.member.Load() == nil {
		n.restart(false)
	}
}

// logout gives the node's identity up.
func (n *node) logout() error {
	n.operation.Lock()
	var err error
	m := n.member.Load()
	if m == nil {
		// It takes a running member to tell the control server.
		if stored, _ := n.hasState(); stored {
			n.restart(false)
			m = n.member.Load()
		}
	}
	if m != nil {
		ctx, cancel := context.WithTimeout(m.ctx, logoutTime)
		err = m.local.Logout(ctx)
		cancel()
	}
	n.mu.Lock()
	n.config.AuthKey = ""
	n.mu.Unlock()
	n.operation.Unlock()
	if err != nil {
		return err
	}
	n.stop(wantLoggedOut)
	return nil
}

// forget removes what was stored of the node's identities.
func (n *node) forget() error { return os.RemoveAll(n.directory()) }

func (n *node) directory() string { return filepath.Join(n.sidecar.state, n.name) }

// stateDirectory is the place of one identity: a node has one with each control server.
func (n *node) stateDirectory(config nodeConfig) string {
	sum := sha256.Sum256([]byte(config.ControlURL))
	return filepath.Join(n.directory(), hex.EncodeToString(sum[:8]))
}

func (n *node) hasState() (bool, error) {
	config, _, _ := n.snapshot()
	_, err := os.Stat(filepath.Join(n.stateDirectory(config), "tailscaled.state"))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// parseConfig reads a configuration, the defaults where a key is missing.
func parseConfig(name string, body []byte) (nodeConfig, error) {
	config := nodeConfig{Hostname: name, AcceptRoutes: true}
	if err := json.Unmarshal(body, &config); err != nil {
		return config, err
	}
	if config.Hostname == "" {
		config.Hostname = name
	}
	config.AdvertiseRoutes = slices.Clone(config.AdvertiseRoutes)
	return config, config.check()
}
