// Command lopower-sidecar holds the proxy's nodes in a tailnet for the lopower daemon, behind unix sockets.
// docs/sidecar-protocol.md says what it does; all that is decided is decided by the daemon.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"tailscale.com/envknob"
)

const (
	protocolVersion = 1
	version         = "0.1.0"

	exitArguments = 2
	exitDirectory = 3

	// A packet passes seven goroutines, and with several processors most of these steps wake a thread: a fifth of the CPU. One is
	// enough: the daemon, through which all bytes pass, has one thread, and it needs more of it than we do.
	processors = 1

	// The daemon kills us after 5 s.
	shutdownTime = 4 * time.Second
)

// What tsnet would take from the environment: the daemon says all of this in control requests.
var ignoredEnvironment = []string{
	"TS_AUTHKEY", "TS_AUTH_KEY", "TS_CONTROL_URL", "TS_CLIENT_ID", "TS_CLIENT_SECRET", "TS_ID_TOKEN", "TS_AUDIENCE",
}

// hello is the one line on stdout, and the answer to GET /.
type hello struct {
	Protocol  int    `json:"protocol"`
	Version   string `json:"version"`
	Tailscale string `json:"tailscale"`
	PID       int    `json:"pid"`
}

func sayHello() hello {
	return hello{Protocol: protocolVersion, Version: version, Tailscale: tailscaleVersion(), PID: os.Getpid()}
}

// tailscaleVersion is that of the module built in.
func tailscaleVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == "tailscale.com" && len(module.Version) > 1 {
				return module.Version[1:]
			}
		}
	}
	return "unknown"
}

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(arguments []string, stdin io.Reader, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("lopower-sidecar", flag.ContinueOnError)
	flags.SetOutput(stderr)
	sockets := flags.String("sockets", "", "directory of the unix sockets")
	state := flags.String("state", "", "directory of the nodes' keys")
	verbose := flags.Bool("debug", false, "log the Tailscale library's messages too")
	showVersion := flags.Bool("version", false, "print the versions and exit")
	if err := flags.Parse(arguments); err != nil {
		return exitArguments
	}
	if *showVersion {
		_ = json.NewEncoder(stdout).Encode(sayHello())
		return 0
	}
	if *sockets == "" || *state == "" || flags.NArg() > 0 {
		fmt.Fprintln(stderr, "usage: lopower-sidecar --sockets DIR --state DIR [--debug]")
		return exitArguments
	}

	coarseTimers()
	runtime.GOMAXPROCS(processors)
	log, secrets := newLog(stderr, *verbose)
	unix.Umask(0o077)
	for _, name := range ignoredEnvironment {
		_ = os.Unsetenv(name)
	}
	envknob.SetNoLogsNoSupport()

	lock, err := openDirectories(*sockets, *state)
	if err != nil {
		log.Error("cannot start", "error", err.Error())
		return exitDirectory
	}
	defer lock.Close()
	s := newSidecar(*sockets, *state, log, secrets, *verbose)
	if err := s.listen(); err != nil {
		log.Error("cannot listen", "error", err.Error())
		return exitDirectory
	}
	if err := json.NewEncoder(stdout).Encode(sayHello()); err != nil {
		log.Warn("nobody reads the hello", "error", err.Error())
	}

	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	// A daemon that died takes neither its sockets' peers nor their log's reader for granted.
	signal.Ignore(syscall.SIGPIPE)
	orphaned := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		close(orphaned)
	}()
	select {
	case <-end:
	case <-orphaned:
	}
	log.Info("stopping")
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
	defer cancel()
	if err := s.shutdown(ctx); err != nil {
		log.Warn("some nodes did not stop in time", "error", err.Error())
	}
	return 0
}

// openDirectories makes and checks both directories, and takes the lock that keeps a second sidecar from the keys.
func openDirectories(sockets, state string) (*os.File, error) {
	for _, directory := range []string{sockets, state} {
		if err := openDirectory(directory); err != nil {
			return nil, err
		}
	}
	lock, err := os.OpenFile(filepath.Join(state, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is in use by another sidecar", state)
		}
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	return lock, nil
}

func openDirectory(directory string) error {
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(directory)
	if err != nil {
		return err
	}
	switch owner, ok := info.Sys().(*syscall.Stat_t); {
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", directory)
	case !ok || int(owner.Uid) != os.Getuid():
		return fmt.Errorf("%s belongs to another user", directory)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s may be used by others (mode %04o): chmod 700 it", directory, info.Mode().Perm())
	}
	return nil
}
