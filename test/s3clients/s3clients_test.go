// Package s3clients runs the S3 clients that Go programs use, unmodified, against a node. It is a module of its
// own, so that what the clients need stays out of dramnode's.
package s3clients

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/dramnode/dramnode/test/proc"
)

const access, secret = "clients", "a secret of the clients"

var binary = proc.BinaryFromEnv()

func TestMain(m *testing.M) {
	code := m.Run()
	if err := binary.Remove(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// serve starts a node with an S3 face and returns the face's address.
func serve(t *testing.T, args ...string) string {
	t.Helper()
	program, err := binary.Build()
	if err != nil {
		t.Fatal(err)
	}
	addr := proc.Address(t, nil)
	n := proc.Start(t, program, proc.Options{Memory: "512MiB", Args: append([]string{"--s3", addr}, args...), Env: []string{"DRAMNODE_S3_KEYS=" + access + ":" + secret}})
	n.WaitReady()
	return addr
}

func random(bytes int) []byte {
	b := make([]byte, bytes)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(b)
	return b
}

func TestMinio(t *testing.T) {
	for _, mode := range []string{"generation", "md5"} {
		for _, trailing := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,trailing=%v", mode, trailing), func(t *testing.T) {
				c, err := minio.New(serve(t, "--s3-etag", mode), &minio.Options{Creds: credentials.NewStaticV4(access, secret, ""), TrailingHeaders: trailing})
				if err != nil {
					t.Fatal(err)
				}
				testMinio(t, c)
			})
		}
	}
}

func testMinio(t *testing.T, c *minio.Client) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.MakeBucket(ctx, "bkt", minio.MakeBucketOptions{}))
	small, big := random(1000), random(17<<20+5)
	for key, value := range map[string][]byte{"dir/small": small, "dir/big ü+": big, "empty": nil} {
		put, err := c.PutObject(ctx, "bkt", key, bytes.NewReader(value), int64(len(value)), minio.PutObjectOptions{ContentType: "text/x", UserMetadata: map[string]string{"who": "me"}, PartSize: 5 << 20})
		must(err)
		o, err := c.GetObject(ctx, "bkt", key, minio.GetObjectOptions{})
		must(err)
		got, err := io.ReadAll(o)
		must(err)
		stat, err := o.Stat()
		must(err)
		if !bytes.Equal(got, value) || stat.ETag != put.ETag || stat.ContentType != "text/x" || stat.UserMetadata["Who"] != "me" {
			t.Errorf("%s: %d bytes, %+v", key, len(got), stat)
		}
	}
	// Of unknown length: the client cuts it in parts.
	_, err := c.PutObject(ctx, "bkt", "stream", io.LimitReader(bytes.NewReader(big), 11<<20), -1, minio.PutObjectOptions{PartSize: 5 << 20})
	must(err)
	part := minio.GetObjectOptions{}
	must(part.SetRange(5<<20-3, 5<<20+3))
	o, err := c.GetObject(ctx, "bkt", "stream", part)
	must(err)
	if got, err := io.ReadAll(o); err != nil || !bytes.Equal(got, big[5<<20-3:5<<20+4]) {
		t.Errorf("a range over two parts: %d bytes, %v", len(got), err)
	}
	_, err = c.CopyObject(ctx, minio.CopyDestOptions{Bucket: "bkt", Object: "copy"}, minio.CopySrcOptions{Bucket: "bkt", Object: "dir/big ü+"})
	must(err)
	_, err = c.ComposeObject(ctx, minio.CopyDestOptions{Bucket: "bkt", Object: "composed"}, minio.CopySrcOptions{Bucket: "bkt", Object: "copy"}, minio.CopySrcOptions{Bucket: "bkt", Object: "dir/small"})
	must(err)
	if stat, err := c.StatObject(ctx, "bkt", "composed", minio.StatObjectOptions{}); err != nil || stat.Size != int64(len(big)+len(small)) {
		t.Errorf("composed: %+v, %v", stat, err)
	}
	once := minio.PutObjectOptions{}
	once.SetMatchETagExcept("*")
	if _, err := c.PutObject(ctx, "bkt", "copy", bytes.NewReader(small), 1000, once); minio.ToErrorResponse(err).Code != "PreconditionFailed" {
		t.Errorf("create-only over an object: %v", err)
	}
	var keys []string
	for o := range c.ListObjects(ctx, "bkt", minio.ListObjectsOptions{Recursive: true, MaxKeys: 2}) {
		must(o.Err)
		keys = append(keys, o.Key)
	}
	if want := []string{"composed", "copy", "dir/big ü+", "dir/small", "empty", "stream"}; !slices.Equal(keys, want) {
		t.Errorf("listed %q, want %q", keys, want)
	}
	gone := make(chan minio.ObjectInfo)
	go func() {
		defer close(gone)
		for _, key := range keys {
			gone <- minio.ObjectInfo{Key: key}
		}
	}()
	for e := range c.RemoveObjects(ctx, "bkt", gone, minio.RemoveObjectsOptions{}) {
		t.Error(e)
	}
	must(c.RemoveBucket(ctx, "bkt"))
	if there, err := c.BucketExists(ctx, "bkt"); there || err != nil {
		t.Errorf("the bucket is there: %v, %v", there, err)
	}
}

