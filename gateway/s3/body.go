package s3

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"

	"github.com/dramnode/dramnode/gateway/object"
)

// Values of x-amz-content-sha256 that say how the body comes.
const (
	streamSigned          = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	streamSignedTrailer   = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
	streamUnsignedTrailer = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
)

// body is the content of r, which fails at its end unless it is what the headers promise.
func (r *request) body() (*checkedReader, error) {
	how := r.header("X-Amz-Content-Sha256")
	b := &checkedReader{r: r.Request.Body, size: r.ContentLength}
	switch how {
	case streamSigned, streamSignedTrailer, streamUnsignedTrailer:
		size, err := strconv.ParseInt(r.header("X-Amz-Decoded-Content-Length"), 10, 64)
		if err != nil || size < 0 {
			return nil, errCode(missingLength, "You must provide the X-Amz-Decoded-Content-Length header.")
		}
		c := newChunks(b.r, size)
		c.trailers, c.signedTrailers = how != streamSigned, how == streamSignedTrailer
		if how != streamUnsignedTrailer {
			c.who = r.who
		}
		b.trailer, b.r, b.size = c.trailer, c, size
	case "", unsignedPayload:
	default:
		if err := checkContentHash(how); err != nil {
			return nil, err
		}
		want, err := hex.DecodeString(how)
		if err != nil {
			return nil, err // never
		}
		if r.who != nil || len(r.cfg.Keys) == 0 {
			b.add("", sha256.New(), func() ([]byte, error) { return want, nil }, errCode(contentHash, "The provided 'x-amz-content-sha256' header does not match what was computed."))
		}
	}
	if b.size < 0 {
		return nil, errCode(missingLength, "You must provide the Content-Length HTTP header.")
	}
	return b, r.promised(b)
}

// promised adds the checks that headers ask for.
func (r *request) promised(c *checkedReader) error {
	if values, ok := r.Request.Header["Content-Md5"]; ok {
		want, err := base64.StdEncoding.DecodeString(first(values))
		if err != nil || len(want) != md5.Size {
			return errCode(invalidDigest, "The Content-Md5 you specified is not valid.")
		}
		c.add("", md5.New(), func() ([]byte, error) { return want, nil }, errCode(badDigest, "The Content-MD5 you specified did not match what we received."))
	}
	return r.promisedChecksum(c)
}

// A checkedReader is a body. It hashes what it reads and fails at the end when a hash is not as promised.
type checkedReader struct {
	r       io.Reader
	size    int64
	checks  []check
	trailer func(name string) string // valid at the end
}

type check struct {
	algorithm string // of a checksum that may be kept; "" for other hashes
	hash.Hash
	want func() ([]byte, error) // nil: nobody promised anything
	err  error
}

func (c *checkedReader) add(algorithm string, h hash.Hash, want func() ([]byte, error), err error) {
	c.checks = append(c.checks, check{algorithm, h, want, err})
}

// body is c for package object, with the checksums that it has.
func (c *checkedReader) body() object.Body { return object.Body{Reader: c, Size: c.size, Sums: c.sums} }

// Read implements io.Reader.
func (c *checkedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	for _, k := range c.checks {
		k.Write(p[:n])
	}
	if err != io.EOF {
		return n, err
	}
	for _, k := range c.checks {
		if k.want == nil {
			continue
		}
		want, err := k.want()
		if err != nil {
			return n, err
		}
		if !bytes.Equal(k.Sum(nil), want) {
			return n, k.err
		}
	}
	return n, io.EOF
}

// Limits of what stands around the bytes of a chunk.
const (
	maxChunkLine = 4 << 10
	maxTrailers  = 16
)

