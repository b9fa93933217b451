package gcs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
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

// A bench is a face with a client. It has the bucket b.
type bench struct {
	t     testing.TB
	http  *http.Client
	url   string
	token string
	inner *client.Client
}

func setup(t testing.TB, c *gatewaytest.Cluster, node int, change func(*Config)) *bench {
	t.Helper()
	cfg := Config{Log: zerolog.Nop(), Objects: object.Config{ChunkBytes: 1 << 20}}
	if change != nil {
		change(&cfg)
	}
	b := &bench{t: t, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}, inner: c.Inside(node)}
	if len(cfg.Tokens) > 0 {
		b.token = cfg.Tokens[0]
	}
	b.url = "http://" + gatewaytest.Serve(t, Serve(cfg), b.inner)
	t.Cleanup(b.http.CloseIdleConnections)
	err := object.New(object.Config{Store: b.inner}).MakeBucket(context.Background(), "b")
	if err != nil && !errors.Is(err, object.ErrBucketExists) {
		t.Fatal(err)
	}
	return b
}

type answer struct {
	*http.Response
	body []byte
}

func (b *bench) do(method, path string, header map[string]string, body []byte) answer {
	b.t.Helper()
	a, err := b.try(method, path, header, body)
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

func (b *bench) try(method, path string, header map[string]string, body []byte) (answer, error) {
	r, err := http.NewRequest(method, b.url+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	if b.token != "" {
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	resp, err := b.http.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp, text}, err
}

func (a answer) want(t testing.TB, status int) answer {
	t.Helper()
	if a.StatusCode != status {
		t.Errorf("%s %s: %d, want %d\n%s", a.Request.Method, a.Request.URL, a.StatusCode, status, a.body)
	}
	if a.StatusCode >= 400 {
		var e errorJSON
		if err := json.Unmarshal(a.body, &e); err != nil || e.Error.Code != a.StatusCode || e.Error.Message == "" {
			t.Errorf("%s %s: the error is not of the API: %s", a.Request.Method, a.Request.URL, a.body)
		}
	}
	return a
}

func object1(key string) string { return "/storage/v1/b/b/o/" + url.PathEscape(key) }

func (b *bench) put(key, condition string, value []byte) answer {
	b.t.Helper()
	return b.do("POST", "/upload/storage/v1/b/b/o?uploadType=media&name="+url.QueryEscape(key)+condition, map[string]string{"Content-Type": "text/x"}, value)
}

// generation is that of an upload's answer.
func (a answer) generation(t testing.TB) string {
	t.Helper()
	var o objectJSON
	if err := json.Unmarshal(a.body, &o); err != nil || o.Generation == "" {
		t.Fatalf("%v: %s", err, a.body)
	}
	return o.Generation
}

// What TensorStore's gcs driver asks, with its conditions: 0 stands for no object.
func TestKeyValue(t *testing.T) {
	b := setup(t, gatewaytest.NewCluster(t, 2, 64<<20), 0, nil)
	const key, other, value = "dir/a!b@c$d+é", "7", "_kvstore_value_"
	b.do("GET", object1(key)+"?alt=media&ifGenerationNotMatch=0&unknown=1", nil, nil).want(t, 404)
	b.do("GET", object1(key)+"?alt=media&ifGenerationMatch="+other, nil, nil).want(t, 404)
	b.put(key, "&ifGenerationMatch="+other, []byte(value)).want(t, 412)
	g := b.put(key, "&ifGenerationMatch=0", []byte(value)).want(t, 200).generation(t)
	b.put(key, "&ifGenerationMatch=0", []byte("x")).want(t, 412)
	b.put(key, "&ifGenerationMatch="+other, []byte("x")).want(t, 412)
	for _, c := range []struct {
		query, rng string
		status     int
		body       string
	}{
		{"", "", 200, value}, {"", "bytes=1-", 206, value[1:]}, {"", "bytes=-2", 206, "e_"}, {"", "bytes=1-2", 206, "kv"}, {"", "bytes=15-", 416, ""},
		{"&ifGenerationMatch=" + g, "", 200, value}, {"&ifGenerationNotMatch=" + g, "", 304, ""}, {"&ifGenerationMatch=" + other, "", 412, ""},
		{"&ifGenerationNotMatch=" + other, "", 200, value}, {"&ifGenerationMatch=0", "", 412, ""}, {"&ifGenerationNotMatch=0", "", 200, value},
		{"&generation=" + g, "", 200, value}, {"&generation=" + other, "", 404, ""}, {"&ifGenerationMatch=x", "", 400, ""},
	} {
		a := b.do("GET", object1(key)+"?alt=media"+c.query, map[string]string{"Range": c.rng}, nil).want(t, c.status)
		if c.status < 300 && (string(a.body) != c.body || a.Header.Get("x-goog-generation") != g) {
			t.Errorf("%+v: %q of generation %s", c, a.body, a.Header.Get("x-goog-generation"))
		}
	}
	var o objectJSON
	if err := json.Unmarshal(b.do("GET", object1(key)+"?alt=json", nil, nil).want(t, 200).body, &o); err != nil || o.Name != key || o.Size != "15" || o.Generation != g || o.ContentType != "text/x" {
		t.Errorf("%+v, %v", o, err)
	}
	for query, status := range map[string]int{
		"ifGenerationMatch=" + g: 200, "ifGenerationNotMatch=" + g: 304, "ifGenerationMatch=" + other: 412, "ifGenerationNotMatch=0": 200, "ifGenerationMatch=0&userProject=p": 412,
	} {
		b.do("GET", object1(key)+"?alt=json&"+query, nil, nil).want(t, status)
	}
	next := b.put(key, "&ifGenerationMatch="+g, []byte(value)).want(t, 200).generation(t)
	if next == g {
		t.Error("the generation repeats")
	}
	b.do("DELETE", object1(key)+"?ifGenerationMatch="+g, nil, nil).want(t, 412)
	b.do("DELETE", object1(key)+"?ifGenerationMatch=0", nil, nil).want(t, 412)
	b.do("DELETE", object1(key)+"?ifGenerationMatch="+next, nil, nil).want(t, 204)
	b.do("DELETE", object1(key)+"?ifGenerationMatch="+next, nil, nil).want(t, 404)
	b.do("DELETE", object1(key)+"?ifGenerationMatch=0", nil, nil).want(t, 404)
	b.do("DELETE", object1(key), nil, nil).want(t, 404)
	b.put(key, "", nil).want(t, 200)
	if a := b.do("GET", object1(key)+"?alt=media", nil, nil).want(t, 200); len(a.body) != 0 || a.ContentLength != 0 {
		t.Errorf("an empty object has %d bytes", len(a.body))
	}
}

// Each increments a counter by compare-and-set; none is lost. Then all delete one generation: one succeeds.
func TestConcurrentWrites(t *testing.T) {
	const writers, rounds = 8, 5
	c := gatewaytest.NewCluster(t, 2, 64<<20)
	faces := []*bench{setup(t, c, 0, nil), setup(t, c, 1, nil)}
	faces[0].put("k", "", []byte("0")).want(t, 200)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			b := faces[i%2]
			for done := 0; done < rounds; {
				a := b.do("GET", object1("k")+"?alt=media", nil, nil)
				var n int
				if _, err := fmt.Sscan(string(a.body), &n); err != nil {
					t.Errorf("%d %s: %v", a.StatusCode, a.body, err)
					return
				}
				if b.put("k", "&ifGenerationMatch="+a.Header.Get("x-goog-generation"), fmt.Append(nil, n+1)).StatusCode == 200 {
					done++
				}
			}
		})
	}
	wg.Wait()
	a := faces[1].do("GET", object1("k")+"?alt=media", nil, nil).want(t, 200)
	if string(a.body) != fmt.Sprint(writers*rounds) {
		t.Errorf("%s after %d increments", a.body, writers*rounds)
	}
	g, statuses := a.Header.Get("x-goog-generation"), make([]int, 16)
	for i := range statuses {
		wg.Go(func() {
			statuses[i] = faces[i%2].do("DELETE", object1("k")+"?ifGenerationMatch="+g, nil, nil).StatusCode
		})
	}
	wg.Wait()
	if deleted := slices.DeleteFunc(slices.Clone(statuses), func(s int) bool { return s != 204 }); len(deleted) != 1 {
		t.Errorf("deletes: %v", statuses)
	}
}

