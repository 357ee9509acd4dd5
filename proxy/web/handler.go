package web

import (
	"bytes"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sirupsen/logrus"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/status"
)

// handler answers from snapshots.
type handler struct {
	source func() status.Snapshot
	log    logrus.FieldLogger

	// taking is held while a snapshot is taken, which costs a system call for each
	// connection: many askers at once must not take the processor from those.
	taking sync.Mutex
}

// Handler answers GET and HEAD of
//
//	/             the status page
//	/metrics      metrics for Prometheus
//	/healthz      200 "ok", or 503 and what is wrong, a line each
//	/status.json  the snapshot
//
// source takes a snapshot; it must answer from memory. What a caller cannot be told
// goes to the log.
func Handler(source func() status.Snapshot, log logrus.FieldLogger) http.Handler {
	h := &handler{source: source, log: log}
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		newCollector(h.snapshot),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", h.showPage)
	// One metric that cannot be made costs that metric, not all.
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: log, ErrorHandling: promhttp.ContinueOnError,
	}))
	mux.HandleFunc("GET /healthz", h.showHealth)
	mux.HandleFunc("GET /status.json", h.showJSON)
	return secured(mux, "default-src 'none'; style-src '"+styleHash()+"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
}

// secured has browsers run nothing, fetch nothing and keep nothing.
func secured(next http.Handler, policy string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", policy)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// snapshot never panics: to show how things are must not end what carries data.
func (h *handler) snapshot() (s status.Snapshot) {
	h.taking.Lock()
	defer h.taking.Unlock()
	defer func() {
		if p := recover(); p != nil {
			h.log.Errorf("panic: %v\n%s", p, debug.Stack())
			s = status.Snapshot{Trouble: []string{"internal error, please report it with the log"}}
		}
	}()
	return h.source()
}

func (h *handler) showPage(w http.ResponseWriter, _ *http.Request) {
	send(w, http.StatusOK, "text/html; charset=utf-8", writePage(h.snapshot()))
}

func (h *handler) showJSON(w http.ResponseWriter, _ *http.Request) {
	text, err := h.snapshot().JSON()
	if err != nil {
		h.fail(w, "status.json", err)
		return
	}
	send(w, http.StatusOK, "application/json", text)
}

func (h *handler) showHealth(w http.ResponseWriter, _ *http.Request) {
	code, lines := http.StatusOK, []string{"ok"}
	if troubles := h.snapshot().Troubles(); len(troubles) > 0 {
		code, lines = http.StatusServiceUnavailable, troubles
	}
	for i, line := range lines {
		lines[i] = strings.Join(strings.Fields(line), " ") // one line each, whatever is in it
	}
	send(w, code, "text/plain; charset=utf-8", []byte(strings.Join(lines, "\n")+"\n"))
}

func (h *handler) fail(w http.ResponseWriter, what string, err error) {
	h.log.Errorf("%s: %v", what, err)
	send(w, http.StatusInternalServerError, "text/plain; charset=utf-8", []byte("the log has the reason\n"))
}

func send(w http.ResponseWriter, code int, kind string, text []byte) {
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(code)
	// An asker that has gone away is no trouble of ours.
	_, _ = io.Copy(w, bytes.NewReader(text))
}
