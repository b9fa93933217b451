package s3

import (
	"encoding/base64"
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/gateway/object"
)

// newBucket is what a new bucket may be called; one that is there already may have any name that a bucket can have.
var newBucket = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// notConfigured are the answers about what a bucket cannot have.
var notConfigured = map[string]code{
	"cors":              {"NoSuchCORSConfiguration", http.StatusNotFound},
	"encryption":        {"ServerSideEncryptionConfigurationNotFoundError", http.StatusNotFound},
	"lifecycle":         {"NoSuchLifecycleConfiguration", http.StatusNotFound},
	"object-lock":       {"ObjectLockConfigurationNotFoundError", http.StatusNotFound},
	"ownershipControls": {"OwnershipControlsNotFoundError", http.StatusNotFound},
	"policy":            {"NoSuchBucketPolicy", http.StatusNotFound},
	"publicAccessBlock": {"NoSuchPublicAccessBlockConfiguration", http.StatusNotFound},
	"replication":       {"ReplicationConfigurationNotFoundError", http.StatusNotFound},
	"tagging":           {"NoSuchTagSet", http.StatusNotFound},
	"website":           {"NoSuchWebsiteConfiguration", http.StatusNotFound},
}

func (r *request) serveBucket() error {
	if sub := r.refused(bucketRefused); sub != "" {
		return errCode(notImplemented, "?"+sub+" of buckets is not implemented.")
	}
	for sub, missing := range notConfigured {
		if !r.has(sub) {
			continue
		}
		if r.Method != http.MethodGet {
			return errCode(notImplemented, "?"+sub+" of buckets is not implemented.")
		}
		if err := r.objects.NeedBucket(r.Context(), r.name.Bucket); err != nil {
			return err
		}
		return errCode(missing, "The bucket has no "+sub+" configuration.")
	}
	switch r.Method {
	case http.MethodHead:
		return r.headBucket()
	case http.MethodGet:
		return r.getBucket()
	case http.MethodPut:
		if r.has("acl") || r.has("versioning") {
			return errCode(notImplemented, "Access control lists and versions are not kept.")
		}
		return r.makeBucket()
	case http.MethodDelete:
		if err := r.objects.RemoveBucket(r.Context(), r.name.Bucket); err != nil {
			return err
		}
		return r.noContent()
	case http.MethodPost:
		if r.has("delete") {
			return r.deleteObjects()
		}
		return errCode(notImplemented, "Uploads by a form are not implemented.")
	}
	return errCode(methodNotAllowed, "The specified method is not allowed against this resource.")
}

func (r *request) headBucket() error {
	if err := r.objects.NeedBucket(r.Context(), r.name.Bucket); err != nil {
		return err
	}
	r.w.WriteHeader(http.StatusOK)
	return nil
}

func (r *request) getBucket() error {
	switch {
	case r.has("uploads"):
		return r.listUploads()
	case r.has("location"):
		return r.aboutBucket(locationXML{Namespace: namespace, Region: strings.TrimPrefix(r.cfg.Region, "us-east-1")})
	case r.has("versioning"):
		return r.aboutBucket(versioningXML{Namespace: namespace})
	case r.has("acl"):
		if err := r.objects.NeedBucket(r.Context(), r.name.Bucket); err != nil {
			return err
		}
		return r.acl()
	}
	return r.listObjects()
}

func (r *request) aboutBucket(document any) error {
	if err := r.objects.NeedBucket(r.Context(), r.name.Bucket); err != nil {
		return err
	}
	return r.reply(http.StatusOK, document)
}

