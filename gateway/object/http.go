package object

import (
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What the faces over HTTP have in common.

// patient has every request of inner end when its client is silent for stall while something of the body is to
// come, whether the handler reads it or not, or takes nothing of the reply for twice as long.
func patient(inner http.Handler, stall time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		if r.Body != http.NoBody {
			// What the handler leaves, the server reads: until this deadline.
			_ = control.SetReadDeadline(time.Now().Add(stall)) // fails on a connection that has ended
			r = r.WithContext(r.Context())                     // the server looks at the body of its own request again
			r.Body = &patientBody{ReadCloser: r.Body, control: control, stall: stall}
		}
		inner.ServeHTTP(&patientWriter{w, control, stall}, r)
	})
}

type patientBody struct {
	io.ReadCloser
	control *http.ResponseController
	stall   time.Duration
	since   int // bytes, after the deadline was set
}

const patientBytes = 64 << 10 // at least so many must come until the deadline

// Read implements io.Reader.
func (p *patientBody) Read(b []byte) (int, error) {
	if p.since == 0 || p.since >= patientBytes {
		p.since = 0
		_ = p.control.SetReadDeadline(time.Now().Add(p.stall))
	}
	n, err := p.ReadCloser.Read(b)
	p.since += n
	if err == io.EOF { // after any other end the server may look for the rest
		_ = p.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// Silent tells whether a body's error is that the client was silent for too long.
func Silent(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

type patientWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	stall   time.Duration
}

const paceBytes = 1 << 20 // that must be taken until the deadline

// Unwrap is for http.ResponseController.
func (p *patientWriter) Unwrap() http.ResponseWriter { return p.ResponseWriter }

// Write implements io.Writer.
func (p *patientWriter) Write(b []byte) (written int, err error) {
	for written < len(b) && err == nil {
		// Twice, since the server may first wait for what the handler left of the body.
		_ = p.control.SetWriteDeadline(time.Now().Add(2 * p.stall))
		var n int
		n, err = p.ResponseWriter.Write(b[written:min(len(b), written+paceBytes)])
		written += n
	}
	return written, err
}

// ParseRange reads a Range header. What is not one range of bytes is ignored, as HTTP has it.
func ParseRange(header string) (Range, bool) {
	spec, ok := strings.CutPrefix(header, "bytes=")
	first, last, dash := strings.Cut(spec, "-")
	if !ok || !dash || first == "" && last == "" {
		return All, false
	}
	start, startErr := number(first)
	end, endErr := number(last)
	switch {
	case startErr != nil || endErr != nil:
		return All, false
	case first == "" && end == 0:
		return Range{}, true // the last 0 bytes
	case first == "":
		return Range{-end, -1}, true
	case last == "":
		return Range{start, -1}, true
	case end < start:
		return All, false
	}
	return Range{start, end + 1}, true
}

// number reads decimal digits; "" is 0.
func number(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 62)
	return int64(n), err
}

// CORS answers a preflight, and lets pages of allowed origins see what they asked for; "*" among the origins
// stands for all, to read.
func CORS(origins []string, w http.ResponseWriter, r *http.Request) (done bool) {
	origin, h := r.Header.Get("Origin"), w.Header()
	preflight := r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != ""
	methods, allow := "GET, HEAD", ""
	switch {
	case origin == "":
	case slices.Contains(origins, origin):
		allow, methods = origin, "GET, HEAD, PUT, POST, DELETE"
		h.Add("Vary", "Origin")
	case slices.Contains(origins, "*"):
		allow = "*"
	}
	if allow == "" {
		if preflight {
			w.WriteHeader(http.StatusForbidden)
		}
		return preflight
	}
	h.Set("Access-Control-Allow-Origin", allow)
	h.Set("Access-Control-Expose-Headers", "Accept-Ranges, Content-Encoding, Content-Length, Content-Range, Date, ETag, Last-Modified, x-amz-request-id, x-amz-bucket-region, x-goog-generation")
	if preflight {
		h.Set("Access-Control-Allow-Methods", methods)
		if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" {
			h.Set("Access-Control-Allow-Headers", asked)
		}
		h.Set("Access-Control-Max-Age", strconv.Itoa(int(time.Hour/time.Second)))
		w.WriteHeader(http.StatusNoContent)
	}
	return preflight
}
