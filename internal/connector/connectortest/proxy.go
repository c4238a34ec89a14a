package connectortest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy is a TCP proxy that loses the answer to a chosen request: it passes
// the request on, waits until the server has begun to answer or has hung up,
// and then ends both sides. It sees plain text only, so its server must not
// speak TLS.
type Proxy struct {
	upstream string
	listener net.Listener

	mu    sync.Mutex
	match func(sent []byte) bool
	conns map[net.Conn]bool
	done  bool
	wg    sync.WaitGroup
}

// NewProxy starts a proxy on loopback for the server at upstream. It ends with
// tb.
func NewProxy(tb testing.TB, upstream string) *Proxy {
	tb.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listening: %v", err)
	}
	p := &Proxy{upstream: upstream, listener: l, conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	tb.Cleanup(p.close)
	return p
}

// Addr returns the proxy's host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// LoseAnswer arms the proxy once: the answer to the first chunk of client
// bytes for which match returns true is lost.
func (p *Proxy) LoseAnswer(match func(sent []byte) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.match = match
}

// Containing returns a match for LoseAnswer: bytes that contain s.
func Containing(s string) func([]byte) bool {
	return func(b []byte) bool { return bytes.Contains(b, []byte(s)) }
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.done = true
	_ = p.listener.Close()
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		_ = c.Close()
		return false
	}
	p.conns[c] = true
	return true
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	_ = c.Close()
}

func (p *Proxy) armed(b []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.match == nil || !p.match(b) {
		return false
	}
	p.match = nil
	return true
}

func (p *Proxy) serve(client net.Conn) {
	if !p.track(client) {
		return
	}
	defer p.drop(client)
	var d net.Dialer
	server, err := d.DialContext(context.Background(), "tcp", p.upstream)
	if err != nil {
		return
	}
	if !p.track(server) {
		return
	}
	defer p.drop(server)

	// lose is set before the request is passed on, so that no byte of its
	// answer slips through.
	var mu sync.Mutex
	lose := false
	var back sync.WaitGroup
	back.Go(func() {
		defer func() { _ = client.Close() }()
		buf := make([]byte, 32<<10)
		for {
			n, err := server.Read(buf)
			mu.Lock()
			stop := lose
			mu.Unlock()
			if stop {
				return
			}
			if n > 0 {
				if _, werr := client.Write(buf[:n]); werr != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	buf := make([]byte, 32<<10)
	for {
		n, err := client.Read(buf)
		if n > 0 {
			if p.armed(buf[:n]) {
				mu.Lock()
				lose = true
				mu.Unlock()
			}
			if _, werr := server.Write(buf[:n]); werr != nil {
				break
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				if tc, ok := server.(*net.TCPConn); ok {
					_ = tc.CloseWrite()
				}
			}
			break
		}
	}
	mu.Lock()
	waiting := lose
	mu.Unlock()
	if !waiting {
		_ = server.Close()
	}
	back.Wait()
}
