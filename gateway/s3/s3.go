// Package s3 is the face that speaks Amazon's S3 protocol, path style, and serves plain GET and HEAD to any
// HTTP client on the same port.
//
// It translates: what an object is, and that a write is decided atomically by the owner of its key, is package
// object's business. An ETag names the generation, so it never repeats, also when a key gets back the bytes that it
// had before; with Config.MD5 it is the MD5 that Amazon's would be, and conditions on it are still carried out by
// generation. Bodies are checked on their way in, against the signature, the checksums and the length that the
// client announced, and an object appears only when all of them hold.
package s3

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/gateway"
	"github.com/dramnode/dramnode/gateway/object"
)

// Config describes the face.
type Config struct {
	Keys          map[string]string // secret by access key; none: everybody may do everything
	AnonymousRead bool              // GET and HEAD need no signature
	Region        string            // default us-east-1
	MD5           bool              // ETags are MD5s, which may repeat
	CORS          []string          // origins whose pages may use the face; "*": all, to read
	Objects       object.Config     // limits; Store, MD5, MaxValueBytes and Log are filled in
	Log           zerolog.Logger
}

const (
	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 64 << 10
	maxInFlight    = 512 // requests; more are told to slow down
)

// Serve returns the face. It is a gateway.Serve.
func Serve(cfg Config) gateway.Serve {
	return func(ctx context.Context, l net.Listener, s gateway.Store) error {
		f := newFace(cfg, s)
		return object.Serve(ctx, l, f.objects, &http.Server{
			Handler: f, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
			ErrorLog: log.New(logWriter{cfg.Log}, "", 0),
		})
	}
}

// A logWriter takes what net/http says about connections.
type logWriter struct{ log zerolog.Logger }

func (w logWriter) Write(line []byte) (int, error) {
	w.log.Debug().Msg(strings.TrimSpace(string(line)))
	return len(line), nil
}

type face struct {
	cfg      Config
	objects  *object.Service
	inFlight chan struct{}
	requests atomic.Uint64
	now      func() time.Time
}

func newFace(cfg Config, s gateway.Store) *face {
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	o := cfg.Objects
	o.Store, o.MD5, o.Log = s, cfg.MD5, cfg.Log
	o.MaxValueBytes = int64(s.Table().MaxValue)
	return &face{cfg: cfg, objects: object.New(o), inFlight: make(chan struct{}, maxInFlight), now: time.Now}
}

// A request is one request with what all handlers need.
type request struct {
	*http.Request
	*face
	w     http.ResponseWriter
	id    string
	name  object.Name // Key is "" in requests about a bucket, both in those about all
	query map[string][]string
	who   *signer // nil: nobody signed, or nobody has to
}

func (r *request) has(parameter string) bool   { _, ok := r.query[parameter]; return ok }
func (r *request) get(parameter string) string { return first(r.query[parameter]) }
func (r *request) header(name string) string   { return r.Request.Header.Get(name) }

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// ServeHTTP implements http.Handler.
func (f *face) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	r := &request{Request: hr, face: f, w: w, id: fmt.Sprintf("%016X", f.requests.Add(1))}
	w.Header().Set("x-amz-request-id", r.id)
	w.Header().Set("x-amz-bucket-region", f.cfg.Region)
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
	if err := r.serve(); err != nil {
		r.fail(err)
	}
}

func (r *request) serve() (err error) {
	if r.query, err = parseQuery(r.URL.RawQuery); err != nil {
		return errCode(invalidURI, err.Error())
	}
	if r.who, err = r.authenticate(r.Request, r.query, r.now()); err != nil {
		return err
	}
	if err := r.refusedHeaders(); err != nil {
		return err
	}
	r.name.Bucket, r.name.Key, _ = strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case r.name.Bucket == "":
		return r.serveRoot()
	case object.CheckBucket(r.name.Bucket) != nil:
		return errCode(invalidBucketName, "The specified bucket is not valid.")
	case r.name.Key == "":
		return r.serveBucket()
	case len(r.name.Key) > object.MaxKeyBytes:
		return errCode(keyTooLong, "Your key is too long.")
	case r.name.Check() != nil:
		return errCode(invalidURI, "The key is not UTF-8 without zero bytes.")
	}
	return r.serveObject()
}

