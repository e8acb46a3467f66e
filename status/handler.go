package status

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/anteroom-io/anteroom/manager"
)

// Source is what is shown. Its methods may be called from any goroutine and wait no longer than their context allows.
type Source interface {
	Counts(ctx context.Context) (manager.Counts, error)
	Capacity(ctx context.Context) (manager.Capacity, error)
}

// answerTimeout bounds the wait for the Source: at rest it answers in microseconds, under load after a turn of its loop.
const answerTimeout = 5 * time.Second

// Handler serves
//
//	/         a page for people
//	/metrics  Prometheus metrics
//	/healthz  200 if the manager's loop answers, else 503
//	/readyz   200 if requests are served (serving says so), else 503
//
// and nothing else. Version is the sidecar's.
func Handler(s Source, serving func() bool, version string, log hclog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", &page{source: s, serving: serving, version: version, log: log})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry(s, version), promhttp.HandlerOpts{ErrorLog: scrapeLog{log}}))
	mux.Handle("GET /healthz", check("ok", "the manager does not answer", func(ctx context.Context) bool {
		_, err := s.Capacity(ctx)
		return err == nil
	}))
	mux.Handle("GET /readyz", check("serving", "not serving: no host is attached, or the manager is stopped", func(context.Context) bool {
		return serving()
	}))
	return plain(mux)
}

func check(yes, no string, ok func(context.Context) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
		defer cancel()
		if !ok(ctx) {
			http.Error(w, no, http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, yes+"\n") // a reader who has gone needs no answer
	})
}

// plain tells browsers that there is nothing here to run, to frame, or to keep.
func plain(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// scrapeLog is where promhttp complains.
type scrapeLog struct{ hclog.Logger }

// Println is promhttp's idea of a log.
func (l scrapeLog) Println(v ...any) { l.Warn("a scrape failed", "error", v) }
