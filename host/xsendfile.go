package host

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
)

// SendFile lets next answer with the header X-Sendfile: PATH and no body. Instead of its own, the response's body becomes that file, with what
// http.ServeContent adds (ranges, conditions, a type unless next has set one); a client that takes it slowly costs nothing here. PATH is below
// root, or an absolute path inside root; what lies elsewhere, also by way of a symbolic link, is never sent and gets 500, what does not exist 404.
// Only a response with status 200 is replaced. SendFile fails if root is no directory that can be opened.
//
// Serve does this by itself if Options.SendfileRoot is set.
func SendFile(root string, next http.Handler) (http.Handler, error) {
	s, err := newSender(root, next)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func newSender(root string, next http.Handler) (*sender, error) {
	dir, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	opened, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("host: the directory for X-Sendfile: %w", err)
	}
	if next == nil {
		next = http.DefaultServeMux
	}
	return &sender{dir, opened, next}, nil
}

// SendfileVariable is the environment variable that Options.SendfileRoot falls back to.
const SendfileVariable = "ANTEROOM_SENDFILE_ROOT"

const sendfileField = "X-Sendfile"

type sender struct {
	dir  string
	root *os.Root
	next http.Handler
}

func (s *sender) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := &replaceable{ResponseWriter: w}
	s.next.ServeHTTP(answer, r)
	if !answer.begun {
		answer.begin(http.StatusOK)
	}
	if answer.path != "" {
		s.send(w, r, answer.path)
	}
}

func (s *sender) send(w http.ResponseWriter, r *http.Request, path string) {
	f, err := s.open(path)
	if err != nil {
		status := http.StatusInternalServerError
		if errors.Is(err, fs.ErrNotExist) {
			status = http.StatusNotFound
		}
		http.Error(w, http.StatusText(status), status)
		return
	}
	defer func() { _ = f.Close() }() // it was only read
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		http.Error(w, "not a file", http.StatusInternalServerError)
		return
	}
	http.ServeContent(w, r, path, st.ModTime(), f)
}

// open opens a file inside the root, and no other.
func (s *sender) open(path string) (*os.File, error) {
	if filepath.IsAbs(path) {
		inside, err := filepath.Rel(s.dir, path)
		if err != nil {
			return nil, err
		}
		path = inside
	}
	return s.root.Open(path)
}

// replaceable is a response of which nothing is sent if its header names a file.
type replaceable struct {
	http.ResponseWriter
	begun bool
	path  string
}

// begin decides, when the header is complete, whose body it will be.
func (w *replaceable) begin(status int) {
	w.begun = true
	path := w.Header().Get(sendfileField)
	if path == "" || status != http.StatusOK {
		return
	}
	w.Header().Del(sendfileField)
	w.Header().Del("Content-Length")
	w.path = path
}

// WriteHeader is passed on unless a file replaces the response.
func (w *replaceable) WriteHeader(status int) {
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		w.ResponseWriter.WriteHeader(status) // informational, the header is still to come
		return
	}
	if !w.begun {
		w.begin(status)
	}
	if w.path == "" {
		w.ResponseWriter.WriteHeader(status)
	}
}

// Write drops the body that a file replaces.
func (w *replaceable) Write(p []byte) (int, error) {
	if !w.begun {
		w.begin(http.StatusOK)
	}
	if w.path != "" {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}

// ReadFrom keeps sendfile(2) for the files that next sends itself.
func (w *replaceable) ReadFrom(r io.Reader) (int64, error) {
	if !w.begun {
		w.begin(http.StatusOK)
	}
	if w.path != "" {
		return io.Copy(io.Discard, r)
	}
	return io.Copy(w.ResponseWriter, r)
}

// Flush begins the response, as http.Flusher does.
func (w *replaceable) Flush() { _ = w.FlushError() }

// FlushError is Flush for http.ResponseController.
func (w *replaceable) FlushError() error {
	if !w.begun {
		w.begin(http.StatusOK)
	}
	if w.path != "" {
		return nil
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap is for http.ResponseController.
func (w *replaceable) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// sendFiles wraps a server's handler if the option says so. done is for when the server has ended.
func (o *Options) sendFiles(next http.Handler) (wrapped http.Handler, done func(), err error) {
	root := cmp.Or(o.SendfileRoot, os.Getenv(SendfileVariable))
	if root == "" {
		return next, func() {}, nil
	}
	s, err := newSender(root, next)
	if err != nil {
		return nil, nil, err
	}
	return s, func() { _ = s.root.Close() }, nil
}
