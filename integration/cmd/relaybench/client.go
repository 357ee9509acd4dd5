package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// small is a request and an answer as those for a file's attributes.
	small = 128
	// outstanding requests of a bulk transfer.
	outstanding = 8
	dialLimit   = 10 * time.Second
	// openAtOnce is how many idle connections are made at once.
	openAtOnce = 32
)

func request(sent, wanted int) []byte {
	data := make([]byte, headerSize+sent)
	binary.BigEndian.PutUint32(data[4:], uint32(sent))
	binary.BigEndian.PutUint32(data[8:], uint32(wanted))
	return data
}

func dial(addr string) (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", addr, dialLimit)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(dialLimit)); err != nil {
		return nil, err
	}
	if err := exchange(conn, request(0, small), make([]byte, small)); err != nil {
		return nil, fmt.Errorf("the first request: %w", err)
	}
	return conn, conn.SetDeadline(time.Time{})
}

func exchange(conn net.Conn, ask, answer []byte) error {
	if _, err := conn.Write(ask); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, answer)
	return err
}

// pingPong exchanges small messages, one at a time, and returns the median and the 99th
// percentile of how long one took.
func pingPong(addr string, lasts time.Duration) (p50, p99 time.Duration, err error) {
	conn, err := dial(addr)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	ask, answer := request(small-headerSize, small), make([]byte, small)
	var took []time.Duration
	for end := time.Now().Add(lasts); time.Now().Before(end); {
		began := time.Now()
		if err := exchange(conn, ask, answer); err != nil {
			return 0, 0, err
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)/2], took[len(took)*99/100], nil
}

// bulk moves 1 MiB pieces with eight requests outstanding, and returns the bytes of payload.
func bulk(addr string, write bool, lasts time.Duration) (bytes int64, took time.Duration, err error) {
	conn, err := dial(addr)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	ask, answer := request(0, maxTransfer), make([]byte, maxTransfer)
	if write {
		ask, answer = request(maxTransfer, small), make([]byte, small)
	}
	slots := make(chan struct{}, outstanding)
	failed := make(chan error, 1)
	began := time.Now()
	go func() {
		defer close(slots)
		for time.Since(began) < lasts {
			slots <- struct{}{}
			if _, err := conn.Write(ask); err != nil {
				failed <- err
				return
			}
		}
	}()
	for range slots {
		if _, err := io.ReadFull(conn, answer); err != nil {
			return 0, 0, err
		}
		bytes += maxTransfer
	}
	select {
	case err := <-failed:
		return 0, 0, err
	default:
		return bytes, time.Since(began), nil
	}
}

// open makes connections on which one small message has passed.
func open(addr string, count int) (conns []net.Conn, err error) {
	var (
		work sync.WaitGroup
		mu   sync.Mutex // guards conns and err
	)
	turns := make(chan struct{}, openAtOnce)
	for range count {
		turns <- struct{}{}
		work.Go(func() {
			defer func() { <-turns }()
			conn, dialErr := dial(addr)
			mu.Lock()
			defer mu.Unlock()
			if dialErr != nil {
				err = fmt.Errorf("connection %d: %w", len(conns), dialErr)
				return
			}
			conns = append(conns, conn)
		})
	}
	work.Wait()
	if err != nil {
		closeAll(conns)
	}
	return conns, err
}

func closeAll(conns []net.Conn) {
	for _, conn := range conns {
		_ = conn.Close()
	}
}
