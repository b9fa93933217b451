package gcs

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/gateway/gatewaytest"
	"github.com/dramnode/dramnode/gateway/object"
)

// Whatever is asked, the answer is one of the API and no fault of ours, and nothing changes outside the buckets.
func FuzzRequest(f *testing.F) {
	for _, in := range [][3]string{
		{"GET", "b/b/o/k", "alt=media&ifGenerationNotMatch=0"}, {"GET", "b/b/o/a%2Fb%FF", "generation=1"}, {"DELETE", "b/b/o/k", "ifGenerationMatch=18446744073709551616"},
		{"GET", "b/b/o", "delimiter=/&maxResults=2&pageToken=YQ==&startOffset=%ff"}, {"POST", "b/b/o", "uploadType=media&name=a%00"}, {"POST", "b", ""}, {"GET", "b//o//", "%zz&=;"},
	} {
		f.Add(in[0], in[1], in[2], "bytes=1-", []byte(`{"name":"made"}`))
	}
	store := gatewaytest.NewCluster(f, 1, 64<<20).Inside(0)
	face := newFace(Config{Log: zerolog.Nop()}, store)
	if err := face.objects.MakeBucket(context.Background(), "b"); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, path, query, ranges string, body []byte) {
		for _, root := range []string{"/storage/v1/", "/upload/storage/v1/", "/download/storage/v1/"} {
			u, err := url.ParseRequestURI(root + path)
			if err != nil || len(body) > 1<<20 {
				return // no server would see it
			}
			u.RawQuery = query
			r := &http.Request{Method: method, URL: u, Header: http.Header{"Range": {ranges}}, Body: http.NoBody, ContentLength: int64(len(body))}
			r.Body = httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body)).Body
			w := httptest.NewRecorder()
			face.ServeHTTP(w, r)
			var e errorJSON
			ours := w.Code >= 500 && w.Code != http.StatusNotImplemented && w.Code != http.StatusInsufficientStorage
			if ours || w.Code >= 400 && (json.Unmarshal(w.Body.Bytes(), &e) != nil || e.Error.Code != w.Code) {
				t.Fatalf("%s %s: %d %s", method, u, w.Code, w.Body)
			}
		}
		for e, err := range store.List(context.Background(), client.Query{}) {
			bucket, _, ok := strings.Cut(strings.TrimPrefix(string(e.Key), object.Hidden), "/")
			if err != nil || !ok || !strings.HasPrefix(string(e.Key), object.Hidden) && object.CheckBucket(bucket) != nil {
				t.Fatalf("%q is stored, %v", e.Key, err)
			}
		}
	})
}
