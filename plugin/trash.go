package plugin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver"
)

// Paths of what is asked about the trash.
const (
	// TrashPath lists it (GET), as a [TrashList].
	TrashPath = "/trash"
	// RestorePath (POST) takes "what", an entry or a volume's name, and "as", another name; it
	// answers {"volume": NAME}.
	RestorePath = "/trash/restore"
	// EmptyPath (POST) takes "entry", any number of times, or "older", a duration; it answers
	// with [TrashEmptied].
	EmptyPath = "/trash/empty"
)

// TrashList is what is in the trash.
type TrashList struct {
	Entries []driver.Trashed `json:"entries"`
	// Trouble is why there may be more: a file system did not answer, say.
	Trouble string `json:"trouble,omitempty"`
}

// TrashEmptied is what became of an order to delete.
type TrashEmptied struct {
	Deleted int `json:"deleted"`
	// Trouble is why there may be more to delete.
	Trouble string `json:"trouble,omitempty"`
}

// serveTrash answers questions about the trash.
func serveTrash(mux *http.ServeMux, controlled Controlled) {
	handle := func(pattern string, answer func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			content, err := answer(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(content) // to whoever is still there
		})
	}
	handle("GET "+TrashPath, func(r *http.Request) (any, error) {
		entries, err := controlled.Trash(r.Context())
		return TrashList{entries, troubleText(err)}, nil
	})
	handle("POST "+RestorePath, func(r *http.Request) (any, error) {
		name, err := controlled.Restore(r.Context(), r.URL.Query().Get("what"), r.URL.Query().Get("as"))
		return map[string]string{"volume": name}, err
	})
	handle("POST "+EmptyPath, func(r *http.Request) (any, error) {
		query := r.URL.Query()
		var older time.Duration
		if text := query.Get("older"); text != "" {
			var err error
			if older, err = time.ParseDuration(text); err != nil || older < 0 {
				return nil, fmt.Errorf("older %q: give a duration, such as 720h", text)
			}
		}
		n, err := controlled.EmptyTrash(r.Context(), query["entry"], older)
		return TrashEmptied{n, troubleText(err)}, nil
	})
}

func troubleText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
