package s3

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/gateway/gatewaytest"
	"github.com/dramnode/dramnode/gateway/object"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A bench is a face with a client that signs.
type bench struct {
	t     testing.TB
	http  *http.Client
	addr  string
	key   string // "" signs nothing
	inner *client.Client
}

const (
	testKey    = "AKIDEXAMPLE"
	testSecret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
)

// setup serves a face of node 0 of a cluster. It has the bucket b.
func setup(t testing.TB, nodes int, change func(*Config)) *bench {
	t.Helper()
	return setupOn(t, gatewaytest.NewCluster(t, nodes, 128<<20), 0, change)
}

func setupOn(t testing.TB, c *gatewaytest.Cluster, node int, change func(*Config)) *bench {
	t.Helper()
	cfg := Config{Log: zerolog.Nop(), Objects: object.Config{ChunkBytes: 256 << 10, MinPartBytes: 1 << 10, Grace: time.Millisecond}}
	if change != nil {
		change(&cfg)
	}
	b := &bench{t: t, inner: c.Inside(node), http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	if len(cfg.Keys) > 0 {
		b.key = testKey
	}
	b.addr = gatewaytest.Serve(t, Serve(cfg), b.inner)
	t.Cleanup(b.http.CloseIdleConnections)
	err := object.New(object.Config{Store: b.inner}).MakeBucket(context.Background(), "b")
	if err != nil && !errors.Is(err, object.ErrBucketExists) {
		t.Fatal(err)
	}
	return b
}

// An answer is a response that was read.
type answer struct {
	*http.Response
	body []byte
}

// do sends one request, signed if there are keys. path holds the query.
func (b *bench) do(method, path string, header map[string]string, body []byte) answer {
	b.t.Helper()
	a, err := b.try(method, path, header, body)
	if err != nil {
		b.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

func (b *bench) try(method, path string, header map[string]string, body []byte) (answer, error) {
	r, err := http.NewRequest(method, "http://"+b.addr+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	if b.key != "" {
		sum := sha256.Sum256(body)
		if r.Header.Get("X-Amz-Content-Sha256") == "" {
			r.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:]))
		}
		sign(r, b.key, testSecret, time.Now())
	}
	return b.send(r)
}

func (b *bench) send(r *http.Request) (answer, error) {
	resp, err := b.http.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp, text}, err
}

// sign signs as a client does, by the code under test; that this is right is shown by other people's clients in
// scripts/interop.sh and by the example of Amazon's documentation below.
func sign(r *http.Request, key, secret string, at time.Time) *signer {
	r.Header.Set("X-Amz-Date", at.UTC().Format(amzDateLayout))
	signed := []string{"host"}
	for name := range r.Header {
		signed = append(signed, strings.ToLower(name))
	}
	slices.Sort(signed)
	c := claim{access: key, day: at.UTC().Format("20060102"), region: "us-east-1", service: "s3", terminator: "aws4_request", signed: signed}
	if r.Host == "" {
		r.Host = r.URL.Host
	}
	headers, _ := c.headers(r)
	query, _ := parseQuery(r.URL.RawQuery)
	text := strings.Join([]string{r.Method, escape(r.URL.Path, true), canonicalQuery(query), headers, strings.Join(signed, ";"), r.Header.Get("X-Amz-Content-Sha256")}, "\n")
	s := &signer{key: dayKey(secret, c), date: at.UTC().Format(amzDateLayout), sc: c.scope()}
	s.seed = s.sign(algorithm, digest(text))
	r.Header.Set("Authorization", fmt.Sprintf("%s Credential=%s/%s, SignedHeaders=%s, Signature=%s", algorithm, key, c.scope(), strings.Join(signed, ";"), s.seed))
	return s
}

// want checks the status and, of an error, Amazon's word for it.
func (a answer) want(t testing.TB, status int, code string) answer {
	t.Helper()
	var e errorXML
	if len(a.body) > 0 && a.StatusCode >= 300 {
		if err := xml.Unmarshal(a.body, &e); err != nil {
			t.Errorf("the error is no XML: %v: %s", err, a.body)
		}
	}
	if a.StatusCode != status || e.Code != code {
		t.Errorf("%s %s: %d %s, want %d %s\n%s", a.Request.Method, a.Request.URL, a.StatusCode, e.Code, status, code, a.body)
	}
	return a
}

