package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The tests run the program itself against the test tailnet of hil/tailnet_world. LOPOWER_SIDECAR and LOPOWER_WORLD name
// programs that are built already, for example with -race.
var sidecarProgram, worldProgram string

const patience = 20 * time.Second

func TestMain(m *testing.M) {
	directory, err := os.MkdirTemp("", "lopower-sidecar-test-")
	if err == nil {
		err = buildPrograms(directory)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(directory)
	os.Exit(code)
}

func buildPrograms(directory string) error {
	if sidecarProgram = os.Getenv("LOPOWER_SIDECAR"); sidecarProgram == "" {
		sidecarProgram = filepath.Join(directory, "sidecar")
		if output, err := exec.Command("./build.sh", sidecarProgram).CombinedOutput(); err != nil {
			return fmt.Errorf("build.sh: %w\n%s", err, output)
		}
	}
	if worldProgram = os.Getenv("LOPOWER_WORLD"); worldProgram == "" {
		worldProgram = filepath.Join(directory, "world")
		source := filepath.Join("..", "..", "hil", "tailnet_world")
		if output, err := exec.Command("./build.sh", worldProgram, source).CombinedOutput(); err != nil {
			return fmt.Errorf("building the test tailnet: %w\n%s", err, output)
		}
	}
	return nil
}

// testWorld is a test tailnet.
type testWorld struct {
	t     *testing.T
	hello struct {
		ControlURL string `json:"control_url"`
		Domain     string `json:"domain"`
		Peers      []struct {
			Name      string       `json:"name"`
			DNSName   string       `json:"dns_name"`
			Addresses []netip.Addr `json:"addresses"`
		} `json:"peers"`
	}
	mu      sync.Mutex
	stdin   io.Writer
	number  int
	waiting map[int]chan map[string]any
}

func startWorld(t *testing.T, peers string) *testWorld {
	t.Helper()
	command := exec.Command(worldProgram, "-peers", peers)
	command.Stderr = os.Stderr
	stdin, err := command.StdinPipe()
	must(t, err)
	stdout, err := command.StdoutPipe()
	must(t, err)
	must(t, command.Start())
	t.Cleanup(func() {
		stdin.Close()
		_ = command.Wait()
	})
	w := &testWorld{t: t, stdin: stdin, waiting: map[int]chan map[string]any{}}
	lines := bufio.NewReader(stdout)
	first, err := lines.ReadBytes('\n')
	must(t, err)
	must(t, json.Unmarshal(first, &w.hello))
	go func() {
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				return
			}
			var answer map[string]any
			if json.Unmarshal(line, &answer) != nil {
				continue
			}
			w.mu.Lock()
			w.waiting[int(answer["id"].(float64))] <- answer
			w.mu.Unlock()
		}
	}()
	return w
}

// do performs an operation; it may fail.
func (w *testWorld) do(operation string, fields map[string]any) map[string]any {
	w.t.Helper()
	answer := make(chan map[string]any, 1)
	command := map[string]any{"op": operation}
	for key, value := range fields {
		command[key] = value
	}
	w.mu.Lock()
	w.number++
	command["id"] = w.number
	w.waiting[w.number] = answer
	line, err := json.Marshal(command)
	if err == nil {
		_, err = w.stdin.Write(append(line, '\n'))
	}
	w.mu.Unlock()
	must(w.t, err)
	select {
	case a := <-answer:
		return a
	case <-time.After(time.Minute):
		w.t.Fatalf("no answer to %s", line)
		return nil
	}
}

// must performs an operation that succeeds.
func (w *testWorld) must(operation string, fields map[string]any) map[string]any {
	w.t.Helper()
	answer := w.do(operation, fields)
	if answer["ok"] != true {
		w.t.Fatalf("%s %v: %v", operation, fields, answer["error"])
	}
	return answer
}

func (w *testWorld) peer(name string) (v4, v6 netip.Addr) {
	w.t.Helper()
	for _, peer := range w.hello.Peers {
		if peer.Name == name {
			return peer.Addresses[0], peer.Addresses[1]
		}
	}
	w.t.Fatalf("no peer %s", name)
	return
}

