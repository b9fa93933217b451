package s3

import (
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/dramnode/dramnode/gateway/gatewaytest"
	"github.com/dramnode/dramnode/gateway/object"
)

var sumNames = []string{"crc32", "crc32c", "crc64nvme", "md5", "sha1", "sha256", "sha512", "xxhash64", "xxhash3", "xxhash128"}

func sumOf(algorithm string, pieces ...[]byte) string {
	h, _ := object.NewHash(algorithm)
	for _, p := range pieces {
		h.Write(p)
	}
	return object.SumOf(algorithm, h).Text
}

// compositeOf is the checksum of the parts' checksums.
func compositeOf(algorithm string, parts ...[]byte) string {
	var sums []byte
	for _, p := range parts {
		b, _ := base64.StdEncoding.DecodeString(sumOf(algorithm, p))
		sums = append(sums, b...)
	}
	return fmt.Sprintf("%s-%d", sumOf(algorithm, sums), len(parts))
}

// told is the one checksum in the headers of an answer, as "NAME VALUE TYPE"; "" when there is none.
func (a answer) told() string {
	var all []string
	for _, name := range sumNames {
		if v := a.Header.Get(checksumPrefix + name); v != "" {
			all = append(all, strings.TrimSpace(name+" "+v+" "+a.Header.Get(checksumPrefix+"Type")))
		}
	}
	return strings.Join(all, ", ")
}

// tells checks the checksum in the headers of an answer.
func (a answer) tells(t *testing.T, want string) {
	t.Helper()
	if got := a.told(); got != want {
		t.Errorf("%s %s tells %q, want %q", a.Request.Method, a.Request.URL, got, want)
	}
}

var enabled = map[string]string{"X-Amz-Checksum-Mode": "ENABLED"}

// A checksum that came with an object, or the default one, is told by the write, by reads that ask, and by lists; and a
// copy has it too, or the one it asks for.
func TestKeptChecksums(t *testing.T) {
	c := gatewaytest.NewCluster(t, 3, 128<<20)
	b, other := setupOn(t, c, 0, nil), setupOn(t, c, 1, nil)
	value := random(3000)
	for _, name := range sumNames {
		sum := sumOf(name, value)
		want := name + " " + sum + " FULL_OBJECT"
		b.do("PUT", "/b/"+name, map[string]string{checksumPrefix + name: sum, "X-Amz-Sdk-Checksum-Algorithm": strings.ToUpper(name)}, value).want(t, 200, "").tells(t, want)
		for _, method := range []string{"GET", "HEAD"} {
			other.do(method, "/b/"+name, enabled, nil).tells(t, want)
			other.do(method, "/b/"+name+"?partNumber=1", enabled, nil).tells(t, want)
			other.do(method, "/b/"+name, nil, nil).tells(t, "")
			other.do(method, "/b/"+name, map[string]string{"X-Amz-Checksum-Mode": "enabled", "Range": "bytes=1-2"}, nil).tells(t, "")
		}
	}
	plain := "crc64nvme " + sumOf("crc64nvme", value) + " FULL_OBJECT"
	b.do("PUT", "/b/plain", nil, value).want(t, 200, "").tells(t, plain)
	other.do("GET", "/b/plain", enabled, nil).tells(t, plain)
	long := random(gatewaytest.MaxValueBytes + 5)
	b.do("PUT", "/b/long", nil, long).want(t, 200, "").tells(t, "crc64nvme "+sumOf("crc64nvme", long)+" FULL_OBJECT")
	other.do("HEAD", "/b/long", enabled, nil).tells(t, "crc64nvme "+sumOf("crc64nvme", long)+" FULL_OBJECT")

	var copied struct {
		ChecksumSHA1, ChecksumSHA256, ChecksumCRC64NVME, ChecksumType string
	}
	copyOf := func(algorithm string) {
		t.Helper()
		copied.ChecksumSHA1, copied.ChecksumSHA256, copied.ChecksumCRC64NVME = "", "", ""
		a := b.do("PUT", "/b/copy", map[string]string{"X-Amz-Copy-Source": "b/sha1", "X-Amz-Checksum-Algorithm": algorithm}, nil).want(t, 200, "")
		if err := xml.Unmarshal(a.body, &copied); err != nil || copied.ChecksumType != "FULL_OBJECT" {
			t.Errorf("%v: %s", err, a.body)
		}
	}
	if copyOf(""); copied.ChecksumSHA1 != sumOf("sha1", value) || copied.ChecksumCRC64NVME != "" {
		t.Errorf("the copy has %+v", copied)
	}
	if copyOf("SHA256"); copied.ChecksumSHA256 != sumOf("sha256", value) || copied.ChecksumSHA1 != "" {
		t.Errorf("the copy with another checksum has %+v", copied)
	}
	b.do("PUT", "/b/copy", map[string]string{"X-Amz-Copy-Source": "b/sha1", "X-Amz-Checksum-Algorithm": "CRC"}, nil).want(t, 400, "InvalidRequest")
	other.do("HEAD", "/b/copy", enabled, nil).tells(t, "sha256 "+sumOf("sha256", value)+" FULL_OBJECT")

	var list listXML
	if err := xml.Unmarshal(other.do("GET", "/b?list-type=2", nil, nil).body, &list); err != nil {
		t.Fatal(err)
	}
	for _, o := range list.Contents {
		want := o.Key
		if !slices.Contains(sumNames, o.Key) {
			want = map[string]string{"plain": "crc64nvme", "long": "crc64nvme", "copy": "sha256"}[o.Key]
		}
		if o.ChecksumAlgorithm != strings.ToUpper(want) || o.ChecksumType != "FULL_OBJECT" {
			t.Errorf("the list says of %q: %+v", o.Key, o.wholeSumXML)
		}
	}
	// What another face writes has none.
	if _, err := b.inner.Put(t.Context(), []byte("b/plain"), []byte("by another face")); err != nil {
		t.Fatal(err)
	}
	other.do("GET", "/b/plain", enabled, nil).want(t, 200, "").tells(t, "")
}