func (a answer) tag() string { return a.Header.Get("ETag") }

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func TestObject(t *testing.T) {
	b := setup(t, 3, nil)
	first := b.do("PUT", "/b/k", map[string]string{"Content-Type": "text/plain", "X-Amz-Meta-Who": "me"}, []byte("0123456789abcde")).want(t, 200, "")
	got := b.do("GET", "/b/k", nil, nil).want(t, 200, "")
	if string(got.body) != "0123456789abcde" || got.tag() != first.tag() || got.Header.Get("Content-Type") != "text/plain" || got.Header["X-Amz-Meta-Who"][0] != "me" {
		t.Errorf("got %q with %v", got.body, got.Header)
	}
	if at, err := http.ParseTime(got.Header.Get("Last-Modified")); err != nil || time.Since(at) > time.Hour {
		t.Errorf("last modified %v, %v", at, err)
	}
	head := b.do("HEAD", "/b/k", nil, nil).want(t, 200, "")
	if head.ContentLength != 15 || head.tag() != first.tag() || head.Header.Get("x-amz-bucket-region") != "us-east-1" {
		t.Errorf("HEAD: %d bytes, %v", head.ContentLength, head.Header)
	}
	for _, c := range []struct {
		rng, want, content string
		status             int
	}{
		{"bytes=1-", "123456789abcde", "bytes 1-14/15", 206},
		{"bytes=1-2", "12", "bytes 1-2/15", 206},
		{"bytes=-1", "e", "bytes 14-14/15", 206},
		{"bytes=-100", "0123456789abcde", "bytes 0-14/15", 206},
		{"bytes=1-15", "123456789abcde", "bytes 1-14/15", 206},
		{"bytes=14-99999999999999", "e", "bytes 14-14/15", 206},
		{"bytes=15-", "", "bytes */15", 416}, {"bytes=-0", "", "bytes */15", 416}, {"bytes=99999999999-", "", "bytes */15", 416},
		{"bytes=2-1", "0123456789abcde", "", 200}, {"bytes=a-b", "0123456789abcde", "", 200}, {"bytes=1-2,4-5", "0123456789abcde", "", 200},
		{"bytes= -1", "0123456789abcde", "", 200}, {"chunks=1-2", "0123456789abcde", "", 200}, {"bytes=99999999999999999999-", "0123456789abcde", "", 200},
	} {
		a := b.do("GET", "/b/k", map[string]string{"Range": c.rng}, nil)
		if c.status == 416 {
			a.want(t, 416, "InvalidRange")
		} else if a.StatusCode != c.status || string(a.body) != c.want {
			t.Errorf("%s: %d %q, want %d %q", c.rng, a.StatusCode, a.body, c.status, c.want)
		}
		if a.Header.Get("Content-Range") != c.content {
			t.Errorf("%s: Content-Range %q, want %q", c.rng, a.Header.Get("Content-Range"), c.content)
		}
	}
	if a := b.do("GET", "/b/k?partNumber=1", nil, nil).want(t, 206, ""); len(a.body) != 15 || a.Header.Get("Content-Range") != "bytes 0-14/15" {
		t.Errorf("the only part is %q, %q", a.body, a.Header.Get("Content-Range"))
	}
	b.do("GET", "/b/k?partNumber=2", nil, nil).want(t, 416, "InvalidPartNumber")
	b.do("GET", "/b/k?partNumber=1", map[string]string{"Range": "bytes=0-1"}, nil).want(t, 400, "InvalidRequest")
	b.do("DELETE", "/b/k", nil, nil).want(t, 204, "")
	b.do("DELETE", "/b/k", nil, nil).want(t, 204, "")
	b.do("GET", "/b/k", nil, nil).want(t, 404, "NoSuchKey")
	b.do("PUT", "/b/empty", nil, nil).want(t, 200, "")
	b.do("GET", "/b/empty?partNumber=1", nil, nil).want(t, 200, "")
	if a := b.do("GET", "/b/empty", nil, nil).want(t, 200, ""); len(a.body) != 0 || a.ContentLength != 0 {
		t.Errorf("an empty object has %d bytes", a.ContentLength)
	}
	b.do("GET", "/b/empty", map[string]string{"Range": "bytes=0-"}, nil).want(t, 416, "InvalidRange")
}

// Every write has an ETag of its own, also when the bytes are those of before.
func TestETagNeverRepeats(t *testing.T) {
	b := setup(t, 1, nil)
	seen := map[string]bool{}
	for i := range 6 {
		tag := b.do("PUT", "/b/k", nil, []byte{byte(i % 2)}).want(t, 200, "").tag()
		if seen[tag] || !strings.Contains(tag, "-") {
			t.Errorf("write %d has the tag %s: seen %v, or like an MD5", i, tag, seen[tag])
		}
		seen[tag] = true
		if i == 3 {
			b.do("DELETE", "/b/k", nil, nil).want(t, 204, "")
		}
	}
}

func TestConditions(t *testing.T) {
	for _, md5 := range []bool{false, true} {
		t.Run(fmt.Sprintf("md5=%v", md5), func(t *testing.T) {
			b := setup(t, 2, func(c *Config) { c.MD5 = md5 })
			with := func(name, value string) map[string]string { return map[string]string{name: value} }
			old := b.do("PUT", "/b/k", nil, []byte("one")).want(t, 200, "").tag()
			tag := b.do("PUT", "/b/k", nil, []byte("two")).want(t, 200, "").tag()
			if md5 && tag != `"b8a9f715dbb64fd5c56e7783c6820a61"` {
				t.Errorf("the MD5 is %s", tag)
			}
			listed := string(b.do("GET", "/b?list-type=2", nil, nil).body)
			if !strings.Contains(listed, strings.Trim(tag, `"`)) {
				t.Errorf("the list does not show %s: %s", tag, listed)
			}
			for _, c := range []struct {
				method, name, value string
				status              int
				code                string
			}{
				{"GET", "If-Match", tag, 200, ""}, {"GET", "If-Match", old, 412, "PreconditionFailed"}, {"GET", "If-Match", `""`, 412, "PreconditionFailed"},
				{"GET", "If-Match", `"x", ` + tag, 200, ""}, {"GET", "If-Match", "*", 200, ""}, {"GET", "If-Match", "W/" + tag, 412, "PreconditionFailed"},
				{"GET", "If-None-Match", old, 200, ""}, {"GET", "If-None-Match", tag, 304, ""}, {"GET", "If-None-Match", `""`, 200, ""}, {"GET", "If-None-Match", "*", 304, ""},
				{"HEAD", "If-None-Match", tag, 304, ""}, {"HEAD", "If-Match", old, 412, ""},
				{"GET", "If-Modified-Since", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat), 304, ""},
				{"GET", "If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT", 412, "PreconditionFailed"},
				{"PUT", "If-Match", old, 412, "PreconditionFailed"}, {"PUT", "If-None-Match", "*", 412, "PreconditionFailed"},
				{"PUT", "If-None-Match", old, 501, "NotImplemented"}, {"DELETE", "If-Match", old, 412, "PreconditionFailed"},
			} {
				b.do(c.method, "/b/k", with(c.name, c.value), nil).want(t, c.status, c.code)
			}
			// If-Match and If-Unmodified-Since come before If-None-Match.
			b.do("GET", "/b/k", map[string]string{"If-Match": `"other"`, "If-None-Match": tag}, nil).want(t, 412, "PreconditionFailed")
			b.do("GET", "/b/k", map[string]string{"If-Match": old, "If-None-Match": tag}, nil).want(t, 412, "PreconditionFailed")
			b.do("GET", "/b/k", map[string]string{"If-Unmodified-Since": "Thu, 01 Jan 1970 00:00:00 GMT", "If-None-Match": tag}, nil).want(t, 412, "PreconditionFailed")
			b.do("GET", "/b/k", map[string]string{"If-Match": tag, "If-None-Match": tag}, nil).want(t, 304, "")
			b.do("PUT", "/b/missing", with("If-Match", tag), []byte("x")).want(t, 404, "NoSuchKey")
			b.do("DELETE", "/b/missing", with("If-Match", tag), nil).want(t, 404, "NoSuchKey")
			b.do("GET", "/b/missing", with("If-None-Match", "*"), nil).want(t, 404, "NoSuchKey")
			b.do("PUT", "/b/new", with("If-None-Match", "*"), []byte("x")).want(t, 200, "")
			if got := b.do("GET", "/b/k", nil, nil); string(got.body) != "two" || got.tag() != tag {
				t.Errorf("refused writes left %q %s", got.body, got.tag())
			}
			next := b.do("PUT", "/b/k", with("If-Match", tag), []byte("three")).want(t, 200, "").tag()
			b.do("DELETE", "/b/k", with("If-Match", next), nil).want(t, 204, "")
			b.do("GET", "/b/k", nil, nil).want(t, 404, "NoSuchKey")
		})
	}
}

