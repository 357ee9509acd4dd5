package plugin

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
)

// controlTimeout is for a question's head; who asks is on this host.
const controlTimeout = 5 * time.Second

// Controlled is what people's commands change; [driver.Driver] has it.
type Controlled interface {
	// Drain leaves a zone's mount targets, or lets them be used again.
	Drain(zone string, on bool) error
	// Trash lists removed volumes, Restore brings one back under its own or another name, and
	// EmptyTrash deletes those named, or all older ones. Trash and EmptyTrash do what they can, also
	// if they fail.
	Trash(ctx context.Context) ([]driver.Trashed, error)
	Restore(ctx context.Context, what, as string) (name string, err error)
	EmptyTrash(ctx context.Context, entries []string, age time.Duration) (deleted int, err error)
	// Preempt takes an exclusive volume from a dead host.
	Preempt(ctx context.Context, volume string) (host string, err error)
	Inventory
}

var _ Controlled = (*driver.Driver)(nil)

// ServeControl answers people's commands, such as docker-volume-efs status, on
// the control socket until the listener is closed. The pages are what there is to see.
func ServeControl(listener net.Listener, pages http.Handler, controlled Controlled, doctor *Doctor) error {
	mux := http.NewServeMux()
	mux.Handle("/", pages)
	mux.HandleFunc("GET "+DoctorPath, doctor.examine)
	mux.HandleFunc("GET "+FilesPath, doctor.files)
	serveTrash(mux, controlled)
	serveVolumes(mux, controlled)
	servePreempt(mux, controlled)
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
	server := http.Server{Handler: mux, ReadHeaderTimeout: controlTimeout}
	if err := server.Serve(listener); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