func TestLists(t *testing.T) {
	b := setup(t, gatewaytest.NewCluster(t, 2, 64<<20), 0, nil)
	all := []string{"a/a", "a/b", "a/c/a", "a/c/b", "b/a", "b/b"}
	for _, key := range all {
		b.put(key, "", []byte(key)).want(t, 200)
	}
	for query, want := range map[string][]string{
		"": all, "startOffset=a/b&endOffset=b/aa": all[1:5], "startOffset=a/b": all[1:], "endOffset=a/c/aa": all[:3], "prefix=a/c/": all[2:4],
		"prefix=a/&delimiter=/": {"a/a", "a/b", "a/c/"}, "delimiter=/": {"a/", "b/"}, "startOffset=a/c/": all[2:], "prefix=none": nil,
	} {
		for _, size := range []int{1, 2, 1000} {
			var got []string
			token := ""
			for page := 0; page < 20; page++ {
				a := b.do("GET", fmt.Sprintf("/storage/v1/b/b/o?%s&maxResults=%d&pageToken=%s", query, size, url.QueryEscape(token)), nil, nil).want(t, 200)
				var list struct {
					Items         []objectJSON
					Prefixes      []string
					NextPageToken string
				}
				if err := json.Unmarshal(a.body, &list); err != nil {
					t.Fatal(err)
				}
				for _, o := range list.Items {
					got = append(got, o.Name)
				}
				got = append(got, list.Prefixes...)
				if token = list.NextPageToken; token == "" {
					break
				}
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%s in pages of %d: %q, want %q", query, size, got, want)
			}
		}
	}
	b.do("GET", "/storage/v1/b/b/o?maxResults=0", nil, nil).want(t, 400)
	b.do("GET", "/storage/v1/b/b/o?pageToken=%21", nil, nil).want(t, 400)
	b.do("GET", "/storage/v1/b/nowhere/o", nil, nil).want(t, 404)
}