// Of 32 conditional writes at once through three nodes exactly one happens.
func TestOneWinner(t *testing.T) {
	const racers, rounds = 32, 4
	c := gatewaytest.NewCluster(t, 3, 64<<20)
	var faces []*bench
	for i := range 3 {
		faces = append(faces, setupOn(t, c, i, nil))
	}
	for _, multipart := range []bool{false, true} {
		tag := ""
		for round := range rounds {
			path := fmt.Sprintf("/b/race-%v", multipart)
			condition := map[string]string{"If-None-Match": "*"}
			if round > 0 {
				condition = map[string]string{"If-Match": tag}
			}
			statuses, tags := make([]int, racers), make([]string, racers)
			var wg sync.WaitGroup
			for i := range racers {
				b, value := faces[i%3], []byte(fmt.Sprintf("%d of %d", i, round))
				wg.Go(func() {
					var a answer
					if multipart {
						a = b.complete(path, b.begin(path), condition, value)
						var done completedXML
						_ = xml.Unmarshal(a.body, &done)
						tags[i] = done.ETag
					} else {
						a = b.do("PUT", path, condition, value)
						tags[i] = a.tag()
					}
					statuses[i] = a.StatusCode
				})
			}
			wg.Wait()
			won := slices.Index(statuses, 200)
			lost := slices.DeleteFunc(slices.Clone(statuses), func(s int) bool { return s != 412 })
			if won < 0 || len(lost) != racers-1 {
				t.Fatalf("round %d, multipart %v: %v", round, multipart, statuses)
			}
			got := faces[(won+1)%3].do("GET", path, nil, nil)
			if tag = tags[won]; got.tag() != tag || string(got.body) != fmt.Sprintf("%d of %d", won, round) {
				t.Fatalf("round %d: %d won with %s, and there is %q %s", round, won, tag, got.body, got.tag())
			}
		}
	}
}

func (b *bench) begin(path string) string {
	b.t.Helper()
	var u beginXML
	a := b.do("POST", path+"?uploads", nil, nil).want(b.t, 200, "")
	if err := xml.Unmarshal(a.body, &u); err != nil || u.UploadID == "" {
		b.t.Errorf("%s: %v", a.body, err)
	}
	return u.UploadID
}

func (b *bench) part(path, upload string, n int, value []byte) string {
	b.t.Helper()
	return b.do("PUT", fmt.Sprintf("%s?uploadId=%s&partNumber=%d", path, upload, n), nil, value).want(b.t, 200, "").tag()
}

// complete uploads the parts and asks for the object.
func (b *bench) complete(path, upload string, header map[string]string, parts ...[]byte) answer {
	b.t.Helper()
	var list strings.Builder
	for i, p := range parts {
		fmt.Fprintf(&list, "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>", i+1, b.part(path, upload, i+1, p))
	}
	return b.do("POST", path+"?uploadId="+upload, header, []byte("<CompleteMultipartUpload>"+list.String()+"</CompleteMultipartUpload>"))
}

func TestMultipart(t *testing.T) {
	c := gatewaytest.NewCluster(t, 3, 128<<20)
	b, other := setupOn(t, c, 0, nil), setupOn(t, c, 1, nil)
	parts := [][]byte{random(700 << 10), random(300 << 10), random(17)}
	whole := slices.Concat(parts...)
	upload := b.begin("/b/k")
	b.do("GET", "/b/k", nil, nil).want(t, 404, "NoSuchKey")
	old := b.part("/b/k", upload, 2, []byte("to be replaced"))
	if got := b.do("GET", "/b?uploads", nil, nil).want(t, 200, ""); !bytes.Contains(got.body, []byte(upload)) {
		t.Errorf("the upload is not listed: %s", got.body)
	}
	// Another node goes on with it.
	if a := other.complete("/b/k", upload, nil, parts...).want(t, 200, ""); !bytes.Contains(a.body, []byte("-3&#34;</ETag>")) {
		t.Errorf("the tag does not tell the number of parts: %s", a.body)
	}
	got := b.do("GET", "/b/k", nil, nil).want(t, 200, "")
	if !bytes.Equal(got.body, whole) {
		t.Fatalf("%d bytes came back of %d", len(got.body), len(whole))
	}
	for _, c := range [][2]int{{0, 1}, {256<<10 - 1, 256<<10 + 1}, {700<<10 - 5, 700<<10 + 5}, {1000 << 10, 1000<<10 + 17}, {3, 900 << 10}} {
		a := b.do("GET", "/b/k", map[string]string{"Range": fmt.Sprintf("bytes=%d-%d", c[0], c[1]-1)}, nil)
		if a.StatusCode != 206 || !bytes.Equal(a.body, whole[c[0]:c[1]]) {
			t.Errorf("bytes %v: %d, %d bytes", c, a.StatusCode, len(a.body))
		}
	}
	if a := b.do("GET", "/b/k?partNumber=2", nil, nil); a.StatusCode != 206 || !bytes.Equal(a.body, parts[1]) || a.Header.Get("x-amz-mp-parts-count") != "3" {
		t.Errorf("part 2: %d, %d bytes", a.StatusCode, len(a.body))
	}
	if a := b.do("GET", "/b?list-type=2", nil, nil); !bytes.Contains(a.body, []byte(fmt.Sprintf("<Size>%d</Size>", len(whole)))) {
		t.Errorf("the list tells another length: %s", a.body)
	}
	// Asked again, since the answer may have been lost.
	b.do("POST", "/b/k?uploadId="+upload, nil, []byte("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>"+old+"</ETag></Part></CompleteMultipartUpload>")).want(t, 200, "")
	// A copy is an object of its own.
	b.do("PUT", "/b/copy", map[string]string{"X-Amz-Copy-Source": "/b/k"}, nil).want(t, 200, "")
	b.do("DELETE", "/b/k", nil, nil).want(t, 204, "")
	if a := b.do("GET", "/b/copy", nil, nil); !bytes.Equal(a.body, whole) {
		t.Errorf("the copy has %d bytes", len(a.body))
	}
	b.do("DELETE", "/b/copy", nil, nil).want(t, 204, "")
	b.eventuallyEmpty()
}