// testSidecar is a running sidecar with a daemon's sockets. Its handlers may be replaced by with….
type testSidecar struct {
	t        *testing.T
	sockets  string
	state    string
	control  string // the control server's URL
	process  *exec.Cmd
	stdin    io.Closer
	log      *safeBuffer
	client   *http.Client
	exited   chan struct{}
	mu       sync.Mutex
	handle   func(header *proxyHeader, daemon *net.UnixConn)
	verdicts func(frame []byte) (verdict byte, answered bool)
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func startSidecar(t *testing.T, w *testWorld) *testSidecar {
	t.Helper()
	// Not t.TempDir: names of unix sockets are short.
	directory, err := os.MkdirTemp("", "lopower-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(directory) })
	s := &testSidecar{t: t, sockets: filepath.Join(directory, "s"), state: filepath.Join(directory, "k")}
	if w != nil {
		s.control = w.hello.ControlURL
	}
	must(t, os.Mkdir(s.sockets, 0o700))
	s.listen("inbound", s.serveInbound)
	s.listen("echo", s.serveEcho)
	s.client = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(s.sockets, "control"))
		},
	}}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *testSidecar) listen(name string, serve func(*net.UnixConn)) {
	listener, err := net.Listen("unix", filepath.Join(s.sockets, name))
	must(s.t, err)
	s.t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(conn.(*net.UnixConn))
		}
	}()
}

func (s *testSidecar) start() {
	s.t.Helper()
	s.process = exec.Command(sidecarProgram, "--sockets", s.sockets, "--state", s.state, "--debug")
	s.process.Env = append(os.Environ(), "TS_PANIC_IF_HIT_MAIN_CONTROL=1", "TS_DISABLE_PORTMAPPER=1")
	s.log = &safeBuffer{}
	s.process.Stderr = s.log
	stdin, err := s.process.StdinPipe()
	must(s.t, err)
	s.stdin = stdin
	stdout, err := s.process.StdoutPipe()
	must(s.t, err)
	must(s.t, s.process.Start())
	var hello hello
	must(s.t, json.NewDecoder(stdout).Decode(&hello))
	if hello.Protocol != protocolVersion || hello.PID != s.process.Process.Pid || hello.Tailscale == "unknown" {
		s.t.Fatalf("hello: %+v", hello)
	}
	exited := make(chan struct{})
	s.exited = exited
	process := s.process
	go func() {
		_ = process.Wait()
		close(exited)
	}()
}

// stop ends it as the daemon does, and fails if it does not end in time or in order.
func (s *testSidecar) stop() {
	s.stdin.Close()
	select {
	case <-s.exited:
		if code := s.process.ProcessState.ExitCode(); code != 0 && s.process.ProcessState.Sys().(syscall.WaitStatus).Signaled() == false {
			s.t.Errorf("the sidecar ended with %d:\n%s", code, s.log.String())
		}
	case <-time.After(5 * time.Second):
		s.t.Error("the sidecar did not end within 5 s")
		_ = s.process.Process.Kill()
		<-s.exited
	}
	if s.t.Failed() {
		lines := strings.Split(s.log.String(), "\n")
		s.t.Logf("the sidecar's log:\n%s", strings.Join(lines[max(0, len(lines)-60):], "\n"))
	}
}

