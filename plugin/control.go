package plugin

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
)

// Status is what the control socket answers to /status.json.
type Status struct {
	Version string `json:"version"`
	driver.Overview
}

// Controlled is what people's commands are about; [driver.Driver] has it.
type Controlled interface {
	Overview() driver.Overview
	// Drain leaves a zone's mount targets, or lets them be used again.
	Drain(zone string, on bool) error
}

var _ Controlled = (*driver.Driver)(nil)

// ServeControl answers people's commands, such as docker-volume-efs status, on
// the control socket until the listener is closed.
func ServeControl(listener net.Listener, version string, controlled Controlled) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// An asker that has gone away is no trouble of ours.
		_ = json.NewEncoder(w).Encode(Status{Version: version, Overview: controlled.Overview()})
	})
	mux.HandleFunc("POST /drain", func(w http.ResponseWriter, r *http.Request) {
		on, err := strconv.ParseBool(r.URL.Query().Get("on"))
		if err == nil {
			err = controlled.Drain(r.URL.Query().Get("zone"), on)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	if err := http.Serve(listener, mux); !errors.Is(err, net.ErrClosed) { //nolint:gosec // a Unix socket that only root may use
		return err
	}
	return nil
}
