package main

import (
	"context"
	"errors"
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
	// A managed plugin's data directory, as the host sees it, has a path longer
	// than a socket's address may be (108 bytes, unix(7)).
	dir, err := os.Open(data)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	socket := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), controlSocket)
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	return exchange(ctx, &client, method, "http://plugin"+path)
}

// askHTTP is ask for what serves pages at an address (EFS_HTTP, relay --http), which tells and
// takes no orders.
func askHTTP(ctx context.Context, address, path string) ([]byte, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return exchange(ctx, &client, http.MethodGet, "http://"+address+path)
}

func exchange(ctx context.Context, client *http.Client, method, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("%w; does it run? try: docker plugin ls, or of a gateway: systemctl status", err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= http.StatusBadRequest {
		err = errors.New(strings.TrimSpace(string(content)))
	}
	return content, err
}
