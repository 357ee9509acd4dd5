package plugin

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
)

// Status is what the control socket answers to /status.json.
type Status struct {
	Version string `json:"version"`
	driver.Overview
}

// ServeControl answers people's commands, such as docker-volume-efs status, on
// the control socket until the listener is closed.
func ServeControl(listener net.Listener, version string, overview func() driver.Overview) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// An asker that has gone away is no trouble of ours.
		_ = json.NewEncoder(w).Encode(Status{Version: version, Overview: overview()})
	})
	if err := http.Serve(listener, mux); !errors.Is(err, net.ErrClosed) { //nolint:gosec // a Unix socket that only root may use
		return err
	}
	return nil
}
