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
//	/readyz   200 if requests are served, else 503; ?pool=NAME asks for one pool
//
// and nothing else. Version is the sidecar's. Condition says whether a pool is served, or the whole
// if the name is empty, and in words why not.
func Handler(s Source, condition Condition, version string, log hclog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", &page{source: s, condition: condition, version: version, log: log})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry(s, version), promhttp.HandlerOpts{ErrorLog: scrapeLog{log}}))
	mux.Handle("GET /healthz", check(func(r *http.Request) (bool, string) {
		if _, err := s.Capacity(r.Context()); err != nil {
			return false, "the manager does not answer"
		}
		return true, "ok"
	}))
	mux.Handle("GET /readyz", check(func(r *http.Request) (bool, string) {
		return condition(r.URL.Query().Get("pool"))
	}))
	return plain(bodiless(mux))
}

// bodiless refuses a request that has a body, at once and not when the body has come.
func bodiless(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 0 {
			next.ServeHTTP(w, r)
			return
		}
		_ = http.NewResponseController(w).EnableFullDuplex() // else the server reads the body before it answers
		w.Header().Set("Connection", "close")
		http.Error(w, "nothing here takes a body", http.StatusRequestEntityTooLarge)
	})
}

// Condition says whether a pool is served, or the whole if the name is empty, and in words why not.
type Condition func(pool string) (served bool, words string)

func check(judge func(*http.Request) (ok bool, words string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
		defer cancel()
		ok, words := judge(r.WithContext(ctx))
		if !ok {
			http.Error(w, words, http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, words+"\n") // a reader who has gone needs no answer
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
