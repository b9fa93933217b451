package s3

import (
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"net/http"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/gateway/object"
)

// A code is an error of the protocol: Amazon's word for it, and the status that goes with it.
type code struct {
	name   string
	status int
}

var (
	accessDenied         = code{"AccessDenied", http.StatusForbidden}
	badDigest            = code{"BadDigest", http.StatusBadRequest}
	bucketNotEmpty       = code{"BucketNotEmpty", http.StatusConflict}
	bucketOwned          = code{"BucketAlreadyOwnedByYou", http.StatusConflict}
	contentHash          = code{"XAmzContentSHA256Mismatch", http.StatusBadRequest}
	entityTooLarge       = code{"EntityTooLarge", http.StatusBadRequest}
	entityTooSmall       = code{"EntityTooSmall", http.StatusBadRequest}
	incompleteBody       = code{"IncompleteBody", http.StatusBadRequest}
	internalError        = code{"InternalError", http.StatusInternalServerError}
	invalidAccessKey     = code{"InvalidAccessKeyId", http.StatusForbidden}
	invalidArgument      = code{"InvalidArgument", http.StatusBadRequest}
	invalidBucketName    = code{"InvalidBucketName", http.StatusBadRequest}
	invalidDigest        = code{"InvalidDigest", http.StatusBadRequest}
	invalidPart          = code{"InvalidPart", http.StatusBadRequest}
	invalidPartOrder     = code{"InvalidPartOrder", http.StatusBadRequest}
	invalidRange         = code{"InvalidRange", http.StatusRequestedRangeNotSatisfiable}
	invalidRequest       = code{"InvalidRequest", http.StatusBadRequest}
	invalidURI           = code{"InvalidURI", http.StatusBadRequest}
	keyTooLong           = code{"KeyTooLongError", http.StatusBadRequest}
	malformedAuth        = code{"AuthorizationHeaderMalformed", http.StatusBadRequest}
	malformedQueryAuth   = code{"AuthorizationQueryParametersError", http.StatusBadRequest}
	malformedXML         = code{"MalformedXML", http.StatusBadRequest}
	malformedTrailer     = code{"MalformedTrailerError", http.StatusBadRequest}
	metadataTooLarge     = code{"MetadataTooLarge", http.StatusBadRequest}
	methodNotAllowed     = code{"MethodNotAllowed", http.StatusMethodNotAllowed}
	missingLength        = code{"MissingContentLength", http.StatusLengthRequired}
	noSuchBucket         = code{"NoSuchBucket", http.StatusNotFound}
	noSuchKey            = code{"NoSuchKey", http.StatusNotFound}
	noSuchUpload         = code{"NoSuchUpload", http.StatusNotFound}
	notImplemented       = code{"NotImplemented", http.StatusNotImplemented}
	notModified          = code{"NotModified", http.StatusNotModified}
	preconditionFailed   = code{"PreconditionFailed", http.StatusPreconditionFailed}
	requestTimeout       = code{"RequestTimeout", http.StatusBadRequest}
	requestTimeTooSkewed = code{"RequestTimeTooSkewed", http.StatusForbidden}
	serviceUnavailable   = code{"ServiceUnavailable", http.StatusServiceUnavailable}
	signatureMismatch    = code{"SignatureDoesNotMatch", http.StatusForbidden}
	slowDown             = code{"SlowDown", http.StatusServiceUnavailable}
	storageFull          = code{"InsufficientStorage", http.StatusInsufficientStorage} // ours: clients do not repeat it
)

// A fault is an error that says how the protocol calls it.
type fault struct {
	code
	message string
}

func (e *fault) Error() string { return e.name + ": " + e.message }

func errCode(c code, message string) error { return &fault{c, message} }

// meanings are what the errors of the store and of objects mean here; the first that matches counts. Where Amazon has
// words for it, they are the message: some clients look for them.
var meanings = []struct {
	err     error
	code    code
	message string
}{
	{object.ErrNoBucket, noSuchBucket, "The specified bucket does not exist."},
	{object.ErrBucketExists, bucketOwned, "Your previous request to create the named bucket succeeded and you already own it."},
	{object.ErrBucketNotEmpty, bucketNotEmpty, "The bucket you tried to delete is not empty."},
	{object.ErrNoUpload, noSuchUpload, "The specified multipart upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."},
	{object.ErrPart, invalidPart, "One or more of the specified parts could not be found.  The part may not have been uploaded, or the specified entity tag may not match the part's entity tag."},
	{object.ErrPartOrder, invalidPartOrder, "The list of parts was not in ascending order. Parts must be ordered by part number."},
	{object.ErrPartTooSmall, entityTooSmall, "Your proposed upload is smaller than the minimum allowed size"},
	{object.ErrIncomplete, incompleteBody, ""},
	{object.ErrReserved, invalidRequest, ""},
	{object.ErrReplaced, slowDown, ""},
	{dramnode.ErrUnknownOutcome, internalError, ""}, // before what may have caused it
	{dramnode.ErrNotFound, noSuchKey, "The specified key does not exist."},
	{dramnode.ErrGenerationMismatch, preconditionFailed, ""},
	{dramnode.ErrTooLarge, entityTooLarge, ""},
	{dramnode.ErrNoMemory, storageFull, ""},
	{dramnode.ErrBusy, slowDown, ""},
	{dramnode.ErrInvalid, invalidArgument, ""},
	{dramnode.ErrCorrupt, internalError, ""},
	{dramnode.ErrOutOfRange, invalidRange, ""},
	{io.ErrUnexpectedEOF, incompleteBody, ""},
	{dramnode.ErrUnavailable, serviceUnavailable, ""},
	{dramnode.ErrNoQuorum, serviceUnavailable, ""},
	{dramnode.ErrDegraded, serviceUnavailable, ""},
	{dramnode.ErrPartitionLost, serviceUnavailable, ""},
	{dramnode.ErrClosed, serviceUnavailable, ""},
	{context.Canceled, serviceUnavailable, ""},
}

// faultOf is what err is called in the protocol.
func faultOf(err error) *fault {
	if f := new(fault); errors.As(err, &f) {
		return f
	}
	if object.Silent(err) {
		return &fault{requestTimeout, "Your socket connection to the server was not read from or written to within the timeout period."}
	}
	for _, m := range meanings {
		if errors.Is(err, m.err) {
			return &fault{m.code, cmp.Or(m.message, err.Error())}
		}
	}
	return &fault{internalError, err.Error()}
}

type errorXML struct {
	XMLName   xml.Name `xml:"Error"`
	Code      string
	Message   string
	Resource  string
	RequestID string `xml:"RequestId"`
}

// fail answers with an error.
func (r *request) fail(err error) {
	f := faultOf(err)
	if f.status >= http.StatusInternalServerError {
		r.cfg.Log.Debug().Err(err).Str("request", r.id).Str("method", r.Method).Str("path", r.URL.Path).Msg("s3 request failed")
	}
	if f.status == http.StatusServiceUnavailable {
		r.w.Header().Set("Retry-After", "1")
	}
	for _, h := range []string{"Content-Length", "Content-Encoding", "Accept-Ranges", "Cache-Control"} {
		r.w.Header().Del(h)
	}
	if f.status == http.StatusNotModified || r.Method == http.MethodHead {
		r.w.Header().Del("Content-Type")
		r.w.WriteHeader(f.status)
		return
	}
	_ = r.reply(f.status, errorXML{Code: f.name, Message: f.message, Resource: r.URL.Path, RequestID: r.id})
}
