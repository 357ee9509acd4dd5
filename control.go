package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// askLimit bounds a question to the running process, which answers from memory.
const askLimit = 5 * time.Second

// ask puts a question to the process that has its control socket in the data
// directory, and returns the answer's content.
func ask(ctx context.Context, data, method, path string) ([]byte, error) {
	client, done, err := controlClient(data)
	if err != nil {
		return nil, err
	}
	defer done()
	return exchange(ctx, client, method, controlURL+path)
}

// controlURL stands for whatever listens on the control socket.
const controlURL = "http://plugin"

// controlClient asks on the control socket in a data directory until it is done.
func controlClient(data string) (client *http.Client, done func(), err error) {
	// A managed plugin's data directory, as the host sees it, has a path longer
	// than a socket's address may be (108 bytes, unix(7)).
	dir, err := os.Open(data)
	if err != nil {
		return nil, nil, err
	}
	socket := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), controlSocket)
	client = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	return client, func() { _ = dir.Close() }, nil
}

// askHTTP is ask for what serves pages at an address (EFS_HTTP, relay --http), which tells and
// takes no orders.
func askHTTP(ctx context.Context, address, path string) ([]byte, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return exchange(ctx, &client, http.MethodGet, "http://"+address+path)
}

func exchange(ctx context.Context, client *http.Client, method, url string) ([]byte, error) {
	answer, err := open(ctx, client, method, url)
	if err != nil {
		return nil, err
	}
	defer answer.Close()
	return io.ReadAll(answer)
}

// open asks and returns the answer's content, which the caller closes. A refusal is an error.
func open(ctx context.Context, client *http.Client, method, url string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("%w; does it run? try: docker plugin ls, or of a gateway: systemctl status", err)
	}
	if response.StatusCode < http.StatusBadRequest {
		return response.Body, nil
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, maxRefusal))
	if err == nil {
		err = &refusal{response.StatusCode, strings.TrimSpace(string(content))}
	}
	return nil, err
}

const maxRefusal = 64 << 10

// refusal is an answer that is none.
type refusal struct {
	code int
	text string
}

func (r *refusal) Error() string { return r.text }
