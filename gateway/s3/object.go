package s3

import (
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/gateway/object"
)

// kept are the headers that an object keeps, besides those of the user.
var kept = []string{"Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language", "Content-Type", "Expires"}

const (
	userPrefix     = "X-Amz-Meta-"
	maxUserBytes   = 2 << 10 // of all user metadata
	defaultContent = "binary/octet-stream"
)

// metadata returns the headers that an object keeps.
func (r *request) metadata() (map[string]string, error) {
	keep := map[string]string{}
	for _, h := range kept {
		if v := r.header(h); v != "" {
			keep[h] = v
		}
	}
	if encoding := withoutChunked(keep["Content-Encoding"]); encoding != "" {
		keep["Content-Encoding"] = encoding
	} else {
		delete(keep, "Content-Encoding")
	}
	bytes := 0
	for h, values := range r.Request.Header {
		if strings.HasPrefix(h, userPrefix) {
			keep[h] = strings.Join(values, ",")
			bytes += len(h) - len(userPrefix) + len(keep[h])
		}
	}
	if bytes > maxUserBytes {
		return nil, errCode(metadataTooLarge, "Your metadata headers exceed the maximum allowed metadata size")
	}
	return keep, nil
}

// withoutChunked removes the encoding that says how the body came.
func withoutChunked(encodings string) string {
	var left []string
	for e := range strings.SplitSeq(encodings, ",") {
		if e = strings.TrimSpace(e); e != "" && e != "aws-chunked" {
			left = append(left, e)
		}
	}
	return strings.Join(left, ",")
}

// overrides are parameters that replace headers of an answer, for those who signed.
var overrides = map[string]string{
	"response-cache-control": "Cache-Control", "response-content-disposition": "Content-Disposition", "response-content-encoding": "Content-Encoding",
	"response-content-language": "Content-Language", "response-content-type": "Content-Type", "response-expires": "Expires",
}

// describe sets the headers that tell of an object.
func (r *request) describe(i object.Info) {
	h := r.w.Header()
	h.Set("Content-Type", defaultContent)
	for name, value := range i.Header {
		if user, ok := strings.CutPrefix(name, userPrefix); ok {
			h["x-amz-meta-"+strings.ToLower(user)] = []string{value} // clients take the names as they come
		} else {
			h.Set(name, value)
		}
	}
	if r.who != nil || len(r.cfg.Keys) == 0 {
		for parameter, name := range overrides {
			if v := r.get(parameter); v != "" {
				h.Set(name, v)
			}
		}
	}
	h.Set("ETag", quote(r.etag(i)))
	h.Set("Last-Modified", i.Modified.UTC().Format(http.TimeFormat))
	h.Set("Accept-Ranges", "bytes")
	if i.Parts != nil {
		h.Set("x-amz-mp-parts-count", strconv.Itoa(len(i.Parts)))
	}
}

func (r *request) getObject() error {
	want, ranged, err := r.wanted()
	if err != nil {
		return err
	}
	c := r.conditions("")
	open := want
	if r.Method == http.MethodHead {
		open = object.Range{}
	}
	o, err := r.objects.Open(r.Context(), r.name, open, c.options()...)
	if mismatch := new(dramnode.GenerationError); errors.As(err, &mismatch) {
		r.w.Header().Set("ETag", quote(r.etag(object.Info{Generation: mismatch.Current})))
		return c.failed(r.face, mismatch.Current)
	}
	if err != nil {
		return r.missing(err)
	}
	defer o.Close()
	r.describe(o.Info)
	if err := c.check(r.face, o.Info); err != nil {
		return err
	}
	start, end := want.Of(o.Size)
	if ranged && start == end {
		r.w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", o.Size))
		return errCode(invalidRange, "The requested range is not satisfiable")
	}
	if r.wantsSum() {
		r.tellReadSum(o.Info)
	}
	h := r.w.Header()
	h.Set("Content-Length", strconv.FormatInt(end-start, 10))
	if ranged {
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, end-1, o.Size))
		r.w.WriteHeader(http.StatusPartialContent)
	} else {
		r.w.WriteHeader(http.StatusOK)
	}
	if r.Method == http.MethodHead {
		return nil
	}
	if _, err := o.WriteTo(r.w); err != nil {
		// The header is out: a connection that ends too early is all that is left to say.
		r.cfg.Log.Debug().Err(err).Str("request", r.id).Msg("s3 read not finished")
		panic(http.ErrAbortHandler)
	}
	return nil
}

// wanted is the range of a read: by the header, or by the number of a part.
func (r *request) wanted() (want object.Range, ranged bool, err error) {
	if !r.has("partNumber") {
		want, ranged = object.ParseRange(r.header("Range"))
		if condition := r.header("If-Range"); ranged && condition != "" {
			i, err := r.objects.Stat(r.Context(), r.name)
			if err != nil {
				return want, false, r.missing(err)
			}
			if !r.matches(condition, i) {
				return object.All, false, nil
			}
		}
		return want, ranged, nil
	}
	part, err := r.part()
	if err != nil {
		return want, false, err
	}
	if r.header("Range") != "" {
		return want, false, errCode(invalidRequest, "Cannot specify both Range header and partNumber query parameter")
	}
	i, err := r.objects.Stat(r.Context(), r.name)
	if err != nil {
		return want, false, r.missing(err)
	}
	if i.Parts == nil && part == 1 {
		return object.All, i.Size > 0, nil // no range can say "nothing"
	}
	if part > len(i.Parts) {
		return want, false, errCode(code{"InvalidPartNumber", http.StatusRequestedRangeNotSatisfiable}, "The requested partnumber is not satisfiable.")
	}
	for _, size := range i.Parts[:part-1] {
		want.Start += size
	}
	want.End = want.Start + i.Parts[part-1]
	return want, true, nil
}

