package s3

import (
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/dramnode/dramnode/gateway/object"
)

const maxListed = 1000 // keys, parts or uploads in one answer

func (r *request) beginUpload() error {
	header, err := r.metadata()
	if err != nil {
		return err
	}
	u, err := r.objects.Begin(r.Context(), r.name, header)
	if err != nil {
		return err
	}
	return r.reply(http.StatusOK, beginXML{Namespace: namespace, Bucket: r.name.Bucket, Key: r.name.Key, UploadID: u.ID})
}

// part is the number of the part that a request is about.
func (r *request) part() (int, error) {
	n, err := strconv.Atoi(r.get("partNumber"))
	if err != nil || n < 1 || n > object.MaxParts {
		return 0, errCode(invalidArgument, "Part number must be an integer between 1 and 10000, inclusive.")
	}
	return n, nil
}

func (r *request) putPart() error {
	n, err := r.part()
	if err != nil {
		return err
	}
	body, err := r.body()
	if err != nil {
		return err
	}
	p, err := r.objects.PutPart(r.Context(), r.name, r.get("uploadId"), n, body)
	if err != nil {
		return r.missing(err)
	}
	r.w.Header().Set("ETag", quote(p.Tag()))
	r.w.WriteHeader(http.StatusOK)
	return nil
}

func (r *request) copyPart() error {
	n, err := r.part()
	if err != nil {
		return err
	}
	o, err := r.source()
	if err != nil {
		return err
	}
	defer o.Close()
	var p object.Part
	err = o.Pipe(func(body object.Body) (err error) {
		p, err = r.objects.PutPart(r.Context(), r.name, r.get("uploadId"), n, body)
		return err
	})
	if err != nil {
		return r.missing(err)
	}
	return r.reply(http.StatusOK, copyXML{XMLName: xml.Name{Local: "CopyPartResult"}, ETag: quote(p.Tag()), LastModified: stamp(p.Modified)})
}

func (r *request) completeUpload() error {
	var asked completeXML
	if err := r.readUnchecked(&asked); err != nil {
		return err
	}
	ifMatch := r.header("If-Match")
	when, err := r.writeConditions(ifMatch, r.header("If-None-Match"))
	if err != nil {
		return err
	}
	if len(asked.Parts) == 0 || len(asked.Parts) > object.MaxParts {
		return errMalformedXML
	}
	var chosen []object.Chosen
	for _, p := range asked.Parts {
		if p.ETag == "" || p.PartNumber == nil {
			return errMalformedXML
		}
		if *p.PartNumber < 1 {
			return errCode(invalidArgument, "PartNumber must be >= 1")
		}
		chosen = append(chosen, object.Chosen{Number: *p.PartNumber, Tag: p.ETag})
	}
	if err := r.promisedSize(chosen); err != nil {
		return err
	}
	i, err := r.objects.Complete(r.Context(), r.name, r.get("uploadId"), chosen, when...)
	if err != nil {
		return refusedWrite(r.missing(err), ifMatch)
	}
	location := "http://" + r.Host + r.URL.EscapedPath()
	return r.reply(http.StatusOK, completedXML{Namespace: namespace, Location: location, Bucket: r.name.Bucket, Key: r.name.Key, ETag: quote(r.etag(i))})
}

// promisedSize holds the size of the whole that a Complete may name against its parts. An upload that is not there any
// more is left to Complete, which knows whether this is the same request again.
func (r *request) promisedSize(chosen []object.Chosen) error {
	text := r.header("X-Amz-Mp-Object-Size")
	if text == "" {
		return nil
	}
	want, err := number(text)
	if err != nil {
		return errCode(invalidRequest, "Value for x-amz-mp-object-size header is invalid: '"+text+"'")
	}
	parts, err := r.objects.Parts(r.Context(), r.name, r.get("uploadId"))
	if errors.Is(err, object.ErrNoUpload) {
		return nil
	}
	if err != nil {
		return err
	}
	size := int64(0)
	for _, p := range parts {
		if slices.ContainsFunc(chosen, func(c object.Chosen) bool { return c.Number == p.Number }) {
			size += p.Size
		}
	}
	if size != want {
		return errCode(invalidRequest, fmt.Sprintf("The provided 'x-amz-mp-object-size' header value %d does not match what was computed: %d", want, size))
	}
	return nil
}

func (r *request) abortUpload() error {
	if err := r.objects.Abort(r.Context(), r.name, r.get("uploadId")); err != nil {
		return r.missing(err)
	}
	return r.noContent()
}

func (r *request) listParts() error {
	limit, err := r.limit("max-parts")
	if err != nil {
		return err
	}
	after, err := number(r.get("part-number-marker"))
	if err != nil {
		return errCode(invalidArgument, "part-number-marker must be a number.")
	}
	parts, err := r.objects.Parts(r.Context(), r.name, r.get("uploadId"))
	if err != nil {
		return r.missing(err)
	}
	out := partsXML{
		Namespace: namespace, Bucket: r.name.Bucket, Key: r.name.Key, UploadID: r.get("uploadId"),
		Initiator: owner, Owner: owner, StorageClass: "STANDARD", PartNumberMarker: int(after), MaxParts: limit,
	}
	for _, p := range parts {
		if int64(p.Number) <= after {
			continue
		}
		if len(out.Parts) == limit {
			out.IsTruncated = true
			break
		}
		out.Parts = append(out.Parts, partXML{p.Number, stamp(p.Modified), quote(p.Tag()), p.Size})
		out.NextPartNumberMarker = p.Number
	}
	return r.reply(http.StatusOK, out)
}

func (r *request) listUploads() error {
	limit, err := r.limit("max-uploads")
	if err != nil {
		return err
	}
	encode, err := r.encoding()
	if err != nil {
		return err
	}
	if r.get("delimiter") != "" {
		return errCode(notImplemented, "A delimiter in the list of uploads is not implemented.")
	}
	uploads, more, err := r.objects.Uploads(r.Context(), r.name.Bucket, r.get("prefix"), r.get("key-marker"), r.get("upload-id-marker"), limit)
	if err != nil {
		return err
	}
	out := uploadsXML{
		Namespace: namespace, Bucket: r.name.Bucket, KeyMarker: encode(r.get("key-marker")), UploadIDMarker: r.get("upload-id-marker"),
		Prefix: encode(r.get("prefix")), MaxUploads: limit, EncodingType: r.get("encoding-type"), IsTruncated: more,
	}
	for _, u := range uploads {
		out.Uploads = append(out.Uploads, uploadXML{encode(u.Key), u.ID, owner, owner, "STANDARD", stamp(u.Started)})
	}
	if more {
		last := uploads[len(uploads)-1]
		out.NextKeyMarker, out.NextUploadIDMarker = encode(last.Key), last.ID
	}
	return r.reply(http.StatusOK, out)
}
