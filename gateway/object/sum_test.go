package object

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"testing"
)

// The checksums of nothing and of "hello", as other programs make them: cksum, md5sum, sha*sum, xxhsum and Amazon's
// documentation of CRC-64/NVME.
func TestSums(t *testing.T) {
	for _, c := range []struct{ algorithm, empty string }{
		{"crc32", "AAAAAA=="}, {"crc32c", "AAAAAA=="}, {"crc64nvme", "AAAAAAAAAAA="}, {"md5", "1B2M2Y8AsgTpgAmY7PhCfg=="},
		{"sha1", "2jmj7l5rSw0yVb/vlWAYkK/YBwk="}, {"sha256", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="},
		{"sha512", "z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg=="},
		{"xxhash64", "70bbN1HY6Zk="}, {"xxhash3", "LQaABTjTlMI="}, {"xxhash128", "maoG0wFHmNhgAcMkRo1Jfw=="},
	} {
		h, ok := NewHash(c.algorithm)
		if !ok || SumOf(c.algorithm, h).Text != c.empty {
			t.Errorf("%s of nothing: %v", c.algorithm, SumOf(c.algorithm, h))
		}
	}
	for algorithm, want := range map[string]string{"crc32": "NhCmhg==", "crc64nvme": "M3eFcAZSQlc="} {
		h, _ := NewHash(algorithm)
		h.Write([]byte("hello"))
		if got := SumOf(algorithm, h); got.Text != want || !got.WellFormed() {
			t.Errorf("%s of hello: %v, want %s", algorithm, got, want)
		}
	}
}

// The CRC of a whole follows from those of its parts, whatever their lengths.
func TestCombine(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for algorithm, a := range algorithms {
		for range 50 {
			var parts []storedPart
			whole, composite := a.make(), a.make()
			for range 1 + random.IntN(4) {
				piece := bytes.Repeat([]byte{byte(random.Uint32())}, random.IntN(5000))
				h := a.make()
				h.Write(piece)
				whole.Write(piece)
				composite.Write(h.Sum(nil))
				parts = append(parts, storedPart{Run: run{Bytes: int64(len(piece))}, Sums: []Sum{SumOf(algorithm, h)}})
			}
			got, ok := combine(SumKind{Algorithm: algorithm}, parts)
			if ok != (a.poly != 0) || ok && got != SumOf(algorithm, whole) {
				t.Fatalf("%s of %d parts: %v, want %v", algorithm, len(parts), got, SumOf(algorithm, whole))
			}
			got, ok = combine(SumKind{algorithm, true}, parts)
			want := fmt.Sprintf("%s-%d", base64.StdEncoding.EncodeToString(composite.Sum(nil)), len(parts))
			if ok != (algorithm != DefaultSum) || ok && (got.Text != want || !got.WellFormed()) {
				t.Fatalf("%s of the sums of %d parts: %v, want %s", algorithm, len(parts), got, want)
			}
		}
	}
	if got, ok := combine(SumKind{Algorithm: "crc32"}, []storedPart{{Sums: []Sum{{SumKind{Algorithm: "sha1"}, ""}}}}); ok {
		t.Errorf("the CRC of a part that has another checksum: %v", got)
	}
}

func TestSumForms(t *testing.T) {
	whole, composite := SumKind{Algorithm: "crc32"}, SumKind{"crc32", true}
	for _, c := range []struct {
		s    Sum
		want bool
	}{
		{Sum{whole, "NhCmhg=="}, true}, {Sum{composite, "NhCmhg==-3"}, true}, {Sum{composite, "NhCmhg=="}, true},
		{Sum{whole, "NhCmhg==-3"}, false}, {Sum{composite, "NhCmhg==-"}, false}, {Sum{composite, "NhCmhg==-03"}, false},
		{Sum{composite, "NhCmhg==-3-4"}, false}, {Sum{composite, "NhCmhg==-10001"}, false}, {Sum{composite, "NhCmhg==-0"}, false},
		{Sum{whole, ""}, false}, {Sum{whole, "NhCmhg"}, false}, {Sum{whole, "NhCmhgAA"}, false}, {Sum{whole, "NhCmhg==\n"}, false},
		{Sum{SumKind{Algorithm: "crc"}, "NhCmhg=="}, false}, {Sum{}, false},
	} {
		if got := c.s.WellFormed(); got != c.want {
			t.Errorf("%+v is well formed: %v", c.s, got)
		}
	}
	kept := Sum{composite, "NhCmhg==-3"}
	for said, want := range map[string]bool{"NhCmhg==-3": true, "NhCmhg==": true, "NhCmhg==-4": false, "AAAAAA==-3": false, "": false} {
		if got := kept.Is(Sum{composite, said}); got != want {
			t.Errorf("%q is %q: %v", said, kept.Text, got)
		}
	}
}
