package gcs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/gateway/object"
)

// A fault is an error as the API says it.
type fault struct {
	status  int
	reason  string
	message string
}

func (f *fault) Error() string { return f.reason + ": " + f.message }

// meanings are what the errors of the store and of objects mean here; the first that matches counts.
var meanings = []struct {
	err    error
	status int
	reason string
}{
	{object.ErrNoBucket, http.StatusNotFound, "notFound"},
	{object.ErrBucketExists, http.StatusConflict, "conflict"},
	{object.ErrBucketNotEmpty, http.StatusConflict, "conflict"},
	{object.ErrIncomplete, http.StatusBadRequest, "badContent"},
	{object.ErrReserved, http.StatusBadRequest, "invalid"},
	{object.ErrReplaced, http.StatusServiceUnavailable, "backendError"},
	{dramnode.ErrUnknownOutcome, http.StatusInternalServerError, "internalError"}, // before what may have caused it
	{dramnode.ErrNotFound, http.StatusNotFound, "notFound"},
	{dramnode.ErrGenerationMismatch, http.StatusPreconditionFailed, "conditionNotMet"},
	{dramnode.ErrTooLarge, http.StatusRequestEntityTooLarge, "uploadTooLarge"},
	{dramnode.ErrNoMemory, http.StatusInsufficientStorage, "insufficientStorage"},
	{dramnode.ErrBusy, http.StatusTooManyRequests, "rateLimitExceeded"},
	{dramnode.ErrInvalid, http.StatusBadRequest, "invalid"},
	{dramnode.ErrCorrupt, http.StatusInternalServerError, "internalError"},
	{io.ErrUnexpectedEOF, http.StatusBadRequest, "badContent"},
	{dramnode.ErrUnavailable, http.StatusServiceUnavailable, "backendError"},
	{dramnode.ErrNoQuorum, http.StatusServiceUnavailable, "backendError"},
	{dramnode.ErrDegraded, http.StatusServiceUnavailable, "backendError"},
	{dramnode.ErrPartitionLost, http.StatusServiceUnavailable, "backendError"},
	{dramnode.ErrClosed, http.StatusServiceUnavailable, "backendError"},
	{context.Canceled, http.StatusServiceUnavailable, "backendError"},
}

func faultOf(err error) *fault {
	if f := new(fault); errors.As(err, &f) {
		return f
	}
	if object.Silent(err) {
		return &fault{http.StatusRequestTimeout, "requestTimeout", "The body did not come in time."}
	}
	for _, m := range meanings {
		if errors.Is(err, m.err) {
			return &fault{m.status, m.reason, err.Error()}
		}
	}
	return &fault{http.StatusInternalServerError, "internalError", err.Error()}
}

type reasonJSON struct {
	Domain  string `json:"domain"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

type errorJSON struct {
	Error struct {
		Code    int          `json:"code"`
		Message string       `json:"message"`
		Errors  []reasonJSON `json:"errors"`
	} `json:"error"`
}

// fail answers with an error.
func (r *request) fail(err error) {
	f := faultOf(err)
	for _, h := range []string{"Content-Length", "Content-Encoding", "Accept-Ranges"} {
		r.w.Header().Del(h)
	}
	if f.status == http.StatusNotModified {
		r.w.WriteHeader(f.status)
		return
	}
	var e errorJSON
	e.Error.Code, e.Error.Message, e.Error.Errors = f.status, f.message, []reasonJSON{{"global", f.reason, f.message}}
	_ = r.reply(f.status, e)
}

type objectJSON struct {
	Kind           string `json:"kind"`
	ID             string `json:"id"`
	SelfLink       string `json:"selfLink"`
	Name           string `json:"name"`
	Bucket         string `json:"bucket"`
	Generation     string `json:"generation"`
	Metageneration string `json:"metageneration"`
	ContentType    string `json:"contentType"`
	Size           string `json:"size"`
	ETag           string `json:"etag"`
	TimeCreated    string `json:"timeCreated"`
	Updated        string `json:"updated"`
	StorageClass   string `json:"storageClass"`
}

type bucketJSON struct {
	Kind         string `json:"kind"`
	ID           string `json:"id"`
	Name         string `json:"name"`
	TimeCreated  string `json:"timeCreated"`
	StorageClass string `json:"storageClass"`
	Location     string `json:"location"`
}

type listJSON struct {
	Kind          string   `json:"kind"`
	Items         []any    `json:"items,omitempty"`
	Prefixes      []string `json:"prefixes,omitempty"`
	NextPageToken string   `json:"nextPageToken,omitempty"`
}

func tag(i object.Info) string { return fmt.Sprintf("%016x", uint64(i.Generation)) }

func contentType(i object.Info) string {
	if c := i.Header["Content-Type"]; c != "" {
		return c
	}
	return "application/octet-stream"
}

func objectOf(n object.Name, i object.Info) objectJSON {
	g := strconv.FormatUint(uint64(i.Generation), 10)
	at := i.Modified.UTC().Format(time.RFC3339Nano)
	return objectJSON{
		Kind: "storage#object", ID: n.Bucket + "/" + n.Key + "/" + g, SelfLink: bucketsPath + "/" + n.Bucket + "/o/" + url.PathEscape(n.Key),
		Name: n.Key, Bucket: n.Bucket, Generation: g, Metageneration: "1", ContentType: contentType(i), Size: strconv.FormatInt(i.Size, 10),
		ETag: tag(i), TimeCreated: at, Updated: at, StorageClass: "STANDARD",
	}
}

func bucketOf(b object.Bucket) bucketJSON {
	return bucketJSON{Kind: "storage#bucket", ID: b.Name, Name: b.Name, TimeCreated: b.Created.UTC().Format(time.RFC3339), StorageClass: "STANDARD", Location: "DRAM"}
}

// reply answers with a resource.
func (r *request) reply(status int, resource any) error {
	text, err := json.Marshal(resource)
	if err != nil {
		return fmt.Errorf("gcs: %w", err)
	}
	h := r.w.Header()
	h.Set("Content-Type", "application/json; charset=UTF-8")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	r.w.WriteHeader(status)
	_, _ = r.w.Write(text) // the client has gone
	return nil
}
