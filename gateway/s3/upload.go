package s3

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/dramnode/dramnode/gateway/object"
)

const maxListed = 1000 // keys, parts or uploads in one answer

func (r *request) beginUpload() error {
	header, err := r.metadata()
	if err != nil {
		return err
	}
	kind, err := r.sumKind()
	if err != nil {
		return err
	}
	u, err := r.objects.Begin(r.Context(), r.name, header, kind)
	if err != nil {
		return err
	}
	if kind.Algorithm != "" {
		r.w.Header().Set(checksumPrefix+"Algorithm", strings.ToUpper(kind.Algorithm))
		r.w.Header().Set(checksumPrefix+"Type", typeOf(kind))
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
	told := body.given()
	p, err := r.objects.PutPart(r.Context(), r.name, r.get("uploadId"), n, func(k object.SumKind) (object.Body, error) {
		told = cmp.Or(told, k.Algorithm)
		return body.body(), body.ofPart(k)
	})
	if err != nil {
		return r.missing(err)
	}
	for _, s := range p.Sums {
		if s.Algorithm == told {
			r.tellSum(s)
		}
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
	var sum object.Sum
	err = o.Pipe(func(body object.Body) (err error) {
		c := &checkedReader{r: body.Reader, size: body.Size}
		var kind object.SumKind
		p, err = r.objects.PutPart(r.Context(), r.name, r.get("uploadId"), n, func(k object.SumKind) (object.Body, error) {
			kind = k
			c.keep(cmp.Or(k.Algorithm, object.DefaultSum))
			return c.body(), nil
		})
		if err == nil && kind.Algorithm != "" {
			sum = p.Sums[0]
		}
		return err
	})
	if err != nil {
		return r.missing(err)
	}
	return r.reply(http.StatusOK, copyXML{XMLName: xml.Name{Local: "CopyPartResult"}, ETag: quote(p.Tag()), LastModified: stamp(p.Modified), Sums: sumsXML(sum)})
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
	var said []object.Sum
	for _, p := range asked.Parts {
		if p.ETag == "" || p.PartNumber == nil {
			return errMalformedXML
		}
		if *p.PartNumber < 1 {
			return errCode(invalidArgument, "PartNumber must be >= 1")
		}
		sum, err := saidOfPart(p.Sums)
		if err != nil {
			return err
		}
		chosen, said = append(chosen, object.Chosen{Number: *p.PartNumber, Tag: p.ETag}), append(said, sum)
	}
	if err := r.checkPromises(); err != nil {
		return err
	}
	i, err := r.objects.Complete(r.Context(), r.name, r.get("uploadId"), chosen, func(a object.Assembly) error { return r.vet(a, said) }, when...)
	if err != nil {
		return refusedWrite(r.missing(err), ifMatch)
	}
	location := "http://" + r.Host + r.URL.EscapedPath()
	return r.reply(http.StatusOK, completedXML{Namespace: namespace, Location: location, Bucket: r.name.Bucket, Key: r.name.Key, ETag: quote(r.etag(i)), Sums: sumsXML(i.Sum), ChecksumType: kindXML(i.Sum.SumKind).ChecksumType})
}

// promisedSize is the size of the whole that a Complete may name; -1 when it names none.
func (r *request) promisedSize() (int64, error) {
	text := r.header("X-Amz-Mp-Object-Size")
	if text == "" {
		return -1, nil
	}
	size, err := number(text)
	if err != nil {
		return 0, errCode(invalidRequest, "Value for x-amz-mp-object-size header is invalid: '"+text+"'")
	}
	return size, nil
}

// checkPromises refuses headers of a Complete that cannot be right, whatever the upload.
func (r *request) checkPromises() error {
	_, sizeErr := r.promisedSize()
	_, _, sumErr := r.saidOfWhole()
	return cmp.Or(sizeErr, sumErr)
}

// vet holds what a Complete says of the parts, and of the whole, against them.
func (r *request) vet(a object.Assembly, said []object.Sum) error {
	for i, p := range a.Parts {
		if err := vetPart(a.Kind, p, said[i]); err != nil {
			return err
		}
	}
	want, err := r.promisedSize()
	if err == nil && want >= 0 && want != a.Size {
		err = errCode(invalidRequest, fmt.Sprintf("The provided 'x-amz-mp-object-size' header value %d does not match what was computed: %d", want, a.Size))
	}
	return cmp.Or(err, r.vetWhole(a))
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
	parts, kind, err := r.objects.Parts(r.Context(), r.name, r.get("uploadId"))
	if err != nil {
		return r.missing(err)
	}
	out := partsXML{
		Namespace: namespace, Bucket: r.name.Bucket, Key: r.name.Key, UploadID: r.get("uploadId"),
		Initiator: owner, Owner: owner, StorageClass: "STANDARD", PartNumberMarker: int(after), MaxParts: limit,
		wholeSumXML: kindXML(kind),
	}
	for _, p := range parts {
		if int64(p.Number) <= after {
			continue
		}
		if len(out.Parts) == limit {
			out.IsTruncated = true
			break
		}
		part := partXML{PartNumber: p.Number, LastModified: stamp(p.Modified), ETag: quote(p.Tag()), Size: p.Size}
		if kind.Algorithm != "" && len(p.Sums) > 0 {
			part.Sums = sumsXML(p.Sums[0])
		}
		out.Parts = append(out.Parts, part)
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
		out.Uploads = append(out.Uploads, uploadXML{encode(u.Key), u.ID, owner, owner, "STANDARD", stamp(u.Started), kindXML(u.Kind)})
	}
	if more {
		last := uploads[len(uploads)-1]
		out.NextKeyMarker, out.NextUploadIDMarker = encode(last.Key), last.ID
	}
	return r.reply(http.StatusOK, out)
}