func (r *request) makeBucket() error {
	if !newBucket.MatchString(r.name.Bucket) {
		return errCode(invalidBucketName, "The specified bucket is not valid.")
	}
	if r.header("X-Amz-Bucket-Object-Lock-Enabled") == "true" {
		return errCode(notImplemented, "Object lock is not implemented.")
	}
	var configuration struct {
		LocationConstraint string
		Tags               *struct{}
	}
	if err := r.read(&configuration, true); err != nil {
		return err
	}
	if configuration.Tags != nil {
		return errCode(notImplemented, "Tags of buckets are not kept.")
	}
	if err := r.objects.MakeBucket(r.Context(), r.name.Bucket); err != nil {
		return err
	}
	r.w.Header().Set("Location", "/"+r.name.Bucket)
	r.w.WriteHeader(http.StatusOK)
	return nil
}

func (r *request) listBuckets() error {
	buckets, err := r.objects.Buckets(r.Context())
	if err != nil {
		return err
	}
	limit := object.MaxBuckets
	if text := r.get("max-buckets"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > object.MaxBuckets {
			return errCode(invalidArgument, "Argument max-buckets must be an integer between 1 and 10000.")
		}
	}
	after, err := base64.URLEncoding.DecodeString(r.get("continuation-token"))
	if err != nil {
		return errCode(invalidArgument, "The continuation token provided is incorrect.")
	}
	out := bucketsXML{Namespace: namespace, Owner: owner, Prefix: r.get("prefix")}
	for _, b := range buckets {
		if b.Name <= string(after) || !strings.HasPrefix(b.Name, out.Prefix) {
			continue
		}
		if len(out.Buckets) == limit {
			out.ContinuationToken = base64.URLEncoding.EncodeToString([]byte(out.Buckets[limit-1].Name))
			break
		}
		out.Buckets = append(out.Buckets, bucketXML{b.Name, stamp(b.Created)})
	}
	return r.reply(http.StatusOK, out)
}

// limit reads the parameter that says how long an answer may be.
func (r *request) limit(parameter string) (int, error) {
	text := r.get(parameter)
	if text == "" {
		return maxListed, nil
	}
	n, err := number(text)
	if err != nil || n > 1<<31-1 {
		return 0, errCode(invalidArgument, "Provided "+parameter+" not an integer or within integer range.")
	}
	return int(min(n, maxListed)), nil
}

// encoding returns how keys are written in the answer.
func (r *request) encoding() (func(string) string, error) {
	switch r.get("encoding-type") {
	case "":
		return func(s string) string { return s }, nil
	case "url":
		return func(s string) string { return escape(s, true) }, nil
	}
	return nil, errCode(invalidArgument, "Invalid Encoding Method specified in Request.")
}

// listObjects is both versions of the list. Keys that XML cannot hold are left out unless the client asks for
// the URL encoding; the header x-dramnode-skipped-keys says how many.
func (r *request) listObjects() error {
	limit, err := r.limit("max-keys")
	if err != nil {
		return err
	}
	encode, err := r.encoding()
	if err != nil {
		return err
	}
	if !utf8.ValidString(r.get("prefix") + r.get("delimiter") + r.get("marker") + r.get("start-after")) {
		return errCode(invalidArgument, "Parameters must be UTF-8.")
	}
	v2 := r.get("list-type") == "2"
	q := object.Query{Bucket: r.name.Bucket, Prefix: r.get("prefix"), Delimiter: r.get("delimiter"), Limit: limit}
	if q.After, err = r.after(v2); err != nil {
		return err
	}
	page, err := r.objects.List(r.Context(), q)
	if err != nil {
		return err
	}
	out := listXML{
		Namespace: namespace, Name: q.Bucket, Prefix: encode(q.Prefix), Delimiter: encode(q.Delimiter), MaxKeys: limit,
		EncodingType: r.get("encoding-type"), IsTruncated: page.More,
	}
	withOwner := !v2 || r.get("fetch-owner") == "true"
	for _, e := range page.Entries {
		switch {
		case out.EncodingType == "" && !printable(e.Key):
			page.Skipped++
		case e.Prefix:
			out.CommonPrefixes = append(out.CommonPrefixes, prefixXML{encode(e.Key)})
		default:
			o := objectXML{Key: encode(e.Key), LastModified: stamp(e.Modified), ETag: quote(r.etag(e.Info)), Size: e.Size, StorageClass: "STANDARD", wholeSumXML: kindXML(e.Sum.SumKind)}
			if withOwner {
				o.Owner = &owner
			}
			out.Contents = append(out.Contents, o)
		}
	}
	if page.Skipped > 0 {
		r.w.Header().Set("x-dramnode-skipped-keys", strconv.Itoa(page.Skipped))
	}
	r.mark(&out, page, v2, encode)
	return r.reply(http.StatusOK, out)
}