// An object as long as objects may be, when DRAMNODE_HUGE is set (make huge), and a tenth of a GiB otherwise, comes in parts
// through one node of three and goes through another, whole and by a range across the border of two parts.
func TestLongObject(t *testing.T) {
	size, memory := int64(100<<20+1), "256MiB"
	if os.Getenv("DRAMNODE_HUGE") != "" {
		size, memory = 5<<30, "3GiB"
	}
	const partBytes = 32 << 20
	clients := cluster(t, 3, memory)
	ctx := t.Context()
	if err := clients[0].MakeBucket(ctx, "bkt", minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	put, err := clients[0].PutObject(ctx, "bkt", "long", io.LimitReader(content(), size), size, minio.PutObjectOptions{PartSize: partBytes, NumThreads: 2, Checksum: minio.ChecksumFullObjectCRC32C})
	if err != nil {
		t.Fatal(err)
	}
	got, err := clients[1].GetObject(ctx, "bkt", "long", minio.GetObjectOptions{Checksum: true})
	if err != nil {
		t.Fatal(err)
	}
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	if n, err := same(io.TeeReader(got, sum), content()); err != nil || n != size {
		t.Fatalf("after %d bytes of %d: %v", n, size, err)
	}
	stat, err := clients[1].StatObject(ctx, "bkt", "long", minio.StatObjectOptions{Checksum: true})
	want := base64.StdEncoding.EncodeToString(sum.Sum(nil))
	if err != nil || stat.Size != size || stat.ETag != put.ETag || stat.ChecksumCRC32C != want || put.ChecksumCRC32C != want {
		t.Errorf("%v: %+v of %+v, the sum is %s", err, stat, put, want)
	}
	part := minio.GetObjectOptions{}
	border := size / partBytes / 2 * partBytes
	if err := part.SetRange(border-1000, border+999); err != nil {
		t.Fatal(err)
	}
	middle, err := clients[2].GetObject(ctx, "bkt", "long", part)
	if err != nil {
		t.Fatal(err)
	}
	all := content()
	if _, err := io.CopyN(io.Discard, all, border-1000); err != nil {
		t.Fatal(err)
	}
	if n, err := same(middle, all); err != nil || n != 2000 {
		t.Errorf("a range: after %d bytes, %v", n, err)
	}
	if err := clients[2].RemoveObject(ctx, "bkt", "long", minio.RemoveObjectOptions{}); err != nil {
		t.Error(err)
	}
}

// content is bytes without end, the same each time.
func content() io.Reader { return rand.NewChaCha8([32]byte{2}) }

// same reads got to its end, compares it with want, and returns how many bytes are as they should be.
func same(got, want io.Reader) (n int64, err error) {
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		read, err := io.ReadFull(got, a)
		if _, err := io.ReadFull(want, b[:read]); err != nil {
			return n, err
		}
		if !bytes.Equal(a[:read], b[:read]) {
			return n, errors.New("other bytes")
		}
		n += int64(read)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// cluster starts nodes, with a client for each.
func cluster(t *testing.T, nodes int, memory string) (clients []*minio.Client) {
	t.Helper()
	program, err := binary.Build()
	if err != nil {
		t.Fatal(err)
	}
	var first *proc.Node
	for i := range nodes {
		addr := proc.Address(t, nil)
		o := proc.Options{Name: fmt.Sprint("n", i), Memory: memory, Args: []string{"--s3", addr, "--upload-memory", "6GiB"}, Env: []string{"DRAMNODE_S3_KEYS=" + access + ":" + secret}}
		if first != nil {
			o.Join = []string{first.GossipAddr()}
		}
		n := proc.Start(t, program, o)
		n.WaitReady()
		if first == nil {
			first = n
		}
		c, err := minio.New(addr, &minio.Options{Creds: credentials.NewStaticV4(access, secret, ""), TrailingHeaders: true})
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	return clients
}

func TestAWS(t *testing.T) {
	for _, mode := range []string{"generation", "md5"} {
		t.Run(mode, func(t *testing.T) {
			url := "http://" + serve(t, "--s3-etag", mode)
			testAWS(t, s3.New(s3.Options{
				BaseEndpoint: &url, UsePathStyle: true, Region: "us-east-1", RetryMaxAttempts: 1,
				Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
					return aws.Credentials{AccessKeyID: access, SecretAccessKey: secret}, nil
				}),
			}))
		})
	}
}

func code(err error) string {
	if e := smithy.APIError(nil); errors.As(err, &e) {
		return e.ErrorCode()
	}
	return fmt.Sprint(err)
}

func testAWS(t *testing.T, c *s3.Client) {
	ctx, bkt, key := t.Context(), aws.String("bkt"), aws.String("k/ü +")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: bkt})
	must(err)
	for _, algorithm := range types.ChecksumAlgorithm("").Values() {
		switch algorithm {
		case "CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256":
			_, err = c.PutObject(ctx, &s3.PutObjectInput{Bucket: bkt, Key: aws.String("sum-" + string(algorithm)), Body: strings.NewReader("x"), ChecksumAlgorithm: algorithm})
			must(err)
			// The client checks what it reads against the checksum that the answer tells.
			got, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: bkt, Key: aws.String("sum-" + string(algorithm)), ChecksumMode: types.ChecksumModeEnabled})
			must(err)
			if body, err := io.ReadAll(got.Body); err != nil || string(body) != "x" || got.ChecksumType != types.ChecksumTypeFullObject {
				t.Errorf("%s: %q, %v, type %q", algorithm, body, err, got.ChecksumType)
			}
		}
	}
	put, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: bkt, Key: key, Body: strings.NewReader("hello"), Metadata: map[string]string{"who": "me"}})
	must(err)
	got, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: bkt, Key: key, IfMatch: put.ETag, ChecksumMode: types.ChecksumModeEnabled})
	must(err)
	if body, err := io.ReadAll(got.Body); err != nil || string(body) != "hello" || got.Metadata["who"] != "me" || aws.ToString(got.ETag) != aws.ToString(put.ETag) {
		t.Errorf("%q %v %v", body, got.Metadata, err)
	}
	for want, try := range map[string]func() error{
		"PreconditionFailed": func() error {
			_, err := c.PutObject(ctx, &s3.PutObjectInput{Bucket: bkt, Key: key, Body: strings.NewReader("x"), IfNoneMatch: aws.String("*")})
			return err
		},
		"NoSuchKey": func() error {
			_, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: bkt, Key: aws.String("missing")})
			return err
		},
		"NotFound": func() error {
			_, err := c.HeadObject(ctx, &s3.HeadObjectInput{Bucket: bkt, Key: aws.String("missing")})
			return err
		},
		"InvalidRange": func() error {
			_, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: bkt, Key: key, Range: aws.String("bytes=5-")})
			return err
		},
		"NoSuchBucket": func() error {
			_, err := c.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: aws.String("nowhere")})
			return err
		},
	} {
		if err := try(); code(err) != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	// In parts, with the checksums that the client adds to each.
	parts := [][]byte{random(5 << 20), random(1000)}
	up, err := c.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: bkt, Key: aws.String("parts")})
	must(err)
	var done []types.CompletedPart
	for i, p := range parts {
		n := aws.Int32(int32(i + 1))
		part, err := c.UploadPart(ctx, &s3.UploadPartInput{Bucket: bkt, Key: aws.String("parts"), UploadId: up.UploadId, PartNumber: n, Body: bytes.NewReader(p)})
		must(err)
		done = append(done, types.CompletedPart{ETag: part.ETag, PartNumber: n, ChecksumCRC32: part.ChecksumCRC32})
	}
	_, err = c.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{Bucket: bkt, Key: aws.String("parts"), UploadId: up.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: done}})
	must(err)
	whole, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: bkt, Key: aws.String("parts")})
	must(err)
	if body, err := io.ReadAll(whole.Body); err != nil || !bytes.Equal(body, slices.Concat(parts...)) {
		t.Errorf("%d bytes, %v", len(body), err)
	}
	signed, err := s3.NewPresignClient(c).PresignGetObject(ctx, &s3.GetObjectInput{Bucket: bkt, Key: key})
	must(err)
	if !strings.Contains(signed.URL, "X-Amz-Signature") {
		t.Error(signed.URL)
	}
	var all []types.ObjectIdentifier
	pages := s3.NewListObjectsV2Paginator(c, &s3.ListObjectsV2Input{Bucket: bkt, MaxKeys: aws.Int32(2)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		must(err)
		for _, o := range page.Contents {
			all = append(all, types.ObjectIdentifier{Key: o.Key})
		}
	}
	if len(all) != 7 {
		t.Errorf("%d objects are listed, want 7", len(all))
	}
	gone, err := c.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: bkt, Delete: &types.Delete{Objects: all}})
	must(err)
	if len(gone.Errors) > 0 {
		t.Errorf("%+v", gone.Errors)
	}
	_, err = c.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: bkt})
	must(err)
}
