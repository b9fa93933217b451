package wire

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/dramnode/dramnode"
)

// Limits of a page of a list. At least one entry fits, whatever its key.
const (
	ListPageKeys  = 1000
	ListPageBytes = 256 << 10 // of the encoded ListReply
)

// MaxPartitionWords limits the bitmap of a list request to 65,536 partitions.
const MaxPartitionWords = 1024

const (
	ListRequestBytes = 16 // without keys and bitmap
	ListReplyBytes   = 8  // without entries
	ListEntryBytes   = 18 // without the key
)

// A ListRequest asks a node for the keys in [Start,End) that come after After, in order.
//
//	 0 start bytes u16 | 2 end bytes u16 | 4 after bytes u16 | 6 reserved u16 | 8 limit u32 | 12 words u32
//	16 start, end, after, zeros up to a multiple of 8, words u64 each
type ListRequest struct {
	Start, End []byte   // an empty Start is before every key, an empty End after every key
	After      []byte   // the last key of the page before; empty for the first page
	Limit      uint32   // 1 to ListPageKeys
	Partitions []uint64 // bit p%64 of word p/64 selects partition p; empty: all that the node owns
}

// AppendListRequest appends r.
func AppendListRequest(dst []byte, r *ListRequest) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(r.Start)))
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(r.End)))
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(r.After)))
	dst = append(dst, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, r.Limit)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(r.Partitions)))
	dst = append(dst, r.Start...)
	dst = append(dst, r.End...)
	dst = append(dst, r.After...)
	var zeros [8]byte
	dst = append(dst, zeros[:-(len(r.Start)+len(r.End)+len(r.After))&7]...)
	for _, w := range r.Partitions {
		dst = binary.LittleEndian.AppendUint64(dst, w)
	}
	return dst
}

// ParseListRequest parses what AppendListRequest wrote. The keys point into b; the bitmap uses the
// memory of words when that is large enough.
func ParseListRequest(b []byte, words []uint64) (ListRequest, error) {
	if len(b) < ListRequestBytes {
		return ListRequest{}, malformed("list request of %d bytes, want at least %d", len(b), ListRequestBytes)
	}
	startBytes := int(binary.LittleEndian.Uint16(b))
	endBytes := int(binary.LittleEndian.Uint16(b[2:]))
	afterBytes := int(binary.LittleEndian.Uint16(b[4:]))
	limit, count := binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
	switch {
	case max(startBytes, endBytes, afterBytes) > dramnode.MaxKeyBytes:
		return ListRequest{}, malformed("list request with keys of %d, %d and %d bytes", startBytes, endBytes, afterBytes)
	case b[6] != 0 || b[7] != 0:
		return ListRequest{}, malformed("reserved bytes of a list request are not zero")
	case limit < 1 || limit > ListPageKeys:
		return ListRequest{}, malformed("list limit %d, want 1 to %d", limit, ListPageKeys)
	case count > MaxPartitionWords:
		return ListRequest{}, malformed("list request with %d words of partitions, want at most %d", count, MaxPartitionWords)
	}
	keys := ListRequestBytes + startBytes + endBytes + afterBytes
	bitmap := (keys + 7) &^ 7
	if len(b) != bitmap+8*int(count) {
		return ListRequest{}, malformed("list request of %d bytes, want %d", len(b), bitmap+8*int(count))
	}
	if !allZero(b[keys:bitmap]) {
		return ListRequest{}, malformed("padding is not zero")
	}
	r := ListRequest{Limit: limit, Partitions: words[:0]}
	rest := b[ListRequestBytes:keys:keys]
	r.Start, rest = rest[:startBytes:startBytes], rest[startBytes:]
	r.End, rest = rest[:endBytes:endBytes], rest[endBytes:]
	r.After = rest
	for at := bitmap; at < len(b); at += 8 {
		r.Partitions = append(r.Partitions, binary.LittleEndian.Uint64(b[at:]))
	}
	return r, nil
}

