package plugin

import (
	"context"
	"net/http"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// Where docker-volume-efs volumes asks on the control socket.
const (
	// VolumesPath answers a JSON list of [driver.Volume].
	VolumesPath = "/volumes"
	// SizePath takes "volume" and answers a [Size] on each line, the last one with Done or Error.
	SizePath = "/volumes/size"
)

// Size is what a volume takes, so far or at last.
type Size struct {
	tree.Usage
	Done  bool   `json:"done,omitempty"`
	Error string `json:"error,omitempty"`
}

// Inventory is what is listed; [driver.Driver] has it.
type Inventory interface {
	Volumes(ctx context.Context) []driver.Volume
	Size(ctx context.Context, name string, progress func(tree.Usage)) (tree.Usage, error)
}

var _ Inventory = (*driver.Driver)(nil)

// sizeEvery is how often somebody who waits for a size hears how far it is.
const sizeEvery = 500 * time.Millisecond

func serveVolumes(mux *http.ServeMux, inventory Inventory) {
	mux.HandleFunc("GET "+VolumesPath, func(w http.ResponseWriter, r *http.Request) {
		lines(w)(inventory.Volumes(r.Context()))
	})
	mux.HandleFunc("GET "+SizePath, func(w http.ResponseWriter, r *http.Request) {
		send, told := lines(w), time.Now()
		sum, err := inventory.Size(r.Context(), r.URL.Query().Get("volume"), func(u tree.Usage) {
			if time.Since(told) >= sizeEvery {
				send(Size{Usage: u})
				told = time.Now()
			}
		})
		last := Size{Usage: sum, Done: err == nil}
		if err != nil {
			last.Error = err.Error()
		}
		send(last)
	})
}