func (s *testSidecar) withInbound(handle func(header *proxyHeader, daemon *net.UnixConn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handle = handle
}

func (s *testSidecar) withVerdicts(verdicts func(frame []byte) (byte, bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.verdicts = verdicts
}

func (s *testSidecar) serveInbound(daemon *net.UnixConn) {
	defer daemon.Close()
	header, err := readProxyHeader(daemon)
	if err != nil {
		return
	}
	s.mu.Lock()
	handle := s.handle
	s.mu.Unlock()
	if handle != nil {
		handle(header, daemon)
	}
}

func (s *testSidecar) serveEcho(daemon *net.UnixConn) {
	defer daemon.Close()
	buffer := make([]byte, 1<<16)
	for {
		frame, _, err := readFrame(daemon, buffer)
		if err != nil {
			return
		}
		s.mu.Lock()
		verdicts := s.verdicts
		s.mu.Unlock()
		if verdicts == nil {
			continue
		}
		if verdict, ok := verdicts(frame); ok {
			_, _ = daemon.Write(appendFrame(nil, append(bytes.Clone(frame[:4]), verdict)))
		}
	}
}

// request performs a control request and gives its status and document.
func (s *testSidecar) request(method, path string, body any) (int, map[string]any) {
	s.t.Helper()
	var text []byte
	if body != nil {
		var err error
		text, err = json.Marshal(body)
		must(s.t, err)
	}
	request, err := http.NewRequest(method, "http://sidecar"+path, bytes.NewReader(text))
	must(s.t, err)
	response, err := s.client.Do(request)
	must(s.t, err)
	defer response.Body.Close()
	if response.Header.Get("Lopower-Sidecar-Protocol") != "1" {
		s.t.Errorf("%s %s: no protocol header", method, path)
	}
	var document map[string]any
	must(s.t, json.NewDecoder(response.Body).Decode(&document))
	return response.StatusCode, document
}

func (s *testSidecar) must(method, path string, body any) map[string]any {
	s.t.Helper()
	status, document := s.request(method, path, body)
	if status/100 != 2 {
		s.t.Fatalf("%s %s: %d %v", method, path, status, document)
	}
	return document
}

func (s *testSidecar) put(name string, config map[string]any) {
	s.t.Helper()
	full := map[string]any{"control_url": s.control}
	for key, value := range config {
		full[key] = value
	}
	s.must("PUT", "/nodes/"+name, full)
}

func (s *testSidecar) status(name string) nodeStatus {
	s.t.Helper()
	text, err := json.Marshal(s.must("GET", "/nodes/"+name, nil))
	must(s.t, err)
	var status nodeStatus
	must(s.t, json.Unmarshal(text, &status))
	return status
}

// wait waits for a node's status.
func (s *testSidecar) wait(name, what string, reached func(nodeStatus) bool) nodeStatus {
	s.t.Helper()
	var status nodeStatus
	if !eventually(func() bool {
		status = s.status(name)
		return reached(status)
	}) {
		s.t.Fatalf("%s: never %s: %+v", name, what, status)
	}
	return status
}

// up brings a node in, and waits until it sees so many peers.
func (s *testSidecar) up(name string, peers int, config map[string]any) nodeStatus {
	s.t.Helper()
	s.put(name, config)
	return s.running(name, peers)
}

func (s *testSidecar) running(name string, peers int) nodeStatus {
	s.t.Helper()
	return s.wait(name, "running", func(status nodeStatus) bool { return status.State == "running" && status.Peers >= peers })
}

func (s *testSidecar) connect(socket string) *net.UnixConn {
	s.t.Helper()
	conn, err := net.Dial("unix", filepath.Join(s.sockets, socket))
	must(s.t, err)
	s.t.Cleanup(func() { conn.Close() })
	must(s.t, conn.SetDeadline(time.Now().Add(time.Minute)))
	return conn.(*net.UnixConn)
}

func socksMessage(node string, destination netip.AddrPort, first string) []byte {
	b := append([]byte{5, 1, 2, 1, byte(len(node))}, node...)
	b = append(b, 1, '-', 5, 1, 0, 1)
	if destination.Addr().Is6() {
		b[len(b)-1] = 4
	}
	b = append(b, destination.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, destination.Port())
	return append(b, first...)
}

// dial connects through a node, with the flow's first bytes in the same write, and gives the reply code.
func (s *testSidecar) dial(node string, address netip.Addr, port uint16, first string) (*net.UnixConn, byte) {
	s.t.Helper()
	conn := s.connect("socks")
	_, err := conn.Write(socksMessage(node, netip.AddrPortFrom(address, port), first))
	must(s.t, err)
	var reply [14]byte
	_, err = io.ReadFull(conn, reply[:])
	must(s.t, err)
	if !bytes.Equal(reply[:5], []byte{5, 2, 1, 0, 5}) || !bytes.Equal(reply[6:], []byte{0, 1, 0, 0, 0, 0, 0, 0}) {
		s.t.Fatalf("reply % x", reply)
	}
	return conn, reply[5]
}

func (s *testSidecar) openUDP(node string, address netip.Addr, port uint16) (*net.UnixConn, byte) {
	s.t.Helper()
	conn := s.connect("udp")
	source := netip.IPv4Unspecified()
	if address.Is6() {
		source = netip.IPv6Unspecified()
	}
	header := proxyHeader{
		udp: true, source: netip.AddrPortFrom(source, 0), destination: netip.AddrPortFrom(address, port),
		values: map[byte]string{tlvNode: node},
	}
	_, err := conn.Write(header.marshal())
	must(s.t, err)
	var code [1]byte
	_, err = io.ReadFull(conn, code[:])
	must(s.t, err)
	return conn, code[0]
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(reached func() bool) bool {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if reached() {
			return true
		}
	}
	return false
}

// readText reads to the end of file.
func readText(t *testing.T, r io.Reader) string {
	t.Helper()
	text, err := io.ReadAll(r)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	return string(text)
}

// answer sends an answer byte and gives the flow to serve.
func answerWith(code byte, serve func(*net.UnixConn)) func(*proxyHeader, *net.UnixConn) {
	return func(_ *proxyHeader, daemon *net.UnixConn) {
		if _, err := daemon.Write([]byte{code}); err == nil && serve != nil {
			serve(daemon)
		}
	}
}

// echoBack is a device that sends back what it gets, and ends when the peer does.
func echoBack(daemon *net.UnixConn) {
	_, _ = io.Copy(daemon, struct{ io.Reader }{daemon})
	_ = daemon.CloseWrite()
}