// A ListEntry is one key of a page.
type ListEntry struct {
	Key        []byte
	Generation dramnode.Generation
	Size       uint64 // of the value, in bytes
}

// A ListReply is one page, in strictly ascending order of keys.
//
//	0 entries u32 | 4 more u8 | 5 reserved 3
//	then per entry: 0 generation u64 | 8 size u64 | 16 key bytes u16 | 18 key
type ListReply struct {
	Entries []ListEntry
	More    bool // there may be more keys after the last of Entries
}

// AppendListReply appends r.
func AppendListReply(dst []byte, r *ListReply) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(r.Entries)))
	more := byte(0)
	if r.More {
		more = 1
	}
	dst = append(dst, more, 0, 0, 0)
	for i := range r.Entries {
		e := &r.Entries[i]
		dst = binary.LittleEndian.AppendUint64(dst, uint64(e.Generation))
		dst = binary.LittleEndian.AppendUint64(dst, e.Size)
		dst = binary.LittleEndian.AppendUint16(dst, uint16(len(e.Key)))
		dst = append(dst, e.Key...)
	}
	return dst
}

// ParseListReply parses what AppendListReply wrote. The keys point into b; the entries use the memory of
// entries when that is large enough.
func ParseListReply(b []byte, entries []ListEntry) (ListReply, error) {
	if len(b) < ListReplyBytes || len(b) > ListPageBytes {
		return ListReply{}, malformed("list reply of %d bytes, want %d to %d", len(b), ListReplyBytes, ListPageBytes)
	}
	count := binary.LittleEndian.Uint32(b)
	switch {
	case count > ListPageKeys:
		return ListReply{}, malformed("list reply with %d entries, want at most %d", count, ListPageKeys)
	case b[4] > 1 || !allZero(b[5:8]):
		return ListReply{}, malformed("flags or reserved bytes of a list reply: % x", b[4:8])
	case b[4] == 1 && count == 0:
		return ListReply{}, malformed("an empty page announces more")
	}
	r := ListReply{Entries: entries[:0], More: b[4] == 1}
	rest := b[ListReplyBytes:]
	var before []byte
	for i := range count {
		e, size, err := parseListEntry(rest)
		if err != nil {
			return ListReply{}, err
		}
		if bytes.Compare(before, e.Key) >= 0 {
			return ListReply{}, malformed("entry %d of a list reply is out of order", i)
		}
		r.Entries = append(r.Entries, e)
		rest, before = rest[size:], e.Key
	}
	if len(rest) != 0 {
		return ListReply{}, malformed("%d bytes after the last entry", len(rest))
	}
	return r, nil
}

func parseListEntry(b []byte) (e ListEntry, size int, err error) {
	if len(b) < ListEntryBytes {
		return e, 0, malformed("list entry of %d bytes, want at least %d", len(b), ListEntryBytes)
	}
	keyBytes := int(binary.LittleEndian.Uint16(b[16:]))
	e.Generation = dramnode.Generation(binary.LittleEndian.Uint64(b))
	e.Size = binary.LittleEndian.Uint64(b[8:])
	size = ListEntryBytes + keyBytes
	switch {
	case keyBytes == 0 || keyBytes > dramnode.MaxKeyBytes:
		return e, 0, malformed("list entry with a key of %d bytes", keyBytes)
	case e.Generation == dramnode.Absent:
		return e, 0, malformed("list entry without a generation")
	case size > len(b):
		return e, 0, malformed("list entry of %d bytes in %d", size, len(b))
	}
	e.Key = b[ListEntryBytes:size:size]
	return e, size, nil
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// PrefixEnd returns the end of the range [prefix, end) of all keys with this prefix; nil, which is no
// end, when no key is greater than all of them.
func PrefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xFF {
			end := slices.Clone(prefix[:i+1])
			end[i]++
			return end
		}
	}
	return nil
}