func (r *request) putObject() error {
	header, err := r.metadata()
	if err != nil {
		return err
	}
	ifMatch := r.header("If-Match")
	when, err := r.writeConditions(ifMatch, r.header("If-None-Match"))
	if err != nil {
		return err
	}
	body, err := r.body()
	if err != nil {
		return err
	}
	body.keep(cmp.Or(body.given(), object.DefaultSum))
	i, err := r.objects.Put(r.Context(), r.name, body.body(), header, when...)
	if err != nil {
		return refusedWrite(err, ifMatch)
	}
	r.tellWholeSum(i.Sum)
	r.w.Header().Set("ETag", quote(r.etag(i)))
	r.w.WriteHeader(http.StatusOK)
	return nil
}

func (r *request) deleteObject() error {
	ifMatch := r.header("If-Match")
	when, err := r.writeConditions(ifMatch, "")
	if err != nil {
		return err
	}
	g, err := r.objects.Delete(r.Context(), r.name, when...)
	if err != nil {
		return refusedWrite(err, ifMatch)
	}
	if g == dramnode.Absent {
		if err := r.objects.NeedBucket(r.Context(), r.name.Bucket); err != nil {
			return err
		}
	}
	return r.noContent()
}

// source opens what a copy copies.
func (r *request) source() (*object.Reader, error) {
	path, err := url.PathUnescape(strings.TrimPrefix(r.header("X-Amz-Copy-Source"), "/"))
	if err != nil {
		return nil, errCode(invalidArgument, "Invalid copy source encoding")
	}
	path, version, versioned := strings.Cut(path, "?versionId=")
	if versioned && version != "null" {
		return nil, errCode(invalidArgument, "Copy Source must mention the source bucket and key: sourcebucket/sourcekey.")
	}
	var from object.Name
	from.Bucket, from.Key, _ = strings.Cut(path, "/")
	if from.Check() != nil {
		return nil, errCode(invalidArgument, "Copy Source must mention the source bucket and key: sourcebucket/sourcekey.")
	}
	want := object.All
	if header := r.header("X-Amz-Copy-Source-Range"); header != "" {
		var ok bool
		if want, ok = object.ParseRange(header); !ok || want.Start < 0 || want.End < 0 {
			return nil, errCode(invalidArgument, "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy")
		}
	}
	c := r.conditions("X-Amz-Copy-Source-")
	o, err := r.objects.Open(r.Context(), from, want, c.options()...)
	if errors.Is(err, dramnode.ErrGenerationMismatch) {
		return nil, errPrecondition
	}
	if err != nil {
		there := *r
		there.name = from
		return nil, there.missing(err)
	}
	if c.check(r.face, o.Info) != nil {
		o.Close()
		return nil, errPrecondition
	}
	if want.End > o.Size {
		o.Close()
		return nil, errCode(invalidArgument, fmt.Sprintf("Range specified is not valid for source object of size: %d", o.Size))
	}
	return o, nil
}

func (r *request) copyObject() error {
	header, err := r.metadata()
	if err != nil {
		return err
	}
	algorithm, err := r.knownAlgorithm()
	if err != nil {
		return err
	}
	directive := r.header("X-Amz-Metadata-Directive")
	replace := directive == "REPLACE"
	if !replace && directive != "" && directive != "COPY" {
		return errCode(invalidArgument, "Unknown metadata directive.")
	}
	o, err := r.source()
	if err != nil {
		return err
	}
	defer o.Close()
	if o.Name == r.name && !replace {
		return errCode(invalidRequest, "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes.")
	}
	if !replace {
		header = o.Header
	}
	ifMatch := r.header("If-Match")
	when, err := r.writeConditions(ifMatch, r.header("If-None-Match"))
	if err != nil {
		return err
	}
	if o.Name == r.name && len(when) == 0 {
		when = []client.Option{client.IfGeneration(o.Generation)} // new metadata belongs to these bytes
	}
	var i object.Info
	err = o.Pipe(func(body object.Body) (err error) {
		c := &checkedReader{r: body.Reader, size: body.Size}
		c.keep(cmp.Or(algorithm, o.Sum.Algorithm, object.DefaultSum))
		i, err = r.objects.Put(r.Context(), r.name, c.body(), header, when...)
		return err
	})
	if err != nil {
		return refusedWrite(err, ifMatch)
	}
	return r.reply(http.StatusOK, copyXML{XMLName: xml.Name{Local: "CopyObjectResult"}, ETag: quote(r.etag(i)), LastModified: stamp(i.Modified), Sums: sumsXML(i.Sum), ChecksumType: kindXML(i.Sum.SumKind).ChecksumType})
}

func (r *request) acl() error {
	if r.name.Key != "" {
		if _, err := r.objects.Stat(r.Context(), r.name); err != nil {
			return r.missing(err)
		}
	}
	return r.reply(http.StatusOK, aclXML{Namespace: namespace, Owner: owner, Grants: []grantXML{{
		Grantee:    granteeXML{"http://www.w3.org/2001/XMLSchema-instance", "CanonicalUser", owner},
		Permission: "FULL_CONTROL",
	}}})
}
