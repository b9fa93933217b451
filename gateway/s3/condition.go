package s3

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/gateway/object"
)

// etag is the entity tag of an object, without quotes. It holds a dash where it is no MD5, so that clients do not
// take it for one.
func (f *face) etag(i object.Info) string {
	switch {
	case f.cfg.MD5 && i.MD5 != "" && i.Parts != nil:
		return fmt.Sprintf("%s-%d", i.MD5, len(i.Parts))
	case f.cfg.MD5 && i.MD5 != "":
		return i.MD5
	}
	return fmt.Sprintf("%016x-%d", uint64(i.Generation), max(1, len(i.Parts)))
}

func quote(tag string) string { return `"` + tag + `"` }

// generation returns the one that a tag of this face names.
func generation(tag string) (dramnode.Generation, bool) {
	digits, parts, ok := strings.Cut(tag, "-")
	g, err := strconv.ParseUint(digits, 16, 64)
	if _, partsErr := strconv.ParseUint(parts, 10, 16); !ok || len(digits) != 16 || err != nil || partsErr != nil {
		return 0, false
	}
	return dramnode.Generation(g), true
}

// tags splits the value of If-Match or If-None-Match. A weak tag matches nothing, since all of ours are strong.
func tags(header string) []string {
	var list []string
	for tag := range strings.SplitSeq(header, ",") {
		if tag = strings.TrimSpace(tag); !strings.HasPrefix(tag, "W/") {
			list = append(list, strings.Trim(tag, `"`))
		}
	}
	return list
}

// matches tells whether one of the tags is the object's.
func (f *face) matches(header string, i object.Info) bool {
	current := f.etag(i)
	for _, tag := range tags(header) {
		if g, ok := generation(tag); tag == "*" || tag == current || ok && g == i.Generation {
			return true
		}
	}
	return false
}

// conditions are the headers that make a read conditional; those for the source of a copy have a prefix.
type conditions struct{ ifMatch, ifNoneMatch, ifModified, ifUnmodified string }

func (r *request) conditions(prefix string) conditions {
	return conditions{r.header(prefix + "If-Match"), r.header(prefix + "If-None-Match"), r.header(prefix + "If-Modified-Since"), r.header(prefix + "If-Unmodified-Since")}
}

// options has the owner check what it can; check looks at the rest.
func (c conditions) options() []client.Option {
	var when []client.Option
	g, first := generation(strings.Trim(c.ifMatch, `"`))
	if first {
		when = append(when, client.IfGeneration(g))
	}
	first = first || c.ifMatch == "" && c.ifUnmodified == "" // of those that stand before If-None-Match none is left to check
	if g, ok := generation(strings.Trim(c.ifNoneMatch, `"`)); ok && first {
		when = append(when, client.IfNotGeneration(g))
	}
	return when
}

var (
	errPrecondition = errCode(preconditionFailed, "At least one of the pre-conditions you specified did not hold.")
	errNotModified  = errCode(notModified, "Not Modified")
)

// check decides like RFC 9110 section 13.2.2.
func (c conditions) check(f *face, i object.Info) error {
	modified := i.Modified.Truncate(time.Second)
	if c.ifMatch != "" {
		if !f.matches(c.ifMatch, i) {
			return errPrecondition
		}
	} else if at, err := http.ParseTime(c.ifUnmodified); err == nil && modified.After(at) {
		return errPrecondition
	}
	if c.ifNoneMatch != "" {
		if f.matches(c.ifNoneMatch, i) {
			return errNotModified
		}
	} else if at, err := http.ParseTime(c.ifModified); err == nil && !modified.After(at) {
		return errNotModified
	}
	return nil
}

// failed is what a generation mismatch of a read under these conditions means.
func (c conditions) failed(f *face, current dramnode.Generation) error {
	if g, ok := generation(strings.Trim(c.ifMatch, `"`)); ok && g != current {
		return errPrecondition
	}
	return errNotModified
}

// writeConditions are those of a PUT, POST or DELETE, for the owner to check.
func (r *request) writeConditions(ifMatch, ifNoneMatch string) ([]client.Option, error) {
	switch {
	case ifMatch != "" && ifNoneMatch != "":
		return nil, errCode(notImplemented, "If-Match and If-None-Match together are not implemented.")
	case ifNoneMatch == "*":
		return []client.Option{client.IfAbsent()}, nil
	case ifNoneMatch != "":
		return nil, errCode(notImplemented, "A write takes only If-None-Match: *.")
	case ifMatch == "":
		return nil, nil
	}
	if g, ok := generation(strings.Trim(ifMatch, `"`)); ok {
		return []client.Option{client.IfGeneration(g)}, nil
	}
	// An MD5 or a list: find out which generation it is now, and let the owner see whether that still holds.
	i, err := r.objects.Stat(r.Context(), r.name)
	if err != nil {
		return nil, r.missing(err)
	}
	if !r.matches(ifMatch, i) {
		return nil, errPrecondition
	}
	return []client.Option{client.IfGeneration(i.Generation)}, nil
}

// refusedWrite says what an error of a conditional write means: with If-Match, an absent object is no failed
// condition but none to write on.
func refusedWrite(err error, ifMatch string) error {
	mismatch := new(dramnode.GenerationError)
	if !errors.As(err, &mismatch) {
		return err
	}
	if ifMatch != "" && mismatch.Current == dramnode.Absent {
		return errCode(noSuchKey, "The specified key does not exist.")
	}
	return errPrecondition
}

// missing tells a missing bucket from a missing object or upload.
func (r *request) missing(err error) error {
	if !errors.Is(err, dramnode.ErrNotFound) && !errors.Is(err, object.ErrNoUpload) {
		return err
	}
	if bucketErr := r.objects.NeedBucket(r.Context(), r.name.Bucket); bucketErr != nil {
		return bucketErr
	}
	return err
}

// number reads decimal digits; "" is 0.
func number(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 62)
	return int64(n), err
}