// after is the key behind which the page begins.
func (r *request) after(v2 bool) (string, error) {
	if !v2 {
		return r.get("marker"), nil
	}
	if !r.has("continuation-token") {
		return r.get("start-after"), nil
	}
	key, err := base64.URLEncoding.DecodeString(r.get("continuation-token"))
	if err != nil || len(key) == 0 || !utf8.Valid(key) {
		return "", errCode(invalidArgument, "The continuation token provided is incorrect.")
	}
	return string(key), nil
}

// mark says where the page begins and ends.
func (r *request) mark(out *listXML, page object.Page, v2 bool, encode func(string) string) {
	next := ""
	if page.More {
		next = page.Entries[len(page.Entries)-1].Key
	}
	if !v2 {
		marker := encode(r.get("marker"))
		out.Marker = &marker
		if out.Delimiter != "" {
			out.NextMarker = encode(next)
		}
		return
	}
	count := len(out.Contents) + len(out.CommonPrefixes)
	out.KeyCount, out.StartAfter, out.ContinuationToken = &count, encode(r.get("start-after")), r.get("continuation-token")
	if next != "" {
		out.NextContinuationToken = base64.URLEncoding.EncodeToString([]byte(next))
	}
}

// printable tells whether XML 1.0 can hold a key.
func printable(key string) bool {
	return !strings.ContainsFunc(key, func(c rune) bool {
		return c < 0x20 && c != '\t' && c != '\n' && c != '\r' || c == 0xFFFE || c == 0xFFFF
	})
}

func (r *request) deleteObjects() error {
	var asked deleteXML
	if err := r.read(&asked, false); err != nil {
		return err
	}
	if len(asked.Objects) == 0 || len(asked.Objects) > maxListed {
		return errMalformedXML
	}
	if err := r.objects.NeedBucket(r.Context(), r.name.Bucket); err != nil {
		return err
	}
	out := deletedXML{Namespace: namespace}
	for _, o := range asked.Objects {
		err := errUnknownCondition
		if o.LastModifiedTime == nil && o.Size == nil {
			err = r.deleteOne(o.Key, o.VersionID, o.ETag)
		}
		if err != nil {
			f := faultOf(err)
			out.Errors = append(out.Errors, deleteErrorXML{o.Key, f.name, f.message})
		} else if !asked.Quiet {
			out.Deleted = append(out.Deleted, deletedKeyXML{o.Key})
		}
	}
	return r.reply(http.StatusOK, out)
}

var errUnknownCondition = errCode(notImplemented, "Conditions on the time or the size of an object are not implemented.")

func (r *request) deleteOne(key, version, tag string) error {
	one := *r
	one.name.Key = key
	if version != "" && version != "null" {
		return errCode(notImplemented, "Versions are not kept.")
	}
	var when []client.Option
	if tag != "" {
		var err error
		if when, err = one.writeConditions(tag, ""); err != nil {
			return absentIsGone(err)
		}
	}
	_, err := r.objects.Delete(r.Context(), one.name, when...)
	return absentIsGone(refusedWrite(err, tag))
}

// absentIsGone makes nothing of an object that is not there.
func absentIsGone(err error) error {
	if f := new(fault); errors.As(err, &f) && f.name == noSuchKey.name || errors.Is(err, dramnode.ErrNotFound) {
		return nil
	}
	return err
}