func TestBucketsAndRefusals(t *testing.T) {
	b := setup(t, gatewaytest.NewCluster(t, 1, 64<<20), 0, func(c *Config) { c.Tokens = []string{"right", "other"} })
	b.do("POST", "/storage/v1/b", nil, []byte(`{"name":"made"}`)).want(t, 200)
	b.do("POST", "/storage/v1/b", nil, []byte(`{"name":"made"}`)).want(t, 409)
	b.do("POST", "/storage/v1/b", nil, []byte(`{"name":"a/b"}`)).want(t, 400)
	b.do("POST", "/storage/v1/b", nil, []byte(`{`)).want(t, 400)
	if a := b.do("GET", "/storage/v1/b?project=x", nil, nil).want(t, 200); !strings.Contains(string(a.body), `"name":"made"`) {
		t.Errorf("%s", a.body)
	}
	b.do("GET", "/storage/v1/b/made", nil, nil).want(t, 200)
	b.do("DELETE", "/storage/v1/b/made", nil, nil).want(t, 204)
	b.do("GET", "/storage/v1/b/made", nil, nil).want(t, 404)
	b.do("POST", "/upload/storage/v1/b/made/o?uploadType=media&name=k", nil, []byte("x")).want(t, 404)
	for _, kind := range []string{"resumable", "multipart", ""} {
		b.do("POST", "/upload/storage/v1/b/b/o?name=k&uploadType="+kind, nil, []byte("x")).want(t, 501)
	}
	b.do("PUT", "/upload/storage/v1/b/b/o?uploadType=resumable&upload_id=1&name=k", nil, []byte("x")).want(t, 404)
	b.do("GET", "/storage/v1/b/b/o/k", nil, nil).want(t, 404)
	b.do("POST", "/upload/storage/v1/b/b/o?uploadType=media&name=", nil, nil).want(t, 400)
	b.do("POST", "/upload/storage/v1/b/b/o?uploadType=media&name=%ff", nil, nil).want(t, 400)
	b.do("POST", "/upload/storage/v1/b/b/o?uploadType=media&name=k&ifGenerationNotMatch=1", nil, nil).want(t, 501)
	b.do("GET", "/storage/v1/b/b/o/k?ifMetagenerationMatch=1", nil, nil).want(t, 501)
	b.do("PATCH", "/storage/v1/b/b/o/k", nil, nil).want(t, 405)
	b.do("GET", "/elsewhere", nil, nil).want(t, 404)
	for token, status := range map[string]int{"other": 200, "wrong": 401, "": 401} {
		b.token = token
		b.do("GET", "/storage/v1/b", nil, nil).want(t, status)
	}
}

// Who is silent in the middle of a body is not waited for.
func TestStalls(t *testing.T) {
	b := setup(t, gatewaytest.NewCluster(t, 1, 64<<20), 0, func(c *Config) { c.Objects.Stall = 100 * time.Millisecond })
	for path, want := range map[string]string{"/storage/v1/b": " 408 ", "/upload/storage/v1/b/b/o?uploadType=media&name=k": " 408 ", "/elsewhere": " 404 "} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second)) // a failure shows in the read
		if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", path); err != nil {
			t.Fatal(err)
		}
		reply, err := io.ReadAll(conn) // until the face closes the connection
		if err != nil || !strings.Contains(string(reply), want) {
			t.Errorf("%s: %s, %v", path, reply, err)
		}
	}
	b.do("GET", object1("k"), nil, nil).want(t, 404)
}

// An object that S3 would have sent in parts is whole here too, longer than a value.
func TestLongObject(t *testing.T) {
	b := setup(t, gatewaytest.NewCluster(t, 2, 64<<20), 0, nil)
	value := bytes.Repeat([]byte("0123456789"), gatewaytest.MaxValueBytes/10+1000)
	b.put("long", "", value).want(t, 200)
	if a := b.do("GET", object1("long")+"?alt=media", nil, nil).want(t, 200); !bytes.Equal(a.body, value) {
		t.Errorf("%d bytes came back of %d", len(a.body), len(value))
	}
}