// An object far longer than what a face receives at once comes in parts through one node and goes through another, as a
// whole and across the borders of parts; and what is aborted in the middle goes too.
func TestLargeMultipart(t *testing.T) {
	const parts, partBytes = 10, 7<<20 + 1
	c := gatewaytest.NewCluster(t, 3, 128<<20)
	small := func(c *Config) { c.Objects.ChunkBytes, c.Objects.BodyBytes = 1<<20, gatewaytest.MaxValueBytes }
	b, other := setupOn(t, c, 0, small), setupOn(t, c, 1, small)
	piece := func(n int) []byte {
		piece := make([]byte, partBytes)
		mathrand.NewChaCha8([32]byte{byte(n)}).Read(piece) // never fails
		return piece
	}
	upload, whole := b.begin("/b/large"), sha256.New()
	var list strings.Builder
	for n := 1; n <= parts; n++ {
		whole.Write(piece(n))
		fmt.Fprintf(&list, "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>", n, b.part("/b/large", upload, n, piece(n)))
	}
	b.do("POST", "/b/large?uploadId="+upload, nil, []byte("<CompleteMultipartUpload>"+list.String()+"</CompleteMultipartUpload>")).want(t, 200, "")

	r, err := other.http.Get("http://" + other.addr + "/b/large")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	got := sha256.New()
	if n, err := io.Copy(got, r.Body); err != nil || n != parts*partBytes || !bytes.Equal(got.Sum(nil), whole.Sum(nil)) {
		t.Errorf("%d bytes of %d come back, %v, sum %x, want %x", n, parts*partBytes, err, got.Sum(nil), whole.Sum(nil))
	}
	for n := 1; n < parts; n++ {
		border := n * partBytes
		a := other.do("GET", "/b/large", map[string]string{"Range": fmt.Sprintf("bytes=%d-%d", border-3, border+3)}, nil)
		if want := slices.Concat(piece(n)[partBytes-3:], piece(n + 1)[:4]); a.StatusCode != 206 || !bytes.Equal(a.body, want) {
			t.Errorf("around byte %d: %d %x, want %x", border, a.StatusCode, a.body, want)
		}
	}

	aborted := b.begin("/b/aborted")
	b.part("/b/aborted", aborted, 1, piece(1))
	b.part("/b/aborted", aborted, 2, piece(2))
	half := other.talk(fmt.Sprintf("PUT /b/aborted?partNumber=3&uploadId=%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", aborted, partBytes, piece(3)[:3<<20]))
	other.do("DELETE", "/b/aborted?uploadId="+aborted, nil, nil).want(t, 204, "")
	half.Close()
	b.do("DELETE", "/b/large", nil, nil).want(t, 204, "")
	b.eventuallyEmpty()
}

// eventuallyEmpty waits until nothing is stored but buckets.
func (b *bench) eventuallyEmpty() {
	b.t.Helper()
	var left []string
	for range 3000 {
		left = nil
		for e, err := range b.inner.List(context.Background(), client.Query{}) {
			if err != nil {
				b.t.Fatal(err)
			}
			if !strings.HasPrefix(string(e.Key), object.Hidden+"b/") {
				left = append(left, string(e.Key))
			}
		}
		if len(left) == 0 {
			return
		}
		<-time.After(10 * time.Millisecond) // between two looks, not instead of one
	}
	b.t.Errorf("left behind: %q", left)
}

func TestMultipartRefused(t *testing.T) {
	b := setup(t, 1, func(c *Config) { c.Objects.StagingBytes = 4 << 20 })
	upload := b.begin("/b/k")
	tag := b.part("/b/k", upload, 1, random(2000))
	small := b.part("/b/k", upload, 2, random(10))
	last := b.part("/b/k", upload, 3, random(10))
	one := func(n int, tag string) string {
		return fmt.Sprintf("<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>", n, tag)
	}
	for _, c := range []struct {
		parts, code string
	}{
		{one(1, tag) + one(4, tag), "InvalidPart"}, {one(1, small), "InvalidPart"}, {one(3, last) + one(1, tag), "InvalidPartOrder"},
		{one(1, tag) + one(2, small) + one(3, last), "EntityTooSmall"}, {"", "MalformedXML"}, {"<Part>", "MalformedXML"},
		{"<Part><PartNumber>1</PartNumber></Part>", "MalformedXML"}, {"<Part><ETag>" + tag + "</ETag></Part>", "MalformedXML"}, {one(0, tag), "InvalidArgument"},
	} {
		b.do("POST", "/b/k?uploadId="+upload, nil, []byte("<CompleteMultipartUpload>"+c.parts+"</CompleteMultipartUpload>")).want(t, 400, c.code)
	}
	b.do("PUT", "/b/k?partNumber=0&uploadId="+upload, nil, nil).want(t, 400, "InvalidArgument")
	b.do("PUT", "/b/k?partNumber=10001&uploadId="+upload, nil, nil).want(t, 400, "InvalidArgument")
	b.do("PUT", "/b/k?partNumber=4&uploadId="+upload, nil, random(5<<20)).want(t, 507, "InsufficientStorage")
	b.do("PUT", "/b/k?partNumber=1&uploadId=nonsense", nil, nil).want(t, 404, "NoSuchUpload")
	b.do("PUT", "/b/other?partNumber=1&uploadId="+upload, nil, nil).want(t, 404, "NoSuchUpload")
	for _, method := range []string{"PUT", "GET", "DELETE"} {
		b.do(method, "/nowhere/k?partNumber=1&uploadId="+upload, nil, nil).want(t, 404, "NoSuchBucket")
	}
	size := map[string]string{"X-Amz-Mp-Object-Size": "2001"}
	b.do("POST", "/b/k?uploadId="+upload, size, []byte("<CompleteMultipartUpload>"+one(1, tag)+"</CompleteMultipartUpload>")).want(t, 400, "InvalidRequest")
	b.do("DELETE", "/b/k?uploadId="+upload, nil, nil).want(t, 204, "")
	b.do("DELETE", "/b/k?uploadId="+upload, nil, nil).want(t, 404, "NoSuchUpload")
	b.do("GET", "/b/k?uploadId="+upload, nil, nil).want(t, 404, "NoSuchUpload")
	b.eventuallyEmpty()
}