// chunks decodes a body of the content encoding aws-chunked:
//
//	HEX;chunk-signature=SIGNATURE CRLF  HEX bytes  CRLF      as often as needed
//	0;chunk-signature=SIGNATURE CRLF  (NAME:VALUE CRLF)*  CRLF
//
// Without signer, signatures are skipped.
type chunks struct {
	r              *bufio.Reader
	who            *signer
	trailers       bool
	signedTrailers bool
	left           int64 // bytes that the client still has to send of those that it announced

	inChunk   int64 // bytes of this chunk that are left
	sum       hash.Hash
	signature string // of this chunk
	open      bool   // a chunk is being read
	values    map[string]string
	end       error // once it is over
}

func newChunks(r io.Reader, size int64) *chunks {
	return &chunks{r: bufio.NewReaderSize(r, 64<<10), left: size, sum: sha256.New(), values: map[string]string{}}
}

// trailer returns what came under this name behind the last chunk.
func (c *chunks) trailer(name string) string { return c.values[strings.ToLower(name)] }

var errChunk = errCode(incompleteBody, "The aws-chunked body is malformed, or of another length than x-amz-decoded-content-length.")

// Read implements io.Reader.
func (c *chunks) Read(p []byte) (int, error) {
	if c.end == nil && c.inChunk == 0 {
		c.end = c.next()
	}
	if c.end != nil || len(p) == 0 {
		return 0, c.end
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.inChunk)])
	if c.who != nil {
		c.sum.Write(p[:n])
	}
	c.inChunk -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	c.end = err
	return n, err
}

// next goes on to the next chunk; io.EOF after the last.
func (c *chunks) next() error {
	if c.open {
		if line, err := c.line(); err != nil || line != "" {
			return notEOF(err, errChunk)
		}
		if err := c.verify(); err != nil {
			return err
		}
	}
	line, err := c.line()
	if err != nil {
		return err
	}
	size, extension, _ := strings.Cut(line, ";")
	n, err := strconv.ParseUint(strings.TrimSpace(size), 16, 48)
	if err != nil || int64(n) > c.left {
		return errChunk
	}
	c.signature = strings.TrimPrefix(strings.TrimSpace(extension), "chunk-signature=")
	c.inChunk, c.open = int64(n), true
	c.left -= int64(n)
	if n > 0 {
		return nil
	}
	if c.left > 0 {
		return errChunk
	}
	if err := c.verify(); err != nil {
		return err
	}
	return c.last()
}

// last reads the trailers. Where they are signed, the signature ends them: some clients put an empty line before it.
func (c *chunks) last() error {
	var signed strings.Builder
	done := !c.signedTrailers
	for range maxTrailers {
		line, err := c.line()
		if err != nil {
			return err
		}
		if line == "" && done {
			return io.EOF
		}
		if line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
		if !ok || !c.trailers {
			return errChunk
		}
		if name != "x-amz-trailer-signature" {
			c.values[name] = value
			fmt.Fprintf(&signed, "%s:%s\n", name, value)
			done = !c.signedTrailers
			continue
		}
		if c.who != nil && value != c.who.sign(algorithm+"-TRAILER", c.who.seed, digest(signed.String())) {
			return errCode(signatureMismatch, "The signature of the trailers does not match.")
		}
		done = true
	}
	return errChunk
}

// verify checks the signature of a chunk that has been read.
func (c *chunks) verify() error {
	if c.who == nil {
		return nil
	}
	want := c.who.sign(algorithm+"-PAYLOAD", c.who.seed, emptyHash, hex.EncodeToString(c.sum.Sum(nil)))
	c.sum.Reset()
	if c.signature != want {
		return errCode(signatureMismatch, "The signature of a chunk does not match.")
	}
	c.who.seed = want
	return nil
}

// line reads a line without its end.
func (c *chunks) line() (string, error) {
	line, err := c.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) || len(line) > maxChunkLine {
		return "", errChunk
	}
	if err != nil {
		return "", notEOF(err, nil)
	}
	return strings.TrimRight(string(line), "\r\n"), nil
}

// notEOF is err, or otherwise when there is none; an end is one too early.
func notEOF(err, otherwise error) error {
	if err == nil {
		return otherwise
	}
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
