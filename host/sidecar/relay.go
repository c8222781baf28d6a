package main

import (
	"context"
	"io"
	"net"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"tailscale.com/wgengine/netstack"
)

const (
	// An idle flow holds a small buffer for each direction; a busy one borrows a large one.
	idleBuffer = 2 << 10
	busyBuffer = 64 << 10

	keepaliveIdle     = 10 * time.Minute
	keepaliveInterval = 75 * time.Second
	keepaliveCount    = 9

	// What the kernel may hold on the way to the daemon, for a flow that has relayed so much already, and for so many flows at a
	// time: a daemon that finds more reads more at once, which halves its share of the CPU. A thousand flows to a device that
	// takes nothing must not hold as much each.
	largeSocketBuffer = 1 << 20
	largeSocketAfter  = 1 << 20
	maxLargeSockets   = 64

	watchAfter = 100 * time.Millisecond

	drainPause = 200 * time.Millisecond

	// The stack holds 12 KB of a connection that we were the first to close for so long, and its port: by default a minute, which
	// at 900 connections a second is 650 MB and more ports than there are. This is long enough to repeat the last ACK when the
	// peer's FIN comes again (after 0.2 s, 0.6 s, 1.4 s, 3 s); stray segments are WireGuard's replay window's to stop.
	timeWait = 5 * time.Second

	// A fixed receive window. WireGuard's implementation takes 64 KB for each packet on its way through the node, however
	// small: the stack's own 8 MB would be 400 MB of them, or, under the memory limit, a collector that never rests (10 to
	// 15 s of CPU per GB instead of 6). 1 MB is 80 Mbit/s at 100 ms.
	receiveWindow = 1 << 20
)

var busyBuffers = sync.Pool{New: func() any { b := make([]byte, busyBuffer); return &b }}

// largeSockets counts the flows whose way to the daemon holds largeSocketBuffer.
var largeSockets atomic.Int64

// remoteStream is the tailnet's side of a flow: a TCP connection of the node's stack, or TLS over one.
type remoteStream interface {
	net.Conn
	CloseWrite() error
}

// relay moves bytes between the daemon and the tailnet until both directions have ended or one side reset, as the
// protocol's "The stream" has it. conn is the connection itself, beneath TLS if there is any; first is what the daemon
// sent already. It returns when the flow is over, both sides closed.
func relay(ctx context.Context, daemon *net.UnixConn, remote remoteStream, conn net.Conn, first []byte, relayed *atomic.Int64) {
	relayed.Add(flowBytes)
	var reset sync.Once
	resetBoth := func() {
		reset.Do(func() {
			abort(conn)
			daemon.Close()
		})
	}
	defer context.AfterFunc(ctx, resetBoth)()

	var ourEnd atomic.Bool // we have shut our writing side towards the daemon
	var up sync.WaitGroup
	up.Add(1)
	flowWorkers.run(func() {
		defer up.Done()
		if len(first) > 0 {
			if _, err := remote.Write(first); err != nil {
				resetBoth()
				return
			}
			relayed.Add(int64(len(first)))
		}
		err := copyStream(remote, daemon, relayed, nil)
		if err == nil && (ourEnd.Load() || !hungUp(daemon)) {
			err = remote.CloseWrite()
		} else if err == nil {
			err = net.ErrClosed
		}
		if err != nil {
			resetBoth()
		}
	})
	large := false
	defer func() {
		if large {
			largeSockets.Add(-1)
		}
	}()
	enlarge := func() {
		if large = enter(&largeSockets, maxLargeSockets); large {
			setSendBuffer(daemon, largeSocketBuffer)
		}
	}
	if err := copyStream(daemon, remote, relayed, enlarge); err != nil {
		resetBoth()
	} else {
		ourEnd.Store(true)
		_ = daemon.CloseWrite() // fails if the daemon closed: then the other direction says so
	}
	up.Wait()
	remote.Close()
	daemon.Close()
}

// copyStream copies until end of file (nil) or an error. It calls many, if there is one, once it has copied largeSocketAfter
// bytes.
func copyStream(to io.Writer, from io.Reader, relayed *atomic.Int64, many func()) error {
	copied := 0
	idle := make([]byte, idleBuffer)
	var busy *[]byte
	defer func() {
		if busy != nil {
			busyBuffers.Put(busy)
		}
	}()
	for {
		buffer := idle
		if busy != nil {
			buffer = *busy
		}
		n, err := from.Read(buffer)
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return err
			}
			relayed.Add(int64(n))
			if copied += n; many != nil && copied >= largeSocketAfter {
				many()
				many = nil
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case busy == nil && n == len(idle):
			busy = busyBuffers.Get().(*[]byte)
		case busy != nil && n < len(idle):
			busyBuffers.Put(busy)
			busy = nil
		}
	}
}