// An object longer than a value comes in one PUT, and goes when it is overwritten by a short one.
func TestLongPut(t *testing.T) {
	b := setup(t, 2, nil)
	value := random(gatewaytest.MaxValueBytes + 12345)
	b.do("PUT", "/b/long", nil, value).want(t, 200, "")
	if got := b.do("GET", "/b/long", nil, nil); !bytes.Equal(got.body, value) {
		t.Errorf("%d bytes came back of %d", len(got.body), len(value))
	}
	guarded := object.Guard(b.inner)
	if _, err := guarded.Get(context.Background(), []byte("b/long")); err == nil || !strings.Contains(err.Error(), "chunks") {
		t.Errorf("another face reads the manifest: %v", err)
	}
	if _, err := guarded.Get(context.Background(), []byte("b/long"), client.Range(30, 40)); err == nil {
		t.Error("another face reads a part of the manifest")
	}
	b.do("PUT", "/b/long", map[string]string{"If-None-Match": "*"}, value).want(t, 412, "PreconditionFailed")
	b.do("PUT", "/b/long", nil, []byte("short")).want(t, 200, "")
	v, err := guarded.Get(context.Background(), []byte("b/long"))
	if err != nil || string(v.Bytes) != "short" {
		t.Errorf("another face reads %q, %v", v.Bytes, err)
	}
	b.do("DELETE", "/b/long", nil, nil).want(t, 204, "")
	b.eventuallyEmpty()
}

func TestLists(t *testing.T) {
	b := setup(t, 3, nil)
	var all []string
	for _, key := range []string{"a", "a/b", "a/c/1", "a/c/2", "a//x", "/lead", "z&<é>", "p/0", "p/1", "p/2", "p/3"} {
		b.do("PUT", "/b/"+(&url.URL{Path: key}).EscapedPath(), nil, []byte(key)).want(t, 200, "")
		all = append(all, key)
	}
	for i := range 230 { // more than the list reads before it jumps
		b.do("PUT", fmt.Sprintf("/b/many/%03d", i), nil, nil).want(t, 200, "")
		all = append(all, fmt.Sprintf("many/%03d", i))
	}
	slices.Sort(all)
	for _, c := range []struct{ prefix, delimiter string }{{"", ""}, {"a", ""}, {"a/", ""}, {"", "/"}, {"a/", "/"}, {"a/c", "/"}, {"p", "/"}, {"many/", "/"}, {"", "//"}, {"x", "/"}, {"many/0", "0"}} {
		want := reference(all, c.prefix, c.delimiter)
		for _, v2 := range []bool{true, false} {
			for _, limit := range []int{1, 3, 1000} {
				if limit == 1 && len(want) > 50 {
					continue
				}
				if got := b.list(c.prefix, c.delimiter, limit, v2); !slices.Equal(got, want) {
					t.Errorf("%+v, v2 %v, pages of %d:\ngot  %q\nwant %q", c, v2, limit, got, want)
				}
			}
		}
	}
	b.do("GET", "/b?list-type=2&max-keys=-1", nil, nil).want(t, 400, "InvalidArgument")
	b.do("GET", "/b?list-type=2&continuation-token=%21", nil, nil).want(t, 400, "InvalidArgument")
	b.do("GET", "/b?encoding-type=xyz", nil, nil).want(t, 400, "InvalidArgument")
	b.do("GET", "/b?prefix=%ff", nil, nil).want(t, 400, "InvalidArgument")
	b.do("GET", "/nowhere?list-type=2", nil, nil).want(t, 404, "NoSuchBucket")
	if a := b.do("GET", "/b?max-keys=0", nil, nil).want(t, 200, ""); bytes.Contains(a.body, []byte("<Contents>")) {
		t.Errorf("max-keys=0 lists: %s", a.body)
	}
}

// reference lists in the plainest way.
func reference(keys []string, prefix, delimiter string) (want []string) {
	for _, key := range keys {
		rest, ok := strings.CutPrefix(key, prefix)
		if !ok {
			continue
		}
		if head, _, folded := strings.Cut(rest, delimiter); delimiter != "" && folded {
			key = prefix + head + delimiter
		}
		if len(want) == 0 || want[len(want)-1] != key {
			want = append(want, key)
		}
	}
	return want
}

// list reads all pages; keys and prefixes in the order in which they come.
func (b *bench) list(prefix, delimiter string, limit int, v2 bool) (got []string) {
	b.t.Helper()
	q := url.Values{"prefix": {prefix}, "delimiter": {delimiter}, "max-keys": {strconv.Itoa(limit)}}
	if v2 {
		q.Set("list-type", "2")
	}
	for range 1000 {
		var page listXML
		a := b.do("GET", "/b?"+q.Encode(), nil, nil).want(b.t, 200, "")
		if err := xml.Unmarshal(a.body, &page); err != nil {
			b.t.Fatal(err)
		}
		var keys []string
		for _, o := range page.Contents {
			keys = append(keys, o.Key)
		}
		for _, p := range page.CommonPrefixes {
			keys = append(keys, p.Prefix)
		}
		slices.Sort(keys)
		if got = append(got, keys...); !page.IsTruncated {
			return got
		}
		if v2 {
			q.Set("continuation-token", page.NextContinuationToken)
		} else if q.Set("marker", page.NextMarker); delimiter == "" {
			q.Set("marker", keys[len(keys)-1])
		}
	}
	b.t.Fatal("the list does not end")
	return nil
}

