package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestVersion(t *testing.T) {
	output, err := exec.Command(sidecarProgram, "--version").Output()
	must(t, err)
	var hello hello
	if err := json.Unmarshal(output, &hello); err != nil || hello.Protocol != protocolVersion {
		t.Errorf("%s: %v", output, err)
	}
}

func exitCode(t *testing.T, arguments ...string) int {
	t.Helper()
	command := exec.Command(sidecarProgram, arguments...)
	if err := command.Run(); err != nil {
		if exit, ok := err.(*exec.ExitError); ok {
			return exit.ExitCode()
		}
		t.Fatal(err)
	}
	return 0
}

func TestBadStarts(t *testing.T) {
	t.Parallel()
	s := startSidecar(t, nil)
	elsewhere := t.TempDir()
	must(t, os.Chmod(elsewhere, 0o755))
	if code := exitCode(t, "--sockets", filepath.Join(s.sockets, "second"), "--state", s.state); code != exitDirectory {
		t.Errorf("a second sidecar with the same keys: %d", code)
	}
	if code := exitCode(t, "--sockets", elsewhere, "--state", filepath.Join(elsewhere, "k")); code != exitDirectory {
		t.Errorf("sockets that others may use: %d", code)
	}
	if code := exitCode(t, "--sockets", elsewhere); code != exitArguments {
		t.Errorf("an argument is missing: %d", code)
	}
	info, err := os.Stat(filepath.Join(s.sockets, "control"))
	must(t, err)
	if info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the sockets have mode %v", info.Mode())
	}
}

