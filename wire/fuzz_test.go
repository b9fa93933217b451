package wire

import (
	"bytes"
	"strings"
	"testing"
)

// fuzzAgain feeds arbitrary bytes to the parser of one group of samples. What parses must be canonical:
// encoded again it is the same bytes. Slices must not reach past the input.
func fuzzAgain(f *testing.F, kind string) {
	for name, b := range golden() {
		if strings.HasPrefix(name, kind) {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:len(b):len(b)]
		got, err := again(kind, b)
		if err == nil && len(b) > 0 && !bytes.Equal(got, b) {
			t.Errorf("%x parses, and encoded again it is %x", b, got)
		}
	})
}

func FuzzParseHeader(f *testing.F)      { fuzzAgain(f, "op") }
func FuzzParseReadExt(f *testing.F)     { fuzzAgain(f, "ext_read") }
func FuzzParseWriteExt(f *testing.F)    { fuzzAgain(f, "ext_write") }
func FuzzParseReplyExt(f *testing.F)    { fuzzAgain(f, "ext_reply") }
func FuzzParseListRequest(f *testing.F) { fuzzAgain(f, "list_request") }
func FuzzParseListReply(f *testing.F)   { fuzzAgain(f, "list_page") }

// FuzzReadMessage also seals the bytes, so that what lies behind the checksum is reached.
func FuzzReadMessage(f *testing.F) {
	for name, b := range golden() {
		if strings.HasPrefix(name, "message") {
			f.Add(b, uint16(1), separateOf(b))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, frames uint16, separateBytes int) {
		b = bytes.Clone(b)
		for _, seal := range []bool{false, true} {
			if seal && len(b) >= MessageHeaderBytes {
				copy(b, AppendMessage(nil, testCluster))
				SealMessage(b, int(frames))
			}
			got, err := readAll(b, separateBytes)
			if err == nil && !bytes.Equal(message(got...), b) {
				t.Errorf("%x parses, and encoded again it is %x", b, message(got...))
			}
		}
	})
}
