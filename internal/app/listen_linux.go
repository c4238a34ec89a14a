package app

import (
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// mostSegment is the size of the largest segments that clients are asked to send,
// bytes: that of an Ethernet with jumbo frames. Loopback would take segments of 64
// KiB, of which a connection's buffer holds two: a batch from the same machine then
// now and then waited, with all of it sent and half of it read, until 40 ms later an
// acknowledgement said that there is room.
const mostSegment = 8960

func listenConfig() *net.ListenConfig {
	return &net.ListenConfig{Control: func(_, address string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, mostSegment) }); cerr != nil {
			err = cerr
		}
		if err != nil {
			return fmt.Errorf("setting the size of segments on %s: %w", address, err)
		}
		return nil
	}}
}
