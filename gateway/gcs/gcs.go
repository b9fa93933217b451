// Package gcs is the face that speaks the JSON API of Google Cloud Storage: objects with media and simple
// uploads, lists, and conditions on generations.
//
// It translates; what an object is, and that a write or delete is decided atomically by the owner of its key, is
// package object's business. A generation of the API is that of the store.
package gcs

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/gateway"
	"github.com/dramnode/dramnode/gateway/object"
)

// Config describes the face.
type Config struct {
	Tokens  []string      // bearer tokens; none: everybody may do everything
	CORS    []string      // origins whose pages may use the face; "*": all, to read
	Objects object.Config // limits; Store, MaxValueBytes and Log are filled in
	Log     zerolog.Logger
}

const (
	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 64 << 10
	maxInFlight    = 512
	maxListed      = 1000
	maxDocument    = 64 << 10
)

// Serve returns the face. It is a gateway.Serve.
func Serve(cfg Config) gateway.Serve {
	return func(ctx context.Context, l net.Listener, s gateway.Store) error {
		f := newFace(cfg, s)
		return object.Serve(ctx, l, f.objects, &http.Server{
			Handler: f, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
			ErrorLog: log.New(io.Discard, "", 0),
		})
	}
}

type face struct {
	cfg      Config
	objects  *object.Service
	inFlight chan struct{}
}

func newFace(cfg Config, s gateway.Store) *face {
	o := cfg.Objects
	o.Store, o.Log = s, cfg.Log
	o.MaxValueBytes = int64(s.Table().MaxValue)
	return &face{cfg: cfg, objects: object.New(o), inFlight: make(chan struct{}, maxInFlight)}
}

// A request is one request with what all handlers need.
type request struct {
	*http.Request
	*face
	w     http.ResponseWriter
	query url.Values
	name  object.Name
}

// ServeHTTP implements http.Handler.
func (f *face) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	r := &request{Request: hr, face: f, w: w, query: hr.URL.Query()}
	select {
	case f.inFlight <- struct{}{}:
		defer func() { <-f.inFlight }()
	default:
		r.fail(fmt.Errorf("%w: %d requests are being served", dramnode.ErrBusy, maxInFlight))
		return
	}
	if object.CORS(f.cfg.CORS, w, hr) {
		return
	}
	err := f.authorised(hr)
	if err == nil {
		err = r.serve()
	}
	if err != nil {
		r.fail(err)
	}
}