func TestSignalEndsIt(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	s.up("proxy", 1, nil)
	v4, _ := w.peer("peer")
	conn, _ := s.dial("proxy", v4, 7, "")
	must(t, s.process.Process.Signal(syscall.SIGTERM))
	select {
	case <-s.exited:
		if code := s.process.ProcessState.ExitCode(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	case <-time.After(5 * time.Second):
		t.Error("not within 5 s")
	}
	if _, err := io.Copy(io.Discard, conn); err == nil && !hungUp(conn) {
		t.Error("the flow ended in order")
	}
}

func TestIdentitySurvivesARestart(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	before := s.up("proxy", 1, nil)
	s.stop()
	s.start()
	if status, document := s.request("GET", "/nodes/proxy", nil); status != 404 || document["code"] != "no-such-node" {
		t.Errorf("a new sidecar knows the node: %d %v", status, document)
	}
	after := s.up("proxy", 1, nil)
	_ = s.process.Process.Kill()
	<-s.exited
	s.start()
	killed := s.up("proxy", 1, nil)
	if *before.StableID != *after.StableID || *before.StableID != *killed.StableID || before.Addresses[0] != killed.Addresses[0] {
		t.Errorf("%s, then %s, then %s", *before.StableID, *after.StableID, *killed.StableID)
	}
	s.must("POST", "/nodes/proxy/down", nil)
	if status := s.status("proxy"); status.State != "stopped" {
		t.Errorf("down: %+v", status)
	}
	v4, _ := w.peer("peer")
	if _, code := s.dial("proxy", v4, 7, ""); code != replyNoNetwork {
		t.Errorf("a dial while down: %d", code)
	}
	s.must("POST", "/nodes/proxy/up", nil)
	if up := s.running("proxy", 1); *up.StableID != *before.StableID {
		t.Errorf("up: %s", *up.StableID)
	}
	if _, code := s.dial("proxy", v4, 7, ""); code != replyConnected {
		t.Errorf("a dial after up: %d", code)
	}
	s.must("DELETE", "/nodes/proxy?forget=true", nil)
	if fresh := s.up("proxy", 1, nil); *fresh.StableID == *before.StableID {
		t.Error("the forgotten node came back as itself")
	}
}

func TestLoginByURL(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	w.must("require", map[string]any{"login": "url"})
	s.put("proxy", nil)
	waiting := s.wait("proxy", "asked to log in", func(status nodeStatus) bool { return status.LoginURL != nil })
	if waiting.State != "needs-login" {
		t.Errorf("%+v", waiting)
	}
	if answer := s.asker("proxy").ask("peer.", 1); answer != "ServerFailure" {
		t.Errorf("a question before the login: %s", answer)
	}
	w.must("authorize", map[string]any{"url": *waiting.LoginURL})
	in := s.running("proxy", 1)
	if in.LoginURL != nil {
		t.Errorf("logged in, and %s", *in.LoginURL)
	}
	s.must("POST", "/nodes/proxy/logout", nil)
	if out := s.status("proxy"); out.State != "needs-login" || len(out.Addresses) != 0 {
		t.Errorf("logged out: %+v", out)
	}
	s.must("POST", "/nodes/proxy/login", map[string]any{})
	again := s.wait("proxy", "asked again", func(status nodeStatus) bool { return status.LoginURL != nil })
	w.must("authorize", map[string]any{"url": *again.LoginURL})
	if back := s.running("proxy", 1); *back.StableID == *in.StableID {
		t.Error("the identity came back after a logout")
	}
}

func TestWrongKeyAndThenTheRightOne(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	w.must("require", map[string]any{"login": "right-key-0123456789"})
	s.put("proxy", map[string]any{"auth_key": "wrong-key-0123456789"})
	s.wait("proxy", "refused", func(status nodeStatus) bool { return status.State == "needs-login" && status.Error != nil })
	s.must("POST", "/nodes/proxy/login", map[string]any{"auth_key": "right-key-0123456789"})
	if status := s.running("proxy", 1); status.Error != nil {
		t.Errorf("in, and complains %s", *status.Error)
	}
	if log := s.log.String(); strings.Contains(log, "key-0123456789") {
		t.Error("a key is in the log")
	}
	s.put("kitchen", map[string]any{"auth_key": "wrong-key-0123456789"})
	s.wait("kitchen", "refused", func(status nodeStatus) bool { return status.Error != nil })
	s.put("kitchen", map[string]any{"auth_key": "right-key-0123456789"})
	s.running("kitchen", 1)
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	s.up("proxy", 1, nil)
	w.must("expire", map[string]any{"up": true})
	s.wait("proxy", "expired", func(status nodeStatus) bool { return status.State == "expired" })
	w.must("expire", map[string]any{"up": false})
	s.must("POST", "/nodes/proxy/login", map[string]any{})
	s.running("proxy", 1)
}

// Flows do without the control server, and new ones begin; so does a node that starts when it comes back.
func TestControlServerGoesAway(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	s.up("proxy", 1, nil)
	v4, _ := w.peer("peer")
	conn, _ := s.dial("proxy", v4, 7, "")
	w.must("control", map[string]any{"up": false})
	s.put("kitchen", nil)
	time.Sleep(time.Second)
	_, err := io.WriteString(conn, "still there")
	must(t, err)
	must(t, conn.CloseWrite())
	if got := readText(t, conn); got != "still there" {
		t.Errorf("an old flow: %q", got)
	}
	if _, code := s.dial("proxy", v4, 7, ""); code != replyConnected {
		t.Errorf("a new flow: %d", code)
	}
	if status := s.status("kitchen"); status.State == "running" || status.State == "failed" {
		t.Errorf("a node without a control server: %+v", status)
	}
	s.wait("kitchen", "told why", func(status nodeStatus) bool {
		return status.Error != nil && strings.Contains(*status.Error, "connection refused")
	})
	if status := s.status("proxy"); status.State != "running" || status.Error != nil {
		t.Errorf("a node that is in: %+v", status)
	}
	w.must("control", map[string]any{"up": true})
	s.running("kitchen", 1)
}

func TestEvents(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	s.up("first", 1, nil)
	response, err := s.client.Get("http://sidecar/events")
	must(t, err)
	defer response.Body.Close()
	events := make(chan map[string]any, 100)
	go func() {
		lines := bufio.NewScanner(response.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var event map[string]any
			if json.Unmarshal(lines.Bytes(), &event) == nil {
				events <- event
			}
		}
		close(events)
	}()
	expect := func(what string, matches func(map[string]any) bool) {
		t.Helper()
		deadline := time.After(patience)
		for {
			select {
			case event := <-events:
				if matches(event) {
					return
				}
			case <-deadline:
				t.Fatalf("no event: %s", what)
			}
		}
	}
	node := func(name, state string) func(map[string]any) bool {
		return func(event map[string]any) bool {
			status, ok := event["node"].(map[string]any)
			return event["event"] == "node" && ok && status["name"] == name && status["state"] == state
		}
	}
	expect("the node there is", node("first", "running"))
	expect("ready", func(event map[string]any) bool { return event["event"] == "ready" })
	s.put("second", nil)
	expect("a new node", node("second", "running"))
	s.must("POST", "/nodes/second/down", nil)
	expect("a stopped node", node("second", "stopped"))
	s.must("DELETE", "/nodes/second", nil)
	expect("a removed node", func(event map[string]any) bool { return event["event"] == "removed" && event["name"] == "second" })
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	s := startSidecar(t, nil)
	for _, c := range []struct {
		method, path string
		body         any
		status       int
		code         string
	}{
		{"GET", "/nodes/none", nil, 404, "no-such-node"},
		{"POST", "/nodes/none/login", nil, 404, "no-such-node"},
		{"PUT", "/nodes/Bad_Name", map[string]any{}, 400, "bad-request"},
		{"PUT", "/nodes/n", map[string]any{"advertise_routes": []string{"10.0.0.1/8"}}, 400, "bad-request"},
		{"PUT", "/nodes/n", []int{1}, 400, "bad-request"},
	} {
		if status, document := s.request(c.method, c.path, c.body); status != c.status || document["code"] != c.code || document["error"] == "" {
			t.Errorf("%s %s: %d %v", c.method, c.path, status, document)
		}
	}
	if status, document := s.request("GET", "/", nil); status != http.StatusOK || document["protocol"] != 1.0 || document["nodes"] != 0.0 {
		t.Errorf("GET /: %v", document)
	}
}

// A daemon that died is noticed by the end of stdin; its sockets' files stay, and the next sidecar takes them over.
func TestAKilledDaemon(t *testing.T) {
	t.Parallel()
	w := startWorld(t, "peer")
	s := startSidecar(t, w)
	status := s.up("proxy", 1, nil)
	must(t, os.Remove(filepath.Join(s.sockets, "inbound")))
	target := net.JoinHostPort(status.Addresses[0].String(), "80")
	if answer := w.do("tcp", map[string]any{"peer": "peer", "address": target}); answer["error"] != "refused" {
		t.Errorf("nobody takes inbound flows: %v", answer)
	}
	began := time.Now()
	s.stop()
	if time.Since(began) > 3*time.Second {
		t.Errorf("it took %v to end", time.Since(began))
	}
	s.start()
}
