package main

import (
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// A sleep may take this much longer, nanoseconds; the system's default is 50 µs. While traffic flows, Go's runtime has a
// thread that looks every 20 µs whether another one hangs in a system call, which was a fifth of the sidecar's CPU, and with 1 ms
// still 6 %. Timers here are for losses, pauses and limits; what arrives wakes by itself.
const timerSlack = 5_000_000

// coarseTimers has all threads sleep in larger steps. A thread has its slack from the one that made it, and the runtime's
// first threads are older than main: so the program starts itself once more, with the slack it wants.
func coarseTimers() {
	if slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || slack >= timerSlack {
		return
	}
	runtime.LockOSThread()
	if unix.Prctl(unix.PR_SET_TIMERSLACK, timerSlack, 0, 0, 0) == nil {
		_ = unix.Exec("/proc/self/exe", os.Args, os.Environ()) // without /proc it goes on as it is
	}
	runtime.UnlockOSThread()
}

// setSendBuffer bounds what the kernel holds of a socket's data: as asked for with the right to it, else up to the system's
// net.core.wmem_max.
func setSendBuffer(conn *net.UnixConn, size int) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, size) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, size)
		}
	})
}