// authorised compares the bearer token; digests, so that the time tells nothing.
func (f *face) authorised(r *http.Request) error {
	if len(f.cfg.Tokens) == 0 {
		return nil
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	given, found := sha256.Sum256([]byte(token)), 0
	for _, t := range f.cfg.Tokens {
		want := sha256.Sum256([]byte(t))
		found |= subtle.ConstantTimeCompare(given[:], want[:])
	}
	if !ok || found == 0 {
		return &fault{http.StatusUnauthorized, "authError", "Invalid Credentials"}
	}
	return nil
}

// The paths of the API. Names are URL-encoded, slashes in them too.
const (
	bucketsPath = "/storage/v1/b"
	uploadPath  = "/upload/storage/v1/b/"
	mediaPath   = "/download/storage/v1/b/"
)

func (r *request) serve() error {
	path := r.URL.EscapedPath()
	if rest, ok := strings.CutPrefix(path, uploadPath); ok {
		bucket, tail, _ := strings.Cut(rest, "/")
		if r.Method != http.MethodPost || tail != "o" {
			return errNoRoute
		}
		if err := r.setName(bucket, ""); err != nil {
			return err
		}
		return r.upload()
	}
	media := r.query.Get("alt") == "media"
	if rest, ok := strings.CutPrefix(path, mediaPath); ok {
		path, media = bucketsPath+"/"+rest, true
	}
	rest, ok := strings.CutPrefix(path, bucketsPath)
	if !ok {
		return errNoRoute
	}
	parts := strings.Split(strings.TrimPrefix(rest, "/"), "/")
	switch {
	case rest == "" || rest == "/":
		return r.serveBuckets()
	case len(parts) == 1:
		return r.serveBucket(parts[0])
	case parts[1] != "o":
		return errNoRoute
	case len(parts) == 2:
		return r.serveList(parts[0])
	}
	// A slash in a name should come encoded, and some clients do not.
	if err := r.setName(parts[0], strings.Join(parts[2:], "/")); err != nil {
		return err
	}
	return r.serveObject(media)
}

var errNoRoute = &fault{http.StatusNotFound, "notFound", "This part of the API is not implemented."}

// setName decodes the name of an object, which may be "" for now.
func (r *request) setName(bucket, key string) (err error) {
	if r.name.Bucket, err = url.PathUnescape(bucket); err == nil {
		r.name.Key, err = url.PathUnescape(key)
	}
	if err != nil {
		return &fault{http.StatusBadRequest, "invalid", "The path is malformed: " + err.Error()}
	}
	if key == "" {
		return object.CheckBucket(r.name.Bucket)
	}
	return r.name.Check()
}

func (r *request) serveBuckets() error {
	switch r.Method {
	case http.MethodGet:
		buckets, err := r.objects.Buckets(r.Context())
		if err != nil {
			return err
		}
		list := listJSON{Kind: "storage#buckets"}
		for _, b := range buckets {
			list.Items = append(list.Items, bucketOf(b))
		}
		return r.reply(http.StatusOK, list)
	case http.MethodPost:
		var asked struct{ Name string }
		text, err := io.ReadAll(io.LimitReader(r.Body, maxDocument))
		if err != nil {
			return err
		}
		if err := json.Unmarshal(text, &asked); err != nil {
			return &fault{http.StatusBadRequest, "parseError", "The bucket's resource is malformed: " + err.Error()}
		}
		if err := r.objects.MakeBucket(r.Context(), asked.Name); err != nil {
			return err
		}
		return r.reply(http.StatusOK, bucketOf(object.Bucket{Name: asked.Name, Created: time.Now()}))
	}
	return errMethod
}

var errMethod = &fault{http.StatusMethodNotAllowed, "methodNotAllowed", "The method is not allowed here."}

func (r *request) serveBucket(bucket string) error {
	if err := r.setName(bucket, ""); err != nil {
		return err
	}
	switch r.Method {
	case http.MethodGet:
		if err := r.objects.NeedBucket(r.Context(), r.name.Bucket); err != nil {
			return err
		}
		return r.reply(http.StatusOK, bucketOf(object.Bucket{Name: r.name.Bucket}))
	case http.MethodDelete:
		if err := r.objects.RemoveBucket(r.Context(), r.name.Bucket); err != nil {
			return err
		}
		r.w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return errMethod
}

// conditions are those of the parameters prefix + ifGenerationMatch and so on; generation 0 stands for no object.
func (r *request) conditions() ([]client.Option, error) {
	var when []client.Option
	for _, c := range []struct {
		parameter string
		option    func(dramnode.Generation) client.Option
	}{{"ifGenerationMatch", client.IfGeneration}, {"ifGenerationNotMatch", client.IfNotGeneration}, {"generation", client.IfGeneration}} {
		text := r.query.Get(c.parameter)
		if text == "" {
			continue
		}
		g, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, &fault{http.StatusBadRequest, "invalid", fmt.Sprintf("%s is no generation: %q", c.parameter, text)}
		}
		when = append(when, c.option(dramnode.Generation(g)))
	}
	if r.query.Has("ifMetagenerationMatch") || r.query.Has("ifMetagenerationNotMatch") {
		return nil, &fault{http.StatusNotImplemented, "notImplemented", "Conditions on the metageneration are not implemented."}
	}
	if r.query.Has("generation") && len(when) > 1 {
		return nil, &fault{http.StatusNotImplemented, "notImplemented", "generation together with conditions is not implemented."}
	}
	return when, nil
}

func (r *request) serveObject(media bool) error {
	when, err := r.conditions()
	if err != nil {
		return err
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return r.read(media, when)
	case http.MethodDelete:
		return r.delete(when)
	}
	return errMethod
}

// read answers with an object or its resource.
func (r *request) read(media bool, when []client.Option) error {
	want, ranged := object.All, false
	if media {
		want, ranged = object.ParseRange(r.Header.Get("Range"))
	} else {
		want = object.Range{}
	}
	o, err := r.objects.Open(r.Context(), r.name, want, when...)
	if mismatch := new(dramnode.GenerationError); errors.As(err, &mismatch) {
		return r.mismatch(mismatch.Current)
	}
	if err != nil {
		return r.missing(err)
	}
	defer o.Close()
	h := r.w.Header()
	h.Set("X-Goog-Generation", strconv.FormatUint(uint64(o.Generation), 10))
	h.Set("X-Goog-Metageneration", "1")
	h.Set("X-Goog-Stored-Content-Length", strconv.FormatInt(o.Size, 10))
	h.Set("ETag", strconv.Quote(tag(o.Info)))
	h.Set("Last-Modified", o.Modified.UTC().Format(http.TimeFormat))
	if !media {
		return r.reply(http.StatusOK, objectOf(r.name, o.Info))
	}
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Type", contentType(o.Info))
	if encoding := o.Header["Content-Encoding"]; encoding != "" {
		h.Set("Content-Encoding", encoding)
	}
	if ranged && o.Start == o.End {
		h.Set("Content-Range", fmt.Sprintf("bytes */%d", o.Size))
		return &fault{http.StatusRequestedRangeNotSatisfiable, "requestedRangeNotSatisfiable", "Request range not satisfiable"}
	}
	h.Set("Content-Length", strconv.FormatInt(o.End-o.Start, 10))
	status := http.StatusOK
	if ranged {
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", o.Start, o.End-1, o.Size))
		status = http.StatusPartialContent
	}
	r.w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return nil
	}
	if _, err := o.WriteTo(r.w); err != nil {
		r.cfg.Log.Debug().Err(err).Str("object", r.name.Key).Msg("gcs read not finished")
		panic(http.ErrAbortHandler) // the header is out
	}
	return nil
}

