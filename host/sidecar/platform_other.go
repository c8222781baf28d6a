//go:build !linux

package main

import "net"

func coarseTimers() {}

func setSendBuffer(conn *net.UnixConn, size int) { _ = conn.SetWriteBuffer(size) }
