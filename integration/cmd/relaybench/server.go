package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

const (
	// headerSize is an RPC record mark, then how many bytes of payload follow and how many
	// are wanted back. The mark's highest bit tells a real RPC record from a request of
	// this benchmark.
	headerSize = 12
	lastRecord = 1 << 31
	// maxCall is more than a health check's NULL call.
	maxCall = 256
	// maxTransfer is the largest payload, NFS's usual rsize and wsize.
	maxTransfer = 1 << 20
)

// runServer answers requests until it is killed. It prints its address first. It also answers
// NFS's NULL call, by which a relay sees that a mount target is well.
func runServer() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if err := answer(conn); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				fmt.Fprintln(os.Stderr, "server:", err)
			}
		}()
	}
}

func answer(conn net.Conn) error {
	reader := bufio.NewReaderSize(conn, headerSize)
	payload := make([]byte, maxTransfer)
	var header [headerSize]byte
	for {
		if _, err := io.ReadFull(reader, header[:4]); err != nil {
			return ignoreReset(err)
		}
		mark := binary.BigEndian.Uint32(header[:])
		if mark&lastRecord != 0 {
			if err := answerNull(conn, reader, mark&^lastRecord); err != nil {
				return err
			}
			continue
		}
		if _, err := io.ReadFull(reader, header[4:]); err != nil {
			return ignoreReset(err)
		}
		sent, wanted := binary.BigEndian.Uint32(header[4:]), binary.BigEndian.Uint32(header[8:])
		if sent > maxTransfer || wanted > maxTransfer {
			return fmt.Errorf("request of %d and %d bytes", sent, wanted)
		}
		if _, err := io.ReadFull(reader, payload[:sent]); err != nil {
			return ignoreReset(err)
		}
		if _, err := conn.Write(payload[:wanted]); err != nil {
			return ignoreReset(err)
		}
	}
}

// ignoreReset: a peer that ends with requests under way resets its connections.
func ignoreReset(err error) error {
	var op *net.OpError
	if errors.As(err, &op) || errors.Is(err, io.ErrUnexpectedEOF) {
		return io.EOF
	}
	return err
}

// answerNull accepts any call: MSG_ACCEPTED, no verifier, SUCCESS (RFC 5531 section 9).
func answerNull(conn net.Conn, reader io.Reader, size uint32) error {
	if size < 4 || size > maxCall {
		return fmt.Errorf("RPC record of %d bytes", size)
	}
	call := make([]byte, size)
	if _, err := io.ReadFull(reader, call); err != nil {
		return ignoreReset(err)
	}
	const replySize = 24
	reply := make([]byte, 4+replySize)
	binary.BigEndian.PutUint32(reply, lastRecord|replySize)
	copy(reply[4:], call[:4])
	binary.BigEndian.PutUint32(reply[8:], 1)
	_, err := conn.Write(reply)
	return err
}
