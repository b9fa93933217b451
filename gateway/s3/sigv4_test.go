package s3

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// The example of Amazon's documentation, "Signature Calculations for the Authorization Header: GET Object".
func TestDocumentedSignature(t *testing.T) {
	r, err := http.NewRequest("GET", "http://examplebucket.s3.amazonaws.com/test.txt", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{
		"Range": {"bytes=0-9"}, "X-Amz-Date": {"20130524T000000Z"}, "X-Amz-Content-Sha256": {emptyHash},
		"Authorization": {"AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
	}
	f := &face{cfg: Config{Keys: map[string]string{"AKIAIOSFODNN7EXAMPLE": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}}}
	now := time.Date(2013, 5, 24, 0, 1, 0, 0, time.UTC)
	if who, err := f.authenticate(r, nil, now); err != nil || who == nil {
		t.Errorf("refused: %v", err)
	}
	r.Header.Set("Range", "bytes=0-8")
	if _, err := f.authenticate(r, nil, now); faultOf(err).code != signatureMismatch {
		t.Errorf("a changed header: %v", err)
	}
}

// The presigned URL of "Authenticating Requests: Using Query Parameters".
func TestDocumentedPresigned(t *testing.T) {
	const query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
	f := &face{cfg: Config{Keys: map[string]string{"AKIAIOSFODNN7EXAMPLE": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}}}
	for _, c := range []struct {
		query string
		after time.Duration
		want  code
	}{
		{query, time.Hour, code{}},
		{query, 25 * time.Hour, accessDenied},
		{query, -time.Hour, accessDenied},
		{query + "&x-id=GetObject", time.Hour, signatureMismatch},
		{strings.Replace(query, "86400", "604801", 1), time.Hour, malformedQueryAuth},
		{strings.Replace(query, "86400", "x", 1), time.Hour, malformedQueryAuth},
		{strings.Replace(query, "86400", "-1", 1), time.Hour, malformedQueryAuth},
		{strings.Replace(query, "Date=20130524T", "Date=20130525T", 1), time.Hour, malformedQueryAuth},
		{strings.Replace(query, "Date=20130524T", "Date=", 1), time.Hour, malformedQueryAuth},
		{strings.Replace(query, "X-Amz-Signature", "X-Amz-Sig", 1), time.Hour, malformedQueryAuth},
		{strings.Replace(query, "SHA256", "SHA1", 1), time.Hour, malformedQueryAuth},
	} {
		r, err := http.NewRequest("GET", "http://examplebucket.s3.amazonaws.com/test.txt?"+c.query, nil)
		if err != nil {
			t.Fatal(err)
		}
		q, err := parseQuery(c.query)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.authenticate(r, q, time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC).Add(c.after))
		if c.want == (code{}) && err != nil || c.want != (code{}) && (err == nil || faultOf(err).code != c.want) {
			t.Errorf("%s after %v: %v, want %v", c.query, c.after, err, c.want)
		}
	}
}

func withKeys(c *Config) { c.Keys = map[string]string{testKey: testSecret} }

func TestAuthentication(t *testing.T) {
	b := setup(t, 1, withKeys)
	b.do("PUT", "/b/k%20+%C3%A4~", map[string]string{"X-Amz-Meta-A": "two   spaces"}, []byte("signed")).want(t, 200, "")
	if a := b.do("GET", "/b/k%20%2B%C3%A4~?response-content-type=a%2Fb", nil, nil).want(t, 200, ""); string(a.body) != "signed" || a.Header.Get("Content-Type") != "a/b" {
		t.Errorf("%q %v", a.body, a.Header)
	}
	send := func(change func(*http.Request)) answer {
		t.Helper()
		r, err := http.NewRequest("PUT", "http://"+b.addr+"/b/k", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Amz-Content-Sha256", digest("x"))
		change(r)
		a, err := b.send(r)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	auth := func(find, replace string) func(*http.Request) {
		return func(r *http.Request) {
			sign(r, testKey, testSecret, time.Now())
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), find, replace, 1))
		}
	}
	for name, c := range map[string]struct {
		change func(*http.Request)
		status int
		code   string
	}{
		"nobody":        {func(*http.Request) {}, 403, "AccessDenied"},
		"wrong secret":  {func(r *http.Request) { sign(r, testKey, "guessed", time.Now()) }, 403, "SignatureDoesNotMatch"},
		"unknown key":   {func(r *http.Request) { sign(r, "OTHER", testSecret, time.Now()) }, 403, "InvalidAccessKeyId"},
		"old":           {func(r *http.Request) { sign(r, testKey, testSecret, time.Now().Add(-16*time.Minute)) }, 403, "RequestTimeTooSkewed"},
		"future":        {func(r *http.Request) { sign(r, testKey, testSecret, time.Now().Add(16*time.Minute)) }, 403, "RequestTimeTooSkewed"},
		"unsigned meta": {func(r *http.Request) { sign(r, testKey, testSecret, time.Now()); r.Header.Set("X-Amz-Meta-A", "b") }, 403, "AccessDenied"},
		"other body": {func(r *http.Request) {
			r.Header.Set("X-Amz-Content-Sha256", digest("y"))
			sign(r, testKey, testSecret, time.Now())
		}, 400, "XAmzContentSHA256Mismatch"},
		"no body hash":  {func(r *http.Request) { r.Header.Del("X-Amz-Content-Sha256"); sign(r, testKey, testSecret, time.Now()) }, 400, "InvalidRequest"},
		"version 2":     {func(r *http.Request) { r.Header.Set("Authorization", "AWS "+testKey+":c2ln") }, 400, "InvalidRequest"},
		"no host":       {auth("SignedHeaders=host;", "SignedHeaders="), 400, "AuthorizationHeaderMalformed"},
		"no terminator": {auth("aws4_request", "x"), 400, "AuthorizationHeaderMalformed"},
		"other day":     {auth(time.Now().UTC().Format("/20060102/"), "/20000101/"), 400, "AuthorizationHeaderMalformed"},
		"no scheme":     {func(r *http.Request) { r.Header.Set("Authorization", algorithm) }, 400, "InvalidArgument"},
		"other scheme":  {func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }, 400, "InvalidArgument"},
		"other service": {auth("/s3/", "/ec2/"), 400, "AuthorizationHeaderMalformed"},
		"no date":       {auth(time.Now().UTC().Format("/20060102/"), "/yesterday/"), 400, "AuthorizationHeaderMalformed"},
		"no signature":  {auth("Signature=", "Sig="), 400, "AuthorizationHeaderMalformed"},
		"no hash": {func(r *http.Request) {
			sign(r, testKey, testSecret, time.Now())
			r.Header.Set("X-Amz-Content-Sha256", "x")
		}, 400, "InvalidArgument"},
		"empty": {func(r *http.Request) { r.Header.Set("Authorization", algorithm+" x") }, 400, "AuthorizationHeaderMalformed"},
		"unsigned body": {func(r *http.Request) {
			r.Header.Set("X-Amz-Content-Sha256", unsignedPayload)
			sign(r, testKey, testSecret, time.Now())
		}, 200, ""},
	} {
		t.Run(name, func(t *testing.T) { send(c.change).want(t, c.status, c.code) })
	}
}

