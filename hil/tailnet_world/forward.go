package main

import (
	"context"
	"io"
	"net"
	"time"
)

// forward gives programs on this machine a way to an address in the tailnet, from a peer: what is sent to the port of
// loopback in the answer, TCP and UDP alike, goes there.
func forward(w *world, _ context.Context, c *command) (answer, error) {
	p, err := w.peerNamed(c.Peer)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	local := listener.Addr().(*net.TCPAddr)
	datagrams, err := net.ListenUDP("udp", &net.UDPAddr{IP: local.IP, Port: local.Port})
	if err != nil {
		listener.Close()
		return nil, err
	}
	go forwardStreams(p, listener, c.Address)
	go forwardDatagrams(p, datagrams, c.Address)
	return answer{"port": local.Port}, nil
}

func dialFrom(p *peer, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return p.dial(ctx, network, address)
}

func forwardStreams(p *peer, listener net.Listener, address string) {
	for {
		near, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer near.Close()
			far, err := dialFrom(p, "tcp", address)
			if err != nil {
				return
			}
			defer far.Close()
			go func() {
				_, _ = io.Copy(far, near)
				_ = far.(interface{ CloseWrite() error }).CloseWrite()
			}()
			_, _ = io.Copy(near, far)
		}()
	}
}

// forwardDatagrams gives each sender a flow of its own, as a network would.
func forwardDatagrams(p *peer, near *net.UDPConn, address string) {
	flows := map[string]net.Conn{}
	buffer := make([]byte, 1<<16)
	for {
		n, sender, err := near.ReadFromUDP(buffer)
		if err != nil {
			return
		}
		far := flows[sender.String()]
		if far == nil {
			if far, err = dialFrom(p, "udp", address); err != nil {
				continue
			}
			flows[sender.String()] = far
			go func() {
				received := make([]byte, 1<<16)
				for {
					n, err := readDatagram(context.Background(), far, received)
					if err != nil {
						return
					}
					_, _ = near.WriteToUDP(received[:n], sender)
				}
			}()
		}
		_, _ = far.Write(buffer[:n])
	}
}
