package status

import (
	"bytes"
	"context"
	_ "embed"
	"html/template"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/anteroom-io/anteroom/manager"
)

// maxRows is how many lines a table of the page has; what is left out is counted below it.
const maxRows = 500

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"percent": func(part, whole int) int { return 100 * part / max(whole, 1) },
	"round":   func(d time.Duration) time.Duration { return d.Round(time.Second) },
}).Parse(pageText))

// page is the status page: the counts, as plain HTML that asks to be loaded anew every few seconds.
type page struct {
	source    Source
	condition Condition
	version   string
	log       hclog.Logger
}

// view is what the template shows.
type view struct {
	Version  string
	Serving  bool
	State    string // why not, in words
	Counts   manager.Counts
	Capacity manager.Capacity
	Closed   []closedRow
	// How many are left out of each table.
	MoreHosts, MoreListeners, MorePools int
}

type closedRow struct {
	Reason manager.Reason
	Count  uint64
}

func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
	defer cancel()
	v, err := p.look(ctx)
	if err != nil {
		http.Error(w, "The manager does not answer: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	var text bytes.Buffer
	if err := pageTemplate.Execute(&text, v); err != nil {
		p.log.Error("the status page could not be made", "error", err)
		http.Error(w, "The page could not be made; the log says why.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = text.WriteTo(w) // a reader who has gone needs no page
}

func (p *page) look(ctx context.Context) (*view, error) {
	counts, err := p.source.Counts(ctx)
	if err != nil {
		return nil, err
	}
	capacity, err := p.source.Capacity(ctx)
	if err != nil {
		return nil, err
	}
	served, words := p.condition("")
	v := &view{Version: p.version, Serving: served, State: words, Counts: counts, Capacity: capacity, Closed: closedRows(&counts.Totals)}
	v.MoreHosts = cut(&v.Counts.Hosts)
	v.MoreListeners = cut(&v.Counts.Listeners)
	v.MorePools = cut(&v.Counts.Pools)
	return v, nil
}

func closedRows(t *manager.Totals) (rows []closedRow) {
	for _, r := range manager.Reasons() {
		if n := t.ClosedFor(r); n > 0 {
			rows = append(rows, closedRow{r, n})
		}
	}
	return rows
}

// cut shortens rows to maxRows and returns how many that leaves out.
func cut[T any](rows *[]T) int {
	more := len(*rows) - maxRows
	if more <= 0 {
		return 0
	}
	*rows = (*rows)[:maxRows]
	return more
}