// summed uploads parts with checksums and returns what a Complete has to say of them.
func (b *bench) summed(upload, algorithm string, parts ...[]byte) string {
	b.t.Helper()
	var list strings.Builder
	for i, p := range parts {
		sum := sumOf(algorithm, p)
		a := b.do("PUT", fmt.Sprintf("/b/k?uploadId=%s&partNumber=%d", upload, i+1), map[string]string{checksumPrefix + algorithm: sum}, p).want(b.t, 200, "")
		if got := a.told(); got != algorithm+" "+sum {
			b.t.Errorf("the part tells %q, want %s %s", got, algorithm, sum)
		}
		fmt.Fprintf(&list, "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag><Checksum%[3]s>%s</Checksum%[3]s></Part>", i+1, a.tag(), strings.ToUpper(algorithm), sum)
	}
	return "<CompleteMultipartUpload>" + list.String() + "</CompleteMultipartUpload>"
}

// beginSummed begins an upload of /b/k.
func (b *bench) beginSummed(algorithm, kind string) string {
	b.t.Helper()
	var u beginXML
	a := b.do("POST", "/b/k?uploads", map[string]string{"X-Amz-Checksum-Algorithm": algorithm, "X-Amz-Checksum-Type": kind}, nil).want(b.t, 200, "")
	if err := xml.Unmarshal(a.body, &u); err != nil || u.UploadID == "" || a.Header.Get("X-Amz-Checksum-Algorithm") != strings.ToUpper(algorithm) {
		b.t.Errorf("%s: %v, %v", a.body, err, a.Header)
	}
	return u.UploadID
}

// The checksum of an object in parts follows from those of the parts, of which some are not the client's, and is told by
// the answer, by reads and by lists; one that the client states is checked.
func TestMultipartChecksums(t *testing.T) {
	c := gatewaytest.NewCluster(t, 3, 128<<20)
	b, other := setupOn(t, c, 0, nil), setupOn(t, c, 1, nil)
	parts := [][]byte{random(300 << 10), random(1234), random(17)}
	for _, test := range []struct{ algorithm, kind, want string }{
		{"crc32", "FULL_OBJECT", sumOf("crc32", parts...)}, {"crc32c", "full_object", sumOf("crc32c", parts...)}, {"crc64nvme", "", sumOf("crc64nvme", parts...)},
		{"crc32", "", compositeOf("crc32", parts...)}, {"sha256", "COMPOSITE", compositeOf("sha256", parts...)}, {"xxhash128", "", compositeOf("xxhash128", parts...)},
	} {
		kind := "FULL_OBJECT"
		if strings.Contains(test.want, "-") {
			kind = "COMPOSITE"
		}
		upload := b.beginSummed(test.algorithm, test.kind)
		asked := other.summed(upload, test.algorithm, parts...)
		for _, path := range []string{"/b?uploads", "/b/k?uploadId=" + upload} {
			if a := other.do("GET", path, nil, nil); !strings.Contains(string(a.body), "<ChecksumAlgorithm>"+strings.ToUpper(test.algorithm)+"</ChecksumAlgorithm><ChecksumType>"+kind) {
				t.Errorf("%s: %s", path, a.body)
			}
		}
		if a := b.do("GET", "/b/k?uploadId="+upload, nil, nil); !strings.Contains(string(a.body), "<Checksum"+strings.ToUpper(test.algorithm)+">"+sumOf(test.algorithm, parts[1])+"<") {
			t.Errorf("the list of parts: %s", a.body)
		}
		said := map[string]string{checksumPrefix + test.algorithm: test.want, "X-Amz-Checksum-Type": kind, "X-Amz-Mp-Object-Size": fmt.Sprint(300<<10 + 1234 + 17)}
		for name, bad := range map[string]string{checksumPrefix + test.algorithm: "AA", "X-Amz-Checksum-Type": "ALL", "X-Amz-Mp-Object-Size": "1"} {
			good := said[name]
			said[name] = bad
			b.do("POST", "/b/k?uploadId="+upload, said, []byte(asked)).want(t, 400, "InvalidRequest")
			said[name] = good
		}
		said[checksumPrefix+test.algorithm] = sumOf(test.algorithm, parts[0])
		b.do("POST", "/b/k?uploadId="+upload, said, []byte(asked)).want(t, 400, "BadDigest")
		b.do("GET", "/b/k", nil, nil).want(t, 404, "NoSuchKey")
		said[checksumPrefix+test.algorithm] = test.want
		a := b.do("POST", "/b/k?uploadId="+upload, said, []byte(asked)).want(t, 200, "")
		if !strings.Contains(string(a.body), fmt.Sprintf("<Checksum%[1]s>%[2]s</Checksum%[1]s><ChecksumType>%[3]s<", strings.ToUpper(test.algorithm), test.want, kind)) {
			t.Errorf("%+v: %s", test, a.body)
		}
		other.do("HEAD", "/b/k", enabled, nil).tells(t, test.algorithm+" "+test.want+" "+kind)
		other.do("GET", "/b/k?partNumber=2", enabled, nil).tells(t, test.algorithm+" "+sumOf(test.algorithm, parts[1])+" "+kind)
		b.do("DELETE", "/b/k", nil, nil).want(t, 204, "")
	}
	// Without any of it the object has the default.
	b.complete("/b/k", b.begin("/b/k"), nil, parts...).want(t, 200, "")
	other.do("GET", "/b/k", enabled, nil).tells(t, "crc64nvme "+sumOf("crc64nvme", parts...)+" FULL_OBJECT")
	other.do("GET", "/b/k?partNumber=2", enabled, nil).tells(t, "")
	// A copied part, and one whose client said nothing, get the upload's checksum.
	upload := b.beginSummed("crc32", "FULL_OBJECT")
	got := b.do("PUT", "/b/k?partNumber=1&uploadId="+upload, map[string]string{"X-Amz-Copy-Source": "b/k"}, nil).want(t, 200, "")
	if !strings.Contains(string(got.body), "<ChecksumCRC32>"+sumOf("crc32", parts...)+"<") {
		t.Errorf("the copied part: %s", got.body)
	}
	b.do("PUT", "/b/k?partNumber=2&uploadId="+upload, nil, parts[1]).want(t, 200, "").tells(t, "crc32 "+sumOf("crc32", parts[1]))
	b.do("DELETE", "/b/k?uploadId="+upload, nil, nil).want(t, 204, "")
	b.do("DELETE", "/b/k", nil, nil).want(t, 204, "")
	b.eventuallyEmpty()
}

