package gcs

import (
	"context"
	"encoding/json"
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

// An adapter asks as TensorStore's gcs driver does, through two faces in turn.
type adapter struct {
	faces []*bench
	turn  atomic.Uint32
}

func (a *adapter) face() *bench {
	return a.faces[a.turn.Add(1)%uint32(len(a.faces))]
}

// match is a condition as a parameter; 0 stands for no object.
func match(parameter string, g conformance.Generation) string {
	switch g {
	case conformance.Unknown:
		return ""
	case conformance.NoValue:
		g = "0"
	}
	return "&" + parameter + "=" + string(g)
}

// Read implements conformance.Adapter.
func (a *adapter) Read(_ context.Context, r conformance.Read) (conformance.Result, error) {
	alt, header, want := "media", map[string]string{}, r.End-r.Start
	switch {
	case r.Last > 0:
		header["Range"], want = fmt.Sprintf("bytes=-%d", r.Last), r.Last
	case r.Whole:
		want = -1
	case r.End == conformance.All:
		header["Range"], want = fmt.Sprintf("bytes=%d-", r.Start), -1
	case r.Start == r.End:
		alt = "json"
	default:
		header["Range"] = fmt.Sprintf("bytes=%d-%d", r.Start, r.End-1)
	}
	got, err := a.face().try("GET", object1(r.Key)+"?alt="+alt+match("ifGenerationMatch", r.IfEqual)+match("ifGenerationNotMatch", r.IfNotEqual), header, nil)
	if err != nil {
		return conformance.Result{}, err
	}
	result := conformance.Result{State: conformance.Value, Generation: conformance.Generation(got.Header.Get("x-goog-generation")), Bytes: got.body}
	if alt == "json" {
		result.Bytes = nil
		var o struct {
			Size int64 `json:",string"`
		}
		if got.StatusCode == http.StatusOK && (json.Unmarshal(got.body, &o) != nil || o.Size < r.End) {
			return result, dramnode.ErrOutOfRange
		}
	}
	switch {
	case got.StatusCode == http.StatusNotFound:
		return conformance.Result{State: conformance.Missing, Generation: conformance.NoValue}, nil
	case got.StatusCode == http.StatusPreconditionFailed, got.StatusCode == http.StatusNotModified:
		if result.Generation == conformance.Unknown {
			return result, fmt.Errorf("an answer %d without generation", got.StatusCode)
		}
		return conformance.Result{State: conformance.Aborted, Generation: result.Generation}, nil
	case got.StatusCode == http.StatusRequestedRangeNotSatisfiable && r.End == conformance.All && got.Header.Get("Content-Range") == fmt.Sprintf("bytes */%d", r.Start):
		result.Bytes = nil // HTTP has no empty range: this is how it says that the value ends there
	case got.StatusCode == http.StatusRequestedRangeNotSatisfiable, alt == "media" && want >= 0 && int64(len(got.body)) != want:
		return result, dramnode.ErrOutOfRange
	case got.StatusCode/100 != 2:
		return result, fmt.Errorf("%d %s", got.StatusCode, got.body)
	}
	return result, nil
}

// Write implements conformance.Adapter.
func (a *adapter) Write(_ context.Context, key string, value []byte, condition conformance.Generation) (conformance.Generation, error) {
	got, err := a.face().try("POST", "/upload/storage/v1/b/b/o?uploadType=media&name="+url.QueryEscape(key)+match("ifGenerationMatch", condition), nil, value)
	if err != nil || got.StatusCode == http.StatusPreconditionFailed {
		return conformance.Unknown, err
	}
	var o objectJSON
	if err := json.Unmarshal(got.body, &o); err != nil || got.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%d %s: %v", got.StatusCode, got.body, err)
	}
	return conformance.Generation(o.Generation), nil
}

// Delete implements conformance.Adapter.
func (a *adapter) Delete(_ context.Context, key string, condition conformance.Generation) (conformance.Generation, error) {
	got, err := a.face().try("DELETE", object1(key)+"?"+match("ifGenerationMatch", condition), nil, nil)
	switch {
	case err != nil:
		return "", err
	case got.StatusCode == http.StatusNoContent:
		return conformance.NoValue, nil
	case got.StatusCode == http.StatusNotFound && (condition == conformance.Unknown || condition == conformance.NoValue):
		return conformance.NoValue, nil
	case got.StatusCode == http.StatusNotFound, got.StatusCode == http.StatusPreconditionFailed:
		return conformance.Unknown, nil
	}
	return "", fmt.Errorf("%d %s", got.StatusCode, got.body)
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
	query := url.Values{"startOffset": {min}, "maxResults": {"3"}}
	if max != "" {
		query.Set("endOffset", max)
	}
	for range 100 {
		if err := ctx.Err(); err != nil {
			return err
		}
		got, err := a.face().try("GET", "/storage/v1/b/b/o?"+query.Encode(), nil, nil)
		if err != nil {
			return err
		}
		var page struct {
			Items []struct {
				Name string
				Size int64 `json:",string"`
			}
			NextPageToken string
		}
		if err := json.Unmarshal(got.body, &page); err != nil || got.StatusCode != http.StatusOK {
			return fmt.Errorf("%d %s: %v", got.StatusCode, got.body, err)
		}
		for _, o := range page.Items {
			if strings.Compare(o.Name, min) < 0 || max != "" && strings.Compare(o.Name, max) >= 0 {
				return fmt.Errorf("%q is not in [%q,%q)", o.Name, min, max)
			}
			if !yield(conformance.Entry{Key: o.Name, Size: o.Size}) {
				return nil
			}
		}
		if page.NextPageToken == "" {
			return nil
		}
		query.Set("pageToken", page.NextPageToken)
	}
	return fmt.Errorf("the list does not end")
}

// Foreign implements conformance.Adapter.
func (a *adapter) Foreign() conformance.Generation { return "1415926535897932" }

// Lacks implements conformance.Adapter.
func (a *adapter) Lacks(f conformance.Feature) string {
	if f == conformance.ServerTime {
		return "the header Date has seconds"
	}
	return ""
}

func TestConformance(t *testing.T) {
	c := gatewaytest.NewCluster(t, 2, 64<<20)
	conformance.Run(t, &adapter{faces: []*bench{setup(t, c, 0, nil), setup(t, c, 1, nil)}})
}

func TestReplicatedConformance(t *testing.T) {
	c := gatewaytest.NewCluster(t, 3, 64<<20, gatewaytest.Replicated)
	conformance.Run(t, &adapter{faces: []*bench{setup(t, c, 0, nil), setup(t, c, 1, nil)}})
}