func (r *request) serveRoot() error {
	if r.Method != http.MethodGet {
		return errCode(methodNotAllowed, "The specified method is not allowed against this resource.")
	}
	return r.listBuckets()
}

func (r *request) serveObject() error {
	if sub := r.refused(objectRefused); sub != "" {
		return errCode(notImplemented, "?"+sub+" of objects is not implemented.")
	}
	upload := r.has("uploadId")
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		switch {
		case upload:
			return r.listParts()
		case r.has("tagging"):
			return r.reply(http.StatusOK, taggingXML{})
		case r.has("acl"):
			return r.acl()
		}
		return r.getObject()
	case http.MethodPut:
		switch {
		case upload && r.header("X-Amz-Copy-Source") != "":
			return r.copyPart()
		case upload:
			return r.putPart()
		case r.has("acl") || r.has("tagging"):
			return errCode(notImplemented, "Access control lists and tags of objects are not kept.")
		case r.header("X-Amz-Copy-Source") != "":
			return r.copyObject()
		}
		return r.putObject()
	case http.MethodPost:
		switch {
		case r.has("uploads"):
			return r.beginUpload()
		case upload:
			return r.completeUpload()
		}
	case http.MethodDelete:
		switch {
		case upload:
			return r.abortUpload()
		case r.has("tagging"):
			return r.noContent()
		}
		return r.deleteObject()
	}
	return errCode(methodNotAllowed, "The specified method is not allowed against this resource.")
}

// What would be taken for another request if it were ignored.
var (
	objectRefused = []string{"attributes", "legal-hold", "object-lock", "restore", "retention", "select", "torrent", "versionId"}
	bucketRefused = []string{"accelerate", "analytics", "intelligent-tiering", "inventory", "logging", "metadataTable", "metrics", "notification", "policyStatus", "requestPayment", "versions"}
)

// headersRefused are headers of writes that would change their meaning.
var headersRefused = []string{
	"X-Amz-Copy-Source-Server-Side-Encryption-Customer-Algorithm", "X-Amz-Grant-Full-Control", "X-Amz-Grant-Read", "X-Amz-Grant-Read-Acp", "X-Amz-Grant-Write", "X-Amz-Grant-Write-Acp",
	"X-Amz-If-Match-Initiated-Time", "X-Amz-If-Match-Last-Modified-Time", "X-Amz-If-Match-Size", "X-Amz-Object-Lock-Legal-Hold", "X-Amz-Object-Lock-Mode", "X-Amz-Object-Lock-Retain-Until-Date",
	"X-Amz-Server-Side-Encryption", "X-Amz-Server-Side-Encryption-Customer-Algorithm", "X-Amz-Tagging", "X-Amz-Website-Redirect-Location", "X-Amz-Write-Offset-Bytes",
}

// refusedHeaders looks at the headers that concern every request.
func (r *request) refusedHeaders() error {
	for _, h := range []string{"X-Amz-Expected-Bucket-Owner", "X-Amz-Source-Expected-Bucket-Owner"} {
		_, known := r.cfg.Keys[r.header(h)]
		if r.header(h) != "" && r.header(h) != owner.ID && !known {
			return errCode(accessDenied, "Access Denied.")
		}
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return nil
	}
	for _, h := range headersRefused {
		if r.header(h) != "" {
			return errCode(notImplemented, "The header "+strings.ToLower(h)+" is not implemented.")
		}
	}
	if acl := r.header("X-Amz-Acl"); strings.HasPrefix(acl, "public-") || acl == "authenticated-read" {
		return errCode(notImplemented, "Access control lists are not kept: x-amz-acl "+acl+" is not implemented.")
	}
	return nil
}

func (r *request) refused(subs []string) string {
	at := slices.IndexFunc(subs, func(sub string) bool { return r.has(sub) && !(sub == "versionId" && r.get(sub) == "null") })
	if at < 0 {
		return ""
	}
	return subs[at]
}