// mismatch is what a failed condition of a read means: 304 when it was that nothing changed.
func (r *request) mismatch(current dramnode.Generation) error {
	r.w.Header().Set("X-Goog-Generation", strconv.FormatUint(uint64(current), 10))
	if r.query.Get("ifGenerationNotMatch") == strconv.FormatUint(uint64(current), 10) {
		return &fault{http.StatusNotModified, "notModified", "Not Modified"}
	}
	if r.query.Has("generation") {
		return &fault{http.StatusNotFound, "notFound", "No such object: " + r.name.Bucket + "/" + r.name.Key}
	}
	return &fault{http.StatusPreconditionFailed, "conditionNotMet", "At least one of the pre-conditions you specified did not hold."}
}

// missing tells a missing bucket from a missing object.
func (r *request) missing(err error) error {
	if !errors.Is(err, dramnode.ErrNotFound) {
		return err
	}
	if bucketErr := r.objects.NeedBucket(r.Context(), r.name.Bucket); bucketErr != nil {
		return bucketErr
	}
	return &fault{http.StatusNotFound, "notFound", "No such object: " + r.name.Bucket + "/" + r.name.Key}
}

func (r *request) delete(when []client.Option) error {
	if r.query.Has("ifGenerationNotMatch") {
		return errNotMatch
	}
	zero := r.query.Get("ifGenerationMatch") == "0"
	g, err := r.objects.Delete(r.Context(), r.name, when...)
	switch mismatch := new(dramnode.GenerationError); {
	case errors.As(err, &mismatch) && mismatch.Current == dramnode.Absent:
		err = dramnode.ErrNotFound
	case errors.As(err, &mismatch):
		return r.mismatch(mismatch.Current)
	case err == nil && g == dramnode.Absent && !zero:
		err = dramnode.ErrNotFound
	case err == nil && zero:
		return r.missing(dramnode.ErrNotFound) // nothing to delete, as wished
	}
	if err != nil {
		return r.missing(err)
	}
	r.w.WriteHeader(http.StatusNoContent)
	return nil
}

var errNotMatch = &fault{http.StatusNotImplemented, "notImplemented", "A write takes ifGenerationMatch only."}

// upload takes uploadType=media, the content in one request: the only type that TensorStore's driver asks for.
func (r *request) upload() error {
	if r.query.Has("ifGenerationNotMatch") {
		return errNotMatch
	}
	when, err := r.conditions()
	if err != nil {
		return err
	}
	if r.query.Get("uploadType") != "media" {
		return &fault{http.StatusNotImplemented, "notImplemented", "uploadType must be media."}
	}
	r.name.Key = r.query.Get("name")
	if err := r.name.Check(); err != nil {
		return err
	}
	if r.ContentLength < 0 {
		return &fault{http.StatusLengthRequired, "required", "You must provide the Content-Length HTTP header."}
	}
	header := map[string]string{}
	if c := r.Header.Get("Content-Type"); c != "" {
		header["Content-Type"] = c
	}
	body := object.Body{Reader: r.Body, Size: r.ContentLength}
	i, err := r.objects.Put(r.Context(), r.name, body, header, when...)
	if mismatch := new(dramnode.GenerationError); errors.As(err, &mismatch) {
		return r.mismatch(mismatch.Current)
	}
	if err != nil {
		return err
	}
	return r.reply(http.StatusOK, objectOf(r.name, i))
}

func (r *request) serveList(bucket string) error {
	if err := r.setName(bucket, ""); err != nil {
		return err
	}
	if r.Method != http.MethodGet {
		return errMethod
	}
	q := object.Query{
		Bucket: r.name.Bucket, Prefix: r.query.Get("prefix"), Delimiter: r.query.Get("delimiter"),
		Start: r.query.Get("startOffset"), End: r.query.Get("endOffset"), Limit: maxListed,
	}
	if text := r.query.Get("maxResults"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return &fault{http.StatusBadRequest, "invalid", "maxResults must be more than 0."}
		}
		q.Limit = min(n, maxListed)
	}
	after, err := base64.URLEncoding.DecodeString(r.query.Get("pageToken"))
	if err != nil {
		return &fault{http.StatusBadRequest, "invalid", "pageToken is none of ours."}
	}
	q.After = string(after)
	page, err := r.objects.List(r.Context(), q)
	if err != nil {
		return err
	}
	list := listJSON{Kind: "storage#objects"}
	for _, e := range page.Entries {
		if e.Prefix {
			list.Prefixes = append(list.Prefixes, e.Key)
		} else {
			list.Items = append(list.Items, objectOf(object.Name{Bucket: q.Bucket, Key: e.Key}, e.Info))
		}
	}
	if page.More {
		list.NextPageToken = base64.URLEncoding.EncodeToString([]byte(page.Entries[len(page.Entries)-1].Key))
	}
	if page.Skipped > 0 {
		r.w.Header().Set("x-dramnode-skipped-keys", strconv.Itoa(page.Skipped))
	}
	return r.reply(http.StatusOK, list)
}