func TestMultipartChecksumsRefused(t *testing.T) {
	b := setup(t, 1, nil)
	for _, h := range []map[string]string{
		{"X-Amz-Checksum-Algorithm": "CRC"}, {"X-Amz-Checksum-Type": "COMPOSITE"}, {"X-Amz-Checksum-Algorithm": "CRC32", "X-Amz-Checksum-Type": "ALL"},
		{"X-Amz-Checksum-Algorithm": "CRC64NVME", "X-Amz-Checksum-Type": "COMPOSITE"}, {"X-Amz-Checksum-Algorithm": "SHA1", "X-Amz-Checksum-Type": "FULL_OBJECT"},
	} {
		b.do("POST", "/b/k?uploads", h, nil).want(t, 400, "InvalidRequest")
	}
	upload, value := b.beginSummed("sha1", ""), random(2000)
	b.do("PUT", "/b/k?partNumber=1&uploadId="+upload, nil, value).want(t, 400, "InvalidRequest")
	b.do("PUT", "/b/k?partNumber=1&uploadId="+upload, map[string]string{"X-Amz-Checksum-Md5": sumOf("md5", value)}, value).want(t, 400, "InvalidRequest")
	b.do("PUT", "/b/k?partNumber=1&uploadId="+upload, map[string]string{"X-Amz-Checksum-Sha1": sumOf("sha1")}, value).want(t, 400, "BadDigest")
	good := b.summed(upload, "sha1", value)
	sum := "<ChecksumSHA1>" + sumOf("sha1", value) + "</ChecksumSHA1>"
	for replaced, code := range map[string]string{
		"": "InvalidRequest", sum + "<ChecksumMD5>" + sumOf("md5", value) + "</ChecksumMD5>": "InvalidArgument", "<ChecksumSHA1>AA</ChecksumSHA1>": "InvalidArgument",
		"<ChecksumMD5>" + sumOf("md5", value) + "</ChecksumMD5>": "BadDigest", "<ChecksumSHA1>" + sumOf("sha1") + "</ChecksumSHA1>": "InvalidPart",
	} {
		b.do("POST", "/b/k?uploadId="+upload, nil, []byte(strings.Replace(good, sum, replaced, 1))).want(t, 400, code)
	}
	for _, h := range []map[string]string{{"X-Amz-Checksum-Type": "FULL_OBJECT"}, {"X-Amz-Checksum-Sha1": "AA", "X-Amz-Checksum-Md5": "AA"}} {
		b.do("POST", "/b/k?uploadId="+upload, h, []byte(good)).want(t, 400, "InvalidRequest")
	}
	b.do("GET", "/b/k", nil, nil).want(t, 404, "NoSuchKey")
	b.do("POST", "/b/k?uploadId="+upload, nil, []byte(good)).want(t, 200, "")
}
