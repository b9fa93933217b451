package s3

import (
	"context"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/gateway/conformance"
	"github.com/dramnode/dramnode/gateway/gatewaytest"
)

// An adapter asks as TensorStore's s3 driver does, through two faces in turn; only its delete is conditional in one
// request, which that driver does not know yet.
type adapter struct {
	faces []*bench
	turn  atomic.Uint32
}

func (a *adapter) face() *bench {
	return a.faces[a.turn.Add(1)%uint32(len(a.faces))]
}

func path(key string) string { return "/b/" + (&url.URL{Path: key}).EscapedPath() }

// tagOf is a generation as a header has it.
func tagOf(g conformance.Generation) string {
	if g == conformance.NoValue {
		return `""`
	}
	return string(g)
}

// Read implements conformance.Adapter.
func (a *adapter) Read(_ context.Context, r conformance.Read) (conformance.Result, error) {
	method, header, want := "GET", map[string]string{}, r.End-r.Start
	switch {
	case r.Last > 0:
		header["Range"], want = fmt.Sprintf("bytes=-%d", r.Last), r.Last
	case r.Whole:
		want = -1
	case r.End == conformance.All:
		header["Range"], want = fmt.Sprintf("bytes=%d-", r.Start), -1
	case r.Start == r.End:
		method = "HEAD"
	default:
		header["Range"] = fmt.Sprintf("bytes=%d-%d", r.Start, r.End-1)
	}
	if r.IfEqual != conformance.Unknown {
		header["If-Match"] = tagOf(r.IfEqual)
	}
	if r.IfNotEqual != conformance.Unknown {
		header["If-None-Match"] = tagOf(r.IfNotEqual)
	}
	b := a.face()
	got, err := b.try(method, path(r.Key), header, nil)
	if err != nil {
		return conformance.Result{}, err
	}
	result := conformance.Result{State: conformance.Value, Generation: conformance.Generation(got.tag()), Bytes: got.body}
	switch {
	case got.StatusCode == http.StatusNotFound:
		return conformance.Result{State: conformance.Missing, Generation: conformance.NoValue}, nil
	case got.StatusCode == http.StatusPreconditionFailed, got.StatusCode == http.StatusNotModified:
		result.State, result.Bytes = conformance.Aborted, nil
		if result.Generation == conformance.Unknown {
			return result, fmt.Errorf("an answer %d without ETag", got.StatusCode)
		}
		return result, nil
	case got.StatusCode == http.StatusRequestedRangeNotSatisfiable && r.End == conformance.All && got.Header.Get("Content-Range") == fmt.Sprintf("bytes */%d", r.Start):
		result.Bytes = nil // HTTP has no empty range: this is how it says that the value ends there
	case got.StatusCode == http.StatusRequestedRangeNotSatisfiable, method == "HEAD" && r.End > got.ContentLength, method == "GET" && want >= 0 && int64(len(got.body)) != want:
		return result, dramnode.ErrOutOfRange
	case got.StatusCode/100 != 2:
		return result, fmt.Errorf("%d %s", got.StatusCode, got.body)
	}
	return result, nil
}

func (a *adapter) write(method, key string, value []byte, header map[string]string) (conformance.Generation, error) {
	got, err := a.face().try(method, path(key), header, value)
	switch {
	case err != nil:
		return "", err
	case got.StatusCode == http.StatusPreconditionFailed, got.StatusCode == http.StatusNotFound && len(header) > 0:
		return conformance.Unknown, nil
	case got.StatusCode == http.StatusNoContent:
		return conformance.NoValue, nil
	case got.StatusCode != http.StatusOK:
		return "", fmt.Errorf("%d %s", got.StatusCode, got.body)
	}
	return conformance.Generation(got.tag()), nil
}

// Write implements conformance.Adapter.
func (a *adapter) Write(_ context.Context, key string, value []byte, condition conformance.Generation) (conformance.Generation, error) {
	header := map[string]string{}
	switch condition {
	case conformance.Unknown:
	case conformance.NoValue:
		header["If-None-Match"] = "*"
	default:
		header["If-Match"] = string(condition)
	}
	return a.write("PUT", key, value, header)
}

// Delete implements conformance.Adapter.
func (a *adapter) Delete(ctx context.Context, key string, condition conformance.Generation) (conformance.Generation, error) {
	header := map[string]string{}
	switch condition {
	case conformance.Unknown:
	case conformance.NoValue: // the protocol has no such delete
		r, err := a.Read(ctx, conformance.Read{Key: key})
		if err != nil || r.State == conformance.Missing {
			return conformance.NoValue, err
		}
		return conformance.Unknown, nil
	default:
		header["If-Match"] = string(condition)
	}
	return a.write("DELETE", key, nil, header)
}

// DeleteRange implements conformance.Adapter.
func (a *adapter) DeleteRange(ctx context.Context, min, max string) error {
	var keys []string
	err := a.List(ctx, min, max, func(e conformance.Entry) bool {
		keys = append(keys, e.Key)
		return true
	})
	for _, key := range keys {
		if _, deleteErr := a.Delete(ctx, key, conformance.Unknown); err == nil {
			err = deleteErr
		}
	}
	return err
}

// List implements conformance.Adapter.
func (a *adapter) List(ctx context.Context, min, max string, yield func(conformance.Entry) bool) error {
	token := ""
	for range 100 {
		if err := ctx.Err(); err != nil {
			return err
		}
		got, err := a.face().try("GET", "/b?list-type=2&max-keys=3"+token, nil, nil)
		if err != nil {
			return err
		}
		var page listXML
		if err := xml.Unmarshal(got.body, &page); err != nil || got.StatusCode != http.StatusOK {
			return fmt.Errorf("%d %s: %v", got.StatusCode, got.body, err)
		}
		for _, o := range page.Contents {
			if strings.Compare(o.Key, min) < 0 || max != "" && strings.Compare(o.Key, max) >= 0 {
				continue
			}
			if !yield(conformance.Entry{Key: o.Key, Size: o.Size}) {
				return nil
			}
		}
		if !page.IsTruncated {
			return nil
		}
		token = "&continuation-token=" + url.QueryEscape(page.NextContinuationToken)
	}
	return fmt.Errorf("the list does not end")
}

// Foreign implements conformance.Adapter.
func (a *adapter) Foreign() conformance.Generation { return `"abcdef1234567890"` }

// Lacks implements conformance.Adapter.
func (a *adapter) Lacks(f conformance.Feature) string {
	if f == conformance.ServerTime {
		return "the header Date has seconds"
	}
	return ""
}

func TestConformance(t *testing.T) {
	c := gatewaytest.NewCluster(t, 2, 64<<20)
	conformance.Run(t, &adapter{faces: []*bench{setupOn(t, c, 0, nil), setupOn(t, c, 1, nil)}})
}

func TestReplicatedConformance(t *testing.T) {
	c := gatewaytest.NewCluster(t, 3, 64<<20, gatewaytest.Replicated)
	conformance.Run(t, &adapter{faces: []*bench{setupOn(t, c, 0, nil), setupOn(t, c, 1, nil)}})
}