// Keys that the protocol cannot say are refused, and left out of lists, aloud.
func TestInexpressibleKeys(t *testing.T) {
	b := setup(t, 1, nil)
	for _, key := range []string{"b/ok", "b/\xff", "b/zero\x00", "b/control\x01", "plain"} {
		if _, err := b.inner.Put(context.Background(), []byte(key), []byte("v")); err != nil {
			t.Fatal(err)
		}
	}
	for query, want := range map[string][2]string{"list-type=2": {"<KeyCount>1<", "3"}, "list-type=2&encoding-type=url": {"<KeyCount>2<", "2"}} {
		a := b.do("GET", "/b?"+query, nil, nil).want(t, 200, "")
		if !bytes.Contains(a.body, []byte(want[0])) || a.Header.Get("x-dramnode-skipped-keys") != want[1] {
			t.Errorf("%s: %q skipped, %s", query, a.Header.Get("x-dramnode-skipped-keys"), a.body)
		}
	}
	b.do("GET", "/b/%FF", nil, nil).want(t, 400, "InvalidURI")
	b.do("PUT", "/b/%00", nil, nil).want(t, 400, "InvalidURI")
	b.do("GET", "/b/"+strings.Repeat("k", 1025), nil, nil).want(t, 400, "KeyTooLongError")
	b.do("GET", "/b%20b/k", nil, nil).want(t, 400, "InvalidBucketName")
	if a := b.do("GET", "/b/control%01", nil, nil).want(t, 200, ""); string(a.body) != "v" {
		t.Errorf("got %q", a.body)
	}
}