// hungUp tells whether the other side closed a socket of whose data we have seen the end, or only shut it down.
func hungUp(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	closed := true
	return raw.Control(func(fd uintptr) { closed = descriptorHungUp(fd) }) != nil || closed
}

func descriptorHungUp(fd uintptr) bool {
	poll := []unix.PollFd{{Fd: int32(fd)}}
	for {
		_, err := unix.Poll(poll, 0)
		if err != unix.EINTR {
			return err != nil || poll[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		}
	}
}

// watchHangup calls closed if the daemon closes the socket before stop is called, watchAfter later at the earliest: most dials
// are over by then and need no watching. It takes no data from the socket.
func watchHangup(daemon *net.UnixConn, closed func()) (stop func()) {
	stopWatching := make(chan func(), 1)
	timer := time.AfterFunc(watchAfter, func() { stopWatching <- watchHangupNow(daemon, closed) })
	return func() {
		if !timer.Stop() {
			(<-stopWatching)()
		}
	}
}

func watchHangupNow(daemon *net.UnixConn, closed func()) (stop func()) {
	raw, err := daemon.SyscallConn()
	if err != nil {
		closed()
		return func() {}
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		if raw.Read(descriptorHungUp) == nil {
			closed()
		}
	}()
	return func() {
		_ = daemon.SetReadDeadline(time.Unix(1, 0))
		<-over
		_ = daemon.SetReadDeadline(time.Time{})
	}
}

// endpointOf is gVisor's endpoint beneath a connection, nil if there is none. gonet offers neither RST nor keepalive and
// keeps the endpoint to itself; TestReset fails if its field ever changes.
func endpointOf(conn net.Conn) tcpip.Endpoint {
	stream, ok := conn.(*gonet.TCPConn)
	if !ok {
		return nil
	}
	endpoint, _ := hiddenField[tcpip.Endpoint](stream, "ep")
	return endpoint
}

// stackOf is gVisor's stack beneath a node, nil if there is none: Tailscale offers no options of it. TestTimeWait fails if its
// field ever changes.
func stackOf(node *netstack.Impl) *stack.Stack {
	s, _ := hiddenField[*stack.Stack](node, "ipstack")
	return s
}

// hiddenField reads a field of a structure that its package keeps to itself; false if there is none of that name and type.
func hiddenField[T any](structure any, name string) (value T, ok bool) {
	field := reflect.ValueOf(structure).Elem().FieldByName(name)
	if !field.IsValid() || field.Type() != reflect.TypeFor[T]() {
		return value, false
	}
	return *(*T)(unsafe.Pointer(field.UnsafeAddr())), true
}

// tuneStack bounds what the stack keeps of connections that are over.
func tuneStack(node *netstack.Impl) {
	if s := stackOf(node); s != nil {
		option := tcpip.TCPTimeWaitTimeoutOption(timeWait)
		_ = s.SetTransportProtocolOption(tcp.ProtocolNumber, &option)
	}
}

// abort ends a connection with a RST.
func abort(conn net.Conn) {
	if endpoint := endpointOf(conn); endpoint != nil {
		endpoint.Abort()
	}
	_ = conn.SetDeadline(time.Unix(1, 0)) // wakes who reads or writes
	conn.Close()
}

// drain waits until the stack has nothing more to send on a closed connection, which the peer may be slow to take.
func drain(ctx context.Context, conn net.Conn) {
	endpoint := endpointOf(conn)
	if endpoint == nil {
		return
	}
	wait := time.NewTimer(0)
	defer wait.Stop()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, drainPause) {
		switch tcp.EndpointState(endpoint.State()) {
		case tcp.StateClose, tcp.StateTimeWait, tcp.StateError, tcp.StateInitial:
			return
		}
		wait.Reset(pause)
		select {
		case <-wait.C:
		case <-ctx.Done():
			return
		}
	}
}

// tune bounds what a connection may have in flight towards us, and finds out about peers that vanished.
func tune(conn net.Conn) {
	endpoint := endpointOf(conn)
	if endpoint == nil {
		return
	}
	idle, interval := tcpip.KeepaliveIdleOption(keepaliveIdle), tcpip.KeepaliveIntervalOption(keepaliveInterval)
	_ = endpoint.SetSockOpt(&idle)
	_ = endpoint.SetSockOpt(&interval)
	_ = endpoint.SetSockOptInt(tcpip.KeepaliveCountOption, keepaliveCount)
	endpoint.SocketOptions().SetKeepAlive(true)
	endpoint.SocketOptions().SetReceiveBufferSize(receiveWindow, true)
}
