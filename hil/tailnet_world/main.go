// Command world is a test tailnet on loopback that needs no root: a control server, a DERP relay, STUN, and peers, all in
// one process. It prints one line of JSON when all are in, takes one JSON command a line on stdin, and answers each with one
// line on stdout, in the order in which they end: an answer carries its command's "id". It ends with stdin.
//
//	{"id": 1, "op": "fetch", "peer": "peer", "url": "http://kitchen/", "timeout": 5}
//	{"id": 1, "ok": true, "status": 200, "body": "…"}
//
// "ok" is false if the operation failed; "error" then is one of refused, timeout, unreachable, reset, or a text. The operations
// are in operations.go. Each peer serves what services.go lists.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"tailscale.com/envknob"
)

// announcement is the first line on stdout.
type announcement struct {
	ControlURL string      `json:"control_url"`
	Domain     string      `json:"domain"`
	Peers      []peerEntry `json:"peers"`
}

type peerEntry struct {
	Name      string   `json:"name"`
	DNSName   string   `json:"dns_name"`
	Addresses []string `json:"addresses"`
}

// world is the tailnet.
type world struct {
	directory string
	control   *control
	mu        sync.Mutex
	peers     map[string]*peer
}

func main() {
	log.SetFlags(0)
	log.SetOutput(os.Stderr)
	names := flag.String("peers", "peer", "names of the peers, separated by commas")
	domain := flag.String("domain", "tail-test.ts.net", "the tailnet's MagicDNS suffix")
	directory := flag.String("state", "", "directory of the peers' keys; a new one, removed at the end, if empty")
	verbose := flag.Bool("verbose", false, "the library's messages to stderr")
	flag.Parse()
	if err := run(strings.Split(*names, ","), *domain, *directory, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "test tailnet:", err) // the log may be silent
		os.Exit(1)
	}
}

func run(names []string, domain, directory string, verbose bool) error {
	envknob.SetNoLogsNoSupport()
	for key, value := range map[string]string{"TS_DISABLE_PORTMAPPER": "1", "TS_PANIC_IF_HIT_MAIN_CONTROL": "1"} {
		envknob.Setenv(key, value)
	}
	if !online() {
		return errors.New("no network of this host is up but loopback, and Tailscale's library waits for one")
	}
	if directory == "" {
		made, err := os.MkdirTemp("", "lopower-world-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(made)
		directory = made
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served, err := serveControl(ctx, domain, verbose)
	if err != nil {
		return err
	}
	w := &world{directory: directory, control: served, peers: map[string]*peer{}}
	hello := announcement{ControlURL: served.url, Domain: domain}
	for _, name := range names {
		entry, err := w.startPeer(ctx, name, verbose)
		if err != nil {
			return fmt.Errorf("peer %s: %w", name, err)
		}
		hello.Peers = append(hello.Peers, entry)
	}
	output := json.NewEncoder(os.Stdout)
	if err := output.Encode(hello); err != nil {
		return err
	}
	var writing sync.Mutex
	commands := bufio.NewScanner(os.Stdin)
	commands.Buffer(nil, 1<<20)
	for commands.Scan() {
		line := append([]byte(nil), commands.Bytes()...)
		go func() {
			answer := w.perform(ctx, line)
			writing.Lock()
			defer writing.Unlock()
			_ = output.Encode(answer)
		}()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.peers {
		_ = p.server.Close() // what writes to the directory no longer can be removed with it
	}
	return nil // the process ends, and with it all sockets
}

// online reports whether there is an address that the library takes for a network; it asks nobody.
func online() bool {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return true // then let the library find out
	}
	for _, address := range addresses {
		if n, ok := address.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			return true
		}
	}
	return false
}

func (w *world) peerNamed(name string) (*peer, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.peers[name]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("there is no peer %q", name)
}

func (w *world) stateOf(peer string) string { return filepath.Join(w.directory, peer) }
