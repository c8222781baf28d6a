// Command world is a test tailnet that needs no root, on loopback unless -address says otherwise: a control server, a DERP
// relay, STUN, and peers, all in one process. It prints one line of JSON when all are in, takes one JSON command a line on
// stdin, and answers each with one line on stdout, in the order in which they end: an answer carries its command's "id". It
// ends with stdin.
//
//	{"id": 1, "op": "fetch", "peer": "peer", "url": "http://kitchen/", "timeout": 5}
//	{"id": 1, "ok": true, "status": 200, "body": "…"}
//
// With -part relay it is the relay alone, and prints where; with -part control and that line as -relay it is the rest. So each
// can be ended by itself, in a network namespace of its own.
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
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"tailscale.com/envknob"
	"tailscale.com/types/logger"
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
	log.SetOutput(io.Discard)
	var o options
	names := flag.String("peers", "peer", "names of the peers, separated by commas; may be empty")
	flag.StringVar(&o.address, "address", "127.0.0.1", "where to listen")
	flag.StringVar(&o.part, "part", "all", "all, relay or control")
	through := flag.String("relay", "", "of -part control: what -part relay printed")
	flag.IntVar(&o.derpPort, "derp-port", 0, "the relay's port; 0: any")
	flag.IntVar(&o.stunPort, "stun-port", 0, "the STUN server's port; 0: any")
	flag.StringVar(&o.domain, "domain", "tail-test.ts.net", "the tailnet's MagicDNS suffix")
	flag.StringVar(&o.directory, "state", "", "directory of the peers' keys; a new one, removed at the end, if empty")
	flag.BoolVar(&o.verbose, "verbose", false, "the library's messages to stderr")
	flag.Parse()
	o.names = strings.FieldsFunc(*names, func(r rune) bool { return r == ',' })
	if o.part == "control" {
		if err := json.Unmarshal([]byte(*through), &o.relay); err != nil {
			fmt.Fprintln(os.Stderr, "-relay:", err)
			os.Exit(2)
		}
	}
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "test tailnet:", err) // the log may be silent
		os.Exit(1)
	}
}

type options struct {
	names              []string
	address, part      string
	relay              relay
	derpPort, stunPort int
	domain, directory  string
	verbose            bool
}

func run(o options) error {
	envknob.SetNoLogsNoSupport()
	for key, value := range map[string]string{"TS_DISABLE_PORTMAPPER": "1", "TS_PANIC_IF_HIT_MAIN_CONTROL": "1"} {
		envknob.Setenv(key, value)
	}
	logf := logger.Discard
	if o.verbose {
		logf = log.Printf
		log.SetOutput(os.Stderr)
	}
	if o.part == "all" && !online() {
		return errors.New("no network of this host is up but loopback, and Tailscale's library waits for one")
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	output := json.NewEncoder(os.Stdout)
	if o.part != "control" {
		var err error
		if o.relay, err = serveRelay(ctx, o.address, o.derpPort, o.stunPort, logf); err != nil {
			return err
		}
	}
	if o.part == "relay" {
		if err := output.Encode(o.relay); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}
	served, err := serveControl(o.address, o.domain, o.relay, logf)
	if err != nil {
		return err
	}
	if o.directory == "" {
		if o.directory, err = os.MkdirTemp("", "lopower-world-"); err != nil {
			return err
		}
		defer os.RemoveAll(o.directory)
	}
	w := &world{directory: o.directory, control: served, peers: map[string]*peer{}}
	hello := announcement{ControlURL: served.url, Domain: o.domain}
	for _, name := range o.names {
		entry, err := w.startPeer(ctx, name, o.verbose)
		if err != nil {
			return fmt.Errorf("peer %s: %w", name, err)
		}
		hello.Peers = append(hello.Peers, entry)
	}
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