func TestBuckets(t *testing.T) {
	b := setup(t, 2, nil)
	ctx := context.Background()
	for _, key := range []string{"implied/x", "implied/y", "plain", "Odd_Name/x", "no bucket/x"} {
		if _, err := b.inner.Put(ctx, []byte(key), nil); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 300 {
		if _, err := b.inner.Put(ctx, fmt.Appendf(nil, "implied/%d", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	var list bucketsXML
	if err := xml.Unmarshal(b.do("GET", "/", nil, nil).want(t, 200, "").body, &list); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, bucket := range list.Buckets {
		names = append(names, bucket.Name)
	}
	if want := []string{"Odd_Name", "b", "implied"}; !slices.Equal(names, want) {
		t.Errorf("buckets %q, want %q", names, want)
	}
	b.do("PUT", "/implied", nil, nil).want(t, 200, "")
	b.do("PUT", "/implied", nil, nil).want(t, 409, "BucketAlreadyOwnedByYou")
	b.do("PUT", "/UPPER", nil, nil).want(t, 400, "InvalidBucketName")
	b.do("HEAD", "/b", nil, nil).want(t, 200, "")
	b.do("HEAD", "/nowhere", nil, nil).want(t, 404, "")
	b.do("PUT", "/nowhere/k", nil, []byte("x")).want(t, 404, "NoSuchBucket")
	b.do("GET", "/nowhere/k", nil, nil).want(t, 404, "NoSuchBucket")
	b.do("DELETE", "/nowhere", nil, nil).want(t, 404, "NoSuchBucket")
	b.do("PUT", "/b/k", nil, nil).want(t, 200, "")
	b.do("DELETE", "/b", nil, nil).want(t, 409, "BucketNotEmpty")
	b.do("DELETE", "/b/k", nil, nil).want(t, 204, "")
	b.do("DELETE", "/b", nil, nil).want(t, 204, "")
	b.do("HEAD", "/b", nil, nil).want(t, 404, "")
	for sub, status := range map[string]int{"policy": 404, "cors": 404, "versions": 501, "notification": 501} {
		if a := b.do("GET", "/implied?"+sub, nil, nil); a.StatusCode != status {
			t.Errorf("?%s: %d, want %d", sub, a.StatusCode, status)
		}
		if a := b.do("PUT", "/implied?"+sub, nil, nil); a.StatusCode != 501 {
			t.Errorf("PUT ?%s: %d, want 501", sub, a.StatusCode)
		}
	}
}

func TestDeleteMany(t *testing.T) {
	b := setup(t, 2, nil)
	tag := ""
	for i := range 5 {
		tag = b.do("PUT", fmt.Sprintf("/b/k%d", i), nil, nil).want(t, 200, "").tag()
	}
	var asked strings.Builder
	asked.WriteString("<Delete>")
	for i := range 4 {
		fmt.Fprintf(&asked, "<Object><Key>k%d</Key></Object>", i)
	}
	asked.WriteString("<Object><Key>never</Key></Object><Object><Key>k4</Key><ETag>\"0000000000000001-1\"</ETag></Object></Delete>")
	var out deletedXML
	if err := xml.Unmarshal(b.do("POST", "/b?delete", nil, []byte(asked.String())).want(t, 200, "").body, &out); err != nil {
		t.Fatal(err)
	}
	if len(out.Deleted) != 5 || len(out.Errors) != 1 || out.Errors[0].Code != "PreconditionFailed" {
		t.Errorf("%+v", out)
	}
	if got := b.do("GET", "/b/k4", nil, nil).want(t, 200, "").tag(); got != tag {
		t.Errorf("tag %s, want %s", got, tag)
	}
	for _, condition := range []string{"<Size>7</Size>", "<LastModifiedTime>Thu, 01 Jan 1970 00:00:00 GMT</LastModifiedTime>"} {
		a := b.do("POST", "/b?delete", nil, []byte("<Delete><Object><Key>k4</Key>"+condition+"</Object></Delete>")).want(t, 200, "")
		if !bytes.Contains(a.body, []byte("NotImplemented")) {
			t.Errorf("%s: %s", condition, a.body)
		}
	}
	b.do("GET", "/b/k4", nil, nil).want(t, 200, "")
	b.do("POST", "/b?delete", nil, []byte("<Delete>"+strings.Repeat("<Object><Key>k</Key></Object>", 1001)+"</Delete>")).want(t, 400, "MalformedXML")
	b.do("POST", "/b?delete", nil, []byte("no XML")).want(t, 400, "MalformedXML")
}

func TestCopy(t *testing.T) {
	b := setup(t, 2, nil)
	tag := b.do("PUT", "/b/from", map[string]string{"Content-Type": "text/x", "X-Amz-Meta-A": "1"}, []byte("bytes")).want(t, 200, "").tag()
	from := func(more ...string) map[string]string {
		h := map[string]string{"X-Amz-Copy-Source": "b/from"}
		for i := 0; i < len(more); i += 2 {
			h[more[i]] = more[i+1]
		}
		return h
	}
	b.do("PUT", "/b/to", from(), nil).want(t, 200, "")
	if got := b.do("GET", "/b/to", nil, nil); string(got.body) != "bytes" || got.Header.Get("Content-Type") != "text/x" || got.Header.Get("X-Amz-Meta-A") != "1" {
		t.Errorf("the copy: %q %v", got.body, got.Header)
	}
	b.do("PUT", "/b/to", from("X-Amz-Metadata-Directive", "REPLACE", "Content-Type", "text/y"), nil).want(t, 200, "")
	if got := b.do("HEAD", "/b/to", nil, nil); got.Header.Get("Content-Type") != "text/y" || got.Header.Get("X-Amz-Meta-A") != "" {
		t.Errorf("replaced metadata: %v", got.Header)
	}
	b.do("PUT", "/b/from", from(), nil).want(t, 400, "InvalidRequest")
	b.do("PUT", "/b/from", from("X-Amz-Metadata-Directive", "REPLACE", "Content-Type", "text/z"), nil).want(t, 200, "")
	b.do("PUT", "/b/to", from("X-Amz-Metadata-Directive", "MERGE"), nil).want(t, 400, "InvalidArgument")
	upload := b.begin("/b/parts")
	b.do("PUT", "/b/parts?partNumber=1&uploadId="+upload, from("X-Amz-Copy-Source-Range", "bytes=0-5"), nil).want(t, 400, "InvalidArgument")
	b.do("PUT", "/b/parts?partNumber=1&uploadId="+upload, from("X-Amz-Copy-Source-Range", "bytes=0-4"), nil).want(t, 200, "")
	b.do("PUT", "/b/to", from("X-Amz-Copy-Source-If-Match", tag), nil).want(t, 412, "PreconditionFailed")
	b.do("PUT", "/b/to", from("If-None-Match", "*"), nil).want(t, 412, "PreconditionFailed")
	b.do("PUT", "/b/to", map[string]string{"X-Amz-Copy-Source": "b/missing"}, nil).want(t, 404, "NoSuchKey")
	b.do("PUT", "/b/to", map[string]string{"X-Amz-Copy-Source": "nowhere/missing"}, nil).want(t, 404, "NoSuchBucket")
	b.do("PUT", "/b/to", map[string]string{"X-Amz-Copy-Source": "b"}, nil).want(t, 400, "InvalidArgument")
}

func TestChecksums(t *testing.T) {
	b := setup(t, 1, nil)
	value := []byte("checked")
	crc := crc32.NewIEEE()
	crc.Write(value)
	good := base64.StdEncoding.EncodeToString(crc.Sum(nil))
	b.do("PUT", "/b/k", map[string]string{"X-Amz-Checksum-Crc32": good}, value).want(t, 200, "")
	sum := sha512.Sum512(value)
	b.do("PUT", "/b/k", map[string]string{"X-Amz-Checksum-Sha512": base64.StdEncoding.EncodeToString(sum[:])}, value).want(t, 200, "")
	for name, header := range map[string]string{"X-Amz-Checksum-Crc32": "AAAAAA==", "Content-MD5": "rL0Y20zC+Fzt72VPzMSk2A==", "X-Amz-Checksum-Md5": "rL0Y20zC+Fzt72VPzMSk2A=="} {
		b.do("PUT", "/b/bad", map[string]string{name: header}, value).want(t, 400, "BadDigest")
	}
	for _, bad := range []map[string]string{
		{"X-Amz-Checksum-Sha256": "AAAA"}, {"X-Amz-Checksum-Crc64nvme": "!"}, {"X-Amz-Checksum-Crc32": ""}, {"X-Amz-Checksum-Crc32": good, "X-Amz-Checksum-Crc32c": good},
		{"X-Amz-Checksum-Crc32": good, "X-Amz-Sdk-Checksum-Algorithm": "SHA1"}, {"X-Amz-Trailer": "x-other"},
		{"X-Amz-Sdk-Checksum-Algorithm": "CRC32"}, {"X-Amz-Checksum-Crc128": "AAAAAA=="},
	} {
		b.do("PUT", "/b/bad", bad, value).want(t, 400, "InvalidRequest")
	}
	b.do("PUT", "/b/bad", map[string]string{"X-Amz-Trailer": "x-amz-checksum-crc32"}, value).want(t, 400, "MalformedTrailerError") // of a body that has none
	b.do("PUT", "/b/bad", map[string]string{"X-Amz-Checksum-Xxhash64": "AAAAAAAAAAA="}, value).want(t, 400, "BadDigest")
	b.do("PUT", "/b/bad", map[string]string{"Content-MD5": "short"}, value).want(t, 400, "InvalidDigest")
	b.do("PUT", "/b/bad", map[string]string{"X-Amz-Content-Sha256": strings.Repeat("0", 64)}, value).want(t, 400, "XAmzContentSHA256Mismatch")
	b.do("GET", "/b/bad", nil, nil).want(t, 404, "NoSuchKey")
}

// A body that ends too early, or whose connection breaks, writes nothing.
func TestBrokenUploads(t *testing.T) {
	b := setup(t, 1, nil)
	for _, c := range []struct{ name, text string }{
		{"truncated", "PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly this"},
		{"truncated long", "PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 20000000\r\n\r\n" + strings.Repeat("x", 3<<20)},
		{"truncated chunks", "PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nX-Amz-Content-Sha256: " + streamSigned + "\r\nX-Amz-Decoded-Content-Length: 900\r\n\r\n100;chunk-signature=x\r\nabc"},
		{"part", "PUT /b/k?partNumber=1&uploadId=" + b.begin("/b/k") + " HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nonly this"},
		{"malformed", "PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: a\r\n\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", b.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write([]byte(c.text)); err != nil {
				t.Fatal(err)
			}
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil { // half closed
				t.Fatal(err)
			}
			reply, _ := io.ReadAll(conn) // an error, or nothing to nobody
			if bytes.Contains(reply, []byte(" 200 ")) {
				t.Errorf("it was accepted: %s", reply)
			}
			b.do("GET", "/b/k", nil, nil).want(t, 404, "NoSuchKey")
		})
	}
	b.do("PUT", "/b/k", nil, []byte("the face still works")).want(t, 200, "")
}

// talk sends the beginning of a request over a connection of its own.
func (b *bench) talk(text string) net.Conn {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.addr)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		b.t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		b.t.Fatal(err)
	}
	return conn
}

// A heard is a log that passes on what it is told, as far as anybody listens.
type heard chan string

func (h heard) Write(line []byte) (int, error) {
	select {
	case h <- string(line):
	default:
	}
	return len(line), nil
}

// Who is silent in the middle of a body, or takes nothing of a reply, is not waited for; who asks nothing is.
func TestStalls(t *testing.T) {
	log := make(heard, 100)
	c := gatewaytest.NewCluster(t, 1, 128<<20)
	b := setupOn(t, c, 0, func(c *Config) { c.Objects.Stall, c.Log = 100*time.Millisecond, zerolog.New(log) })
	value := random(40 << 20)                                               // more than the kernel's buffers
	setupOn(t, c, 0, nil).do("PUT", "/b/long", nil, value).want(t, 200, "") // by a face that has time
	idle := b.talk("HEAD /b/long HTTP/1.1\r\nHost: x\r\n\r\n")
	idleReplies := bufio.NewReader(idle)
	head := func() {
		t.Helper()
		if r, err := http.ReadResponse(idleReplies, &http.Request{Method: "HEAD"}); err != nil || r.StatusCode != 200 {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	head()
	for _, c := range []struct{ name, text, reply string }{
		{"a body", "PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly this", "RequestTimeout"},
		{"a body that is not read", "PUT /nowhere/k HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n", "NoSuchBucket"},
		{"a document", "POST /b?delete HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n<Delete>", "RequestTimeout"},
	} {
		reply, err := io.ReadAll(b.talk(c.text)) // until the face closes the connection
		if err != nil || !bytes.Contains(reply, []byte(c.reply)) {
			t.Errorf("%s does not come: %s, %v", c.name, reply, err)
		}
	}
	b.do("GET", "/b/k", nil, nil).want(t, 404, "NoSuchKey")

	deaf := b.talk("GET /b/long HTTP/1.1\r\nHost: x\r\n\r\n")
	for line := range log {
		if strings.Contains(line, "read not finished") {
			break
		}
	}
	reply, _ := io.ReadAll(deaf)
	if len(reply) >= len(value) {
		t.Errorf("%d bytes were sent to somebody who took none", len(reply))
	}
	if _, err := io.WriteString(idle, "HEAD /b/long HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	head()
}

// A reader that goes away, or a node that dies, ends a GET early and never with other bytes.
func TestBrokenDownloads(t *testing.T) {
	b := setup(t, 1, nil)
	value := random(6 << 20)
	b.complete("/b/k", b.begin("/b/k"), nil, value).want(t, 200, "")
	resp, err := b.http.Get("http://" + b.addr + "/b/k")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	// The object changes while it is read: the rest is the rest of the old one, or the body is cut.
	b.do("PUT", "/b/k", nil, []byte("new")).want(t, 200, "")
	rest, err := io.ReadAll(resp.Body)
	if !bytes.Equal(rest, value[100:100+len(rest)]) || err == nil && len(rest) != len(value)-100 {
		t.Errorf("%d bytes more, %v", len(rest), err)
	}
	resp.Body.Close()
}

func TestCORS(t *testing.T) {
	b := setup(t, 1, func(c *Config) { c.CORS = []string{"*", "http://mine.example"} })
	b.do("PUT", "/b/k", nil, []byte("x")).want(t, 200, "")
	if a := b.do("GET", "/b/k", map[string]string{"Origin": "http://any.example"}, nil); a.Header.Get("Access-Control-Allow-Origin") != "*" || !strings.Contains(a.Header.Get("Access-Control-Expose-Headers"), "ETag") {
		t.Errorf("%v", a.Header)
	}
	ask := map[string]string{"Origin": "http://any.example", "Access-Control-Request-Method": "PUT"}
	if a := b.do("OPTIONS", "/b/k", ask, nil); strings.Contains(a.Header.Get("Access-Control-Allow-Methods"), "PUT") {
		t.Errorf("any page may write: %v", a.Header)
	}
	ask["Origin"] = "http://mine.example"
	if a := b.do("OPTIONS", "/b/k", ask, nil); a.StatusCode != 204 || !strings.Contains(a.Header.Get("Access-Control-Allow-Methods"), "PUT") {
		t.Errorf("%d %v", a.StatusCode, a.Header)
	}
	closed := setup(t, 1, nil)
	if a := closed.do("OPTIONS", "/b/k", ask, nil); a.StatusCode != 403 || len(a.Header.Values("Access-Control-Allow-Origin")) > 0 {
		t.Errorf("%d %v", a.StatusCode, a.Header)
	}
}

// What would change the meaning if it were ignored is refused.
func TestRefusedHeaders(t *testing.T) {
	b := setup(t, 1, nil)
	for _, h := range append(headersRefused, "X-Amz-Acl: public-read", "X-Amz-Acl: authenticated-read") {
		name, value, ok := strings.Cut(h, ": ")
		if !ok {
			value = "1"
		}
		b.do("PUT", "/b/k", map[string]string{name: value}, []byte("x")).want(t, 501, "NotImplemented")
	}
	b.do("PUT", "/new", map[string]string{"X-Amz-Grant-Read": "id=1"}, nil).want(t, 501, "NotImplemented")
	b.do("PUT", "/new", nil, []byte("<CreateBucketConfiguration><Tags><Tag><Key>a</Key><Value>b</Value></Tag></Tags></CreateBucketConfiguration>")).want(t, 501, "NotImplemented")
	b.do("HEAD", "/new", nil, nil).want(t, 404, "")
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		b.do(method, "/b/k", map[string]string{"X-Amz-Expected-Bucket-Owner": "123456789012"}, nil).want(t, 403, "AccessDenied")
	}
	b.do("DELETE", "/b/k", map[string]string{"X-Amz-Expected-Bucket-Owner": "dramnode"}, nil).want(t, 204, "")
	b.do("PUT", "/b/k", map[string]string{"X-Amz-Meta-Big": strings.Repeat("x", 2100)}, nil).want(t, 400, "MetadataTooLarge")
	b.do("GET", "/b/k?versionId=7", nil, nil).want(t, 501, "NotImplemented")
	b.do("PATCH", "/b/k", nil, nil).want(t, 405, "MethodNotAllowed")
	value := append([]byte("\x00dramnode manifest 1\n"), bytes.Repeat([]byte{' '}, 1000)...)
	if !object.MayBeManifest(int64(len(value))) {
		t.Fatal(len(value))
	}
	b.do("PUT", "/b/k", nil, value).want(t, 400, "InvalidRequest")
	b.do("GET", "/b/k", nil, nil).want(t, 404, "NoSuchKey")
}
