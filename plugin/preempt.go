package plugin

import (
	"encoding/json"
	"net/http"
)

// PreemptPath (POST) takes "volume" and answers {"host": NAME}, the host that had it; it is
// empty if none had.
const PreemptPath = "/preempt"

// servePreempt answers the command of that name.
func servePreempt(mux *http.ServeMux, controlled Controlled) {
	mux.HandleFunc("POST "+PreemptPath, func(w http.ResponseWriter, r *http.Request) {
		host, err := controlled.Preempt(r.Context(), r.URL.Query().Get("volume"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"host": host}) // to whoever is still there
	})
}