func TestAnonymousRead(t *testing.T) {
	b := setup(t, 1, func(c *Config) { withKeys(c); c.AnonymousRead = true })
	b.do("PUT", "/b/k", nil, []byte("public")).want(t, 200, "")
	b.key = ""
	if a := b.do("GET", "/b/k", nil, nil).want(t, 200, ""); string(a.body) != "public" {
		t.Errorf("got %q", a.body)
	}
	b.do("HEAD", "/b", nil, nil).want(t, 200, "")
	b.do("PUT", "/b/k", nil, []byte("x")).want(t, 403, "AccessDenied")
	b.do("POST", "/b?delete", nil, []byte("<Delete><Object><Key>k</Key></Object></Delete>")).want(t, 403, "AccessDenied")
	b.do("DELETE", "/b/k", nil, nil).want(t, 403, "AccessDenied")
}

// chunked encodes a body as clients do.
func chunked(s *signer, body []byte, size int, trailers ...string) []byte {
	var out bytes.Buffer
	for done := false; !done; {
		n := min(size, len(body))
		chunk := body[:n]
		body, done = body[n:], n == 0
		fmt.Fprintf(&out, "%x", n)
		if s != nil {
			s.seed = s.sign(algorithm+"-PAYLOAD", s.seed, emptyHash, digest(string(chunk)))
			fmt.Fprintf(&out, ";chunk-signature=%s", s.seed)
		}
		out.WriteString("\r\n")
		if !done {
			out.Write(chunk)
			out.WriteString("\r\n")
		}
	}
	lines := ""
	for _, t := range trailers {
		lines += t + "\n"
		out.WriteString(t + "\r\n")
	}
	if s != nil && len(trailers) > 0 {
		fmt.Fprintf(&out, "x-amz-trailer-signature:%s\r\n", s.sign(algorithm+"-TRAILER", s.seed, digest(lines)))
	}
	out.WriteString("\r\n")
	return out.Bytes()
}

