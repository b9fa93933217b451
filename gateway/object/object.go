// Package object keeps the objects of buckets in a store, for the faces that speak of objects (S3, GCS).
//
// The object KEY of the bucket BUCKET is the value of the key "BUCKET/KEY", byte for byte, so the other
// faces and the native client see the same bytes under the same name, and its generation is the value's.
// Three things are kept beside it, under keys that begin with Hidden and belong to this package:
//
//   - a record of what the value cannot say: the time of the write, content type and user metadata, MD5. It
//     names the generation that it describes and is written right after the value; a value without its record
//     (written by another face, or by a node that died between the two) has default metadata.
//   - the chunks of an object that is longer than a value may be, or that came in parts. The value is then a
//     manifest, which names them. Chunks are never written twice, so whoever holds a manifest reads the bytes
//     of that generation or fails.
//   - uploads in parts that are not complete yet. They are in the store, so any node goes on with them.
//
// An object appears, changes and goes by one conditional write of its value, decided by the owner of the key.
// Chunks that no manifest names are removed soon after they were replaced, and at the latest by a sweep.
package object

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/gateway"
)

// Errors beside those of package dramnode. After each of them nothing has changed.
var (
	// ErrNoBucket is returned when a bucket does not exist.
	ErrNoBucket = errors.New("object: no such bucket")
	// ErrBucketExists is returned when a bucket to be made is there.
	ErrBucketExists = errors.New("object: the bucket exists")
	// ErrBucketNotEmpty is returned when a bucket to be removed holds objects.
	ErrBucketNotEmpty = errors.New("object: the bucket is not empty")
	// ErrNoUpload is returned when an upload was completed or aborted, has expired or never was.
	ErrNoUpload = errors.New("object: no such upload")
	// ErrPart is returned when a part of a Complete is not there, or is another than the caller means.
	ErrPart = errors.New("object: invalid part")
	// ErrPartOrder is returned when the parts of a Complete do not ascend.
	ErrPartOrder = errors.New("object: parts out of order")
	// ErrPartTooSmall is returned when a part other than the last is too small to be one.
	ErrPartTooSmall = errors.New("object: part too small")
	// ErrIncomplete is returned when a body is shorter or longer than announced.
	ErrIncomplete = errors.New("object: body of another length than announced")
	// ErrReserved is returned for a body that looks like a manifest of this package.
	ErrReserved = errors.New("object: the content begins like a manifest")
	// ErrReplaced is returned when an object was overwritten while it was read.
	ErrReplaced = errors.New("object: overwritten while it was read")
)

// MaxBytes is the longest object, and the longest part.
const MaxBytes = 5 << 30

// MaxParts is how many parts an upload may have; they are counted from 1.
const MaxParts = 10000

// Config describes a Service. Store is required; zero fields have defaults.
type Config struct {
	Store         gateway.Store
	MD5           bool          // keep the MD5 of every object and part
	MaxValueBytes int64         // longest value of the store; default 64 MiB
	ChunkBytes    int64         // of objects that are longer; default 8 MiB, at most MaxValueBytes
	MinPartBytes  int64         // of a part that is not the last; default 5 MiB
	StagingBytes  int64         // of parts that are not complete, in the whole cluster; default 1 GiB
	BodyBytes     int64         // of bodies being received by this Service; default 128 MiB
	UploadTimeout time.Duration // from the start of an upload to its completion; default 24 h
	Grace         time.Duration // how long chunks stay readable after their object was replaced; default 30 s
	SweepInterval time.Duration // default 1 h
	Stall         time.Duration // how long a client of Serve may send nothing, or half as long as it may take nothing; default 30 s
	Log           zerolog.Logger
}

func (c Config) withDefaults() Config {
	number := func(n *int64, fallback int64) {
		if *n == 0 {
			*n = fallback
		}
	}
	number(&c.MaxValueBytes, dramnode.DefaultMaxValueBytes)
	number(&c.ChunkBytes, min(8<<20, c.MaxValueBytes))
	number(&c.MinPartBytes, 5<<20)
	number(&c.StagingBytes, 1<<30)
	number(&c.BodyBytes, max(128<<20, c.MaxValueBytes))
	number((*int64)(&c.UploadTimeout), int64(24*time.Hour))
	number((*int64)(&c.Grace), int64(30*time.Second))
	number((*int64)(&c.SweepInterval), int64(time.Hour))
	number((*int64)(&c.Stall), int64(30*time.Second))
	return c
}

