package s3

import (
	"bytes"
	"encoding/base64"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

type readCloser struct{ io.Reader }

func (readCloser) Close() error { return nil }

func crc32Of(b []byte) string {
	h := crc32.NewIEEE()
	h.Write(b)
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// Whatever comes, the decoder ends, yields no more than was announced, and ends well only after exactly that.
func FuzzChunks(f *testing.F) {
	f.Add(chunked(nil, []byte("some bytes"), 4), int64(10), false)
	f.Add(chunked(nil, []byte("some bytes"), 4, "x-amz-checksum-crc32:AAAA"), int64(10), true)
	f.Add([]byte("-5\r\n"), int64(5), false)
	f.Add([]byte("ffffffffffff;chunk-signature=\r\n"), int64(1), true)
	f.Fuzz(func(t *testing.T, in []byte, size int64, trailers bool) {
		if size < 0 || size > 1<<20 {
			return
		}
		c := newChunks(bytes.NewReader(in), size)
		c.trailers = trailers
		out, err := io.ReadAll(c)
		if int64(len(out)) > size || err == nil && int64(len(out)) != size {
			t.Fatalf("%d bytes of %d, %v", len(out), size, err)
		}
		if err != nil {
			return
		}
		again, err := io.ReadAll(newChunks(bytes.NewReader(chunked(nil, out, 7)), size))
		if err != nil || !bytes.Equal(again, out) {
			t.Fatalf("encoded again it reads %d bytes, %v", len(again), err)
		}
	})
}

// A signature that nobody made is never accepted, and no header brings the parser down.
func FuzzAuthorization(f *testing.F) {
	f.Add("AWS4-HMAC-SHA256 Credential=a/20130524/us-east-1/s3/aws4_request,SignedHeaders=host;x-amz-date,Signature=00", "X-Amz-Expires=1", "20130524T000000Z")
	f.Add("", "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=00", "")
	face := &face{cfg: Config{Keys: map[string]string{"a": "secret"}}}
	f.Fuzz(func(t *testing.T, auth, query, date string) {
		q, err := parseQuery(query)
		if err != nil {
			return
		}
		r := httptest.NewRequest(http.MethodPut, "/b/k", nil)
		r.Header.Set("Authorization", auth)
		r.Header.Set("X-Amz-Date", date)
		r.Header.Set("X-Amz-Content-Sha256", unsignedPayload)
		if who, err := face.authenticate(r, q, time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)); err == nil {
			t.Fatalf("accepted: %+v", who)
		}
	})
}

func FuzzTags(f *testing.F) {
	f.Add(`"0123456789abcdef-1", W/"x", *`)
	f.Fuzz(func(t *testing.T, header string) {
		for _, tag := range tags(header) {
			if g, ok := generation(tag); ok && g == 0 && tag[:16] != "0000000000000000" {
				t.Fatalf("%q is generation 0", tag)
			}
		}
	})
}