func TestStreamingSignatures(t *testing.T) {
	b := setup(t, 1, withKeys)
	value := random(200_000)
	crc := "x-amz-checksum-crc32:" + crc32Of(value)
	for name, c := range map[string]struct {
		how, trailer string
		signed       bool
		spoil        func([]byte) []byte
		status       int
		code         string
	}{
		"signed":           {streamSigned, "", true, nil, 200, ""},
		"signed trailer":   {streamSignedTrailer, crc, true, nil, 200, ""},
		"unsigned trailer": {streamUnsignedTrailer, crc, false, nil, 200, ""},
		"wrong trailer":    {streamUnsignedTrailer, "x-amz-checksum-crc32:AAAAAA==", false, nil, 400, "BadDigest"},
		"no trailer":       {streamUnsignedTrailer, "x-other:1", false, nil, 400, "MalformedTrailerError"},
		"changed byte":     {streamSigned, "", true, func(p []byte) []byte { p[5000] ^= 1; return p }, 403, "SignatureDoesNotMatch"},
		"changed trailer":  {streamSignedTrailer, crc, true, func(p []byte) []byte { return bytes.Replace(p, []byte("crc32:"), []byte("crc32: x"), 1) }, 403, "SignatureDoesNotMatch"},
		"unsigned trailer in a signed body": {streamSignedTrailer, crc, true, func(p []byte) []byte {
			at := bytes.Index(p, []byte("x-amz-trailer-signature"))
			return append(p[:at:at], '\r', '\n')
		}, 400, "IncompleteBody"},
		"a chunk missing": {streamSigned, "", true, func(p []byte) []byte { return p[bytes.LastIndex(p[:150_000], []byte("chunk-signature="))-6:] }, 403, "SignatureDoesNotMatch"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := http.NewRequest("PUT", "http://"+b.addr+"/b/"+url.PathEscape(name), nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-Amz-Content-Sha256", c.how)
			r.Header.Set("X-Amz-Decoded-Content-Length", fmt.Sprint(len(value)))
			r.Header.Set("Content-Encoding", "aws-chunked")
			trailers := []string{}
			if c.trailer != "" {
				r.Header.Set("X-Amz-Trailer", "x-amz-checksum-crc32")
				trailers = append(trailers, c.trailer)
			}
			s := sign(r, testKey, testSecret, time.Now())
			if !c.signed {
				s = nil
			}
			body := chunked(s, value, 64<<10, trailers...)
			if c.spoil != nil {
				body = c.spoil(body)
			}
			r.Body, r.ContentLength = readCloser{bytes.NewReader(body)}, int64(len(body))
			a, err := b.send(r)
			if err != nil {
				t.Fatal(err)
			}
			a.want(t, c.status, c.code)
			got := b.do("GET", "/b/"+url.PathEscape(name), nil, nil)
			if c.status == 200 && (!bytes.Equal(got.body, value) || got.Header.Get("Content-Encoding") != "") || c.status != 200 && got.StatusCode != 404 {
				t.Errorf("then it is %d with %d bytes", got.StatusCode, len(got.body))
			}
		})
	}
}