// A Service reads and writes objects. Any goroutine may use it.
type Service struct {
	cfg     Config
	store   gateway.Store
	bodies  *budget
	staged  staged
	retired chan retired
	buckets cache
}

// New returns a Service. Its Run removes what is not needed any more.
func New(cfg Config) *Service {
	cfg = cfg.withDefaults()
	return &Service{
		cfg: cfg, store: cfg.Store, bodies: newBudget(cfg.BodyBytes), retired: make(chan retired, maxRetired),
	}
}

// A Name is the name of an object.
type Name struct{ Bucket, Key string }

// Limits of names.
const (
	MaxBucketBytes = 255
	MaxKeyBytes    = 1024
)

// Check reports an ErrInvalid that names the fault.
func (n Name) Check() error {
	if err := CheckBucket(n.Bucket); err != nil {
		return err
	}
	switch {
	case n.Key == "" || len(n.Key) > MaxKeyBytes:
		return fmt.Errorf("%w: an object's key of %d bytes, want 1 to %d", dramnode.ErrInvalid, len(n.Key), MaxKeyBytes)
	case !expressible(n.Key):
		return fmt.Errorf("%w: the object's key %q is not UTF-8 without zero bytes", dramnode.ErrInvalid, n.Key)
	}
	return nil
}

// expressible tells whether an object can have this key: zero bytes end keys in ours.
func expressible(key string) bool { return utf8.ValidString(key) && strings.IndexByte(key, 0) < 0 }

// CheckBucket reports an ErrInvalid when no bucket can have this name. It allows more than S3 does for new
// buckets, since the first component of any key is a bucket.
func CheckBucket(bucket string) error {
	if bucket == "" || len(bucket) > MaxBucketBytes {
		return fmt.Errorf("%w: a bucket's name of %d bytes, want 1 to %d", dramnode.ErrInvalid, len(bucket), MaxBucketBytes)
	}
	for i := range len(bucket) {
		c := bucket[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return fmt.Errorf("%w: the bucket's name %q holds %q", dramnode.ErrInvalid, bucket, c)
		}
	}
	return nil
}

// Hidden begins the keys that this package keeps beside the objects. Other faces neither show nor touch them.
const Hidden = "\x00object/"

const (
	bucketKeys = Hidden + "b/" // BUCKET -> time of its creation
	recordKeys = Hidden + "r/" // BUCKET/KEY -> record
	chunkKeys  = Hidden + "c/" // BUCKET/KEY 0 ID NUMBER -> bytes
	uploadKeys = Hidden + "u/" // BUCKET/KEY 0 ID -> record
	partKeys   = Hidden + "p/" // ID/NUMBER -> part
	sweepKey   = Hidden + "sweep"
)

func (n Name) path() string           { return n.Bucket + "/" + n.Key }
func (n Name) valueKey() []byte       { return []byte(n.path()) }
func (n Name) recordKey() []byte      { return []byte(recordKeys + n.path()) }
func (n Name) chunks(id id) string    { return chunkKeys + n.path() + "\x00" + string(id) }
func (n Name) uploadKey(id id) []byte { return []byte(uploadKeys + n.path() + "\x00" + string(id)) }

func (n Name) chunkKey(id id, number int64) []byte {
	return fmt.Appendf(nil, "%s%08x", n.chunks(id), number)
}

func partKey(upload id, number int) []byte {
	return fmt.Appendf(nil, "%s%s/%05d", partKeys, upload, number)
}

// An id names an upload, or a run of chunks, for ever: 8 hexadecimal digits of the Unix time of its making,
// by which the sweep judges its age, and 16 of chance.
type id string

const idBytes = 24

func newID(now time.Time) id { return id(fmt.Sprintf("%08x%016x", uint32(now.Unix()), rand.Uint64())) }

func (i id) valid() bool {
	return len(i) == idBytes && strings.IndexFunc(string(i), func(r rune) bool { return !strings.ContainsRune("0123456789abcdef", r) }) < 0
}

// made is when a valid id was made.
func (i id) made() time.Time {
	var seconds int64
	if _, err := fmt.Sscanf(string(i[:8]), "%x", &seconds); err != nil {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

// cut splits a key of chunks or uploads into name, id and what follows it.
func cut(key, prefix string) (n Name, i id, rest string, ok bool) {
	path, tail, ok := strings.Cut(strings.TrimPrefix(key, prefix), "\x00")
	if !ok || len(tail) < idBytes || !id(tail[:idBytes]).valid() {
		return n, "", "", false
	}
	n.Bucket, n.Key, ok = strings.Cut(path, "/")
	return n, id(tail[:idBytes]), tail[idBytes:], ok
}
