package object

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
)

// Info is what there is to know of an object beside its bytes. It is shared and must not be changed.
type Info struct {
	Generation dramnode.Generation
	Size       int64 // bytes
	Modified   time.Time
	MD5        string            // hexadecimal, of the parts' MD5s where there are parts; "" when it is not known
	Sum        Sum               // without Algorithm when nothing is known
	PartSums   []Sum             // of each part, when the upload was begun with a checksum
	Parts      []int64           // bytes of each part; nil: the object did not come in parts
	Header     map[string]string // content type and user metadata, by canonical header name
}

// A record is what is kept of an object beside its value.
type record struct {
	Generation dramnode.Generation `json:"g,omitempty"` // that it describes
	Millis     int64               `json:"t"`           // Unix time of the write
	Size       int64               `json:"n"`
	MD5        string              `json:"m,omitempty"`
	Sum        *Sum                `json:"k,omitempty"` // of an upload without Text: what it is to be
	Parts      []int64             `json:"p,omitempty"`
	PartSums   []string            `json:"q,omitempty"` // their texts; the algorithm is that of Sum
	Header     map[string]string   `json:"h,omitempty"`
	Chunked    bool                `json:"c,omitempty"` // the value is a manifest
}

// info is what r says of generation g, which has so many bytes. A record of another generation says nothing.
func (r *record) info(g dramnode.Generation, size int64) Info {
	if r == nil || r.Generation != g {
		// The epoch of a partition begins as Unix time, and every face derives the same from it.
		return Info{Generation: g, Size: size, Modified: time.Unix(int64(g>>32), 0)}
	}
	i := Info{Generation: g, Size: r.Size, Modified: time.UnixMilli(r.Millis), MD5: r.MD5, Parts: r.Parts, Header: r.Header}
	if r.Sum != nil && r.Sum.WellFormed() { // anybody may have written it
		i.Sum, i.PartSums = *r.Sum, r.partSums()
	}
	return i
}

// partSums are the checksums of the parts, nil when they are not known of each.
func (r *record) partSums() []Sum {
	sums := make([]Sum, len(r.Parts))
	for i := range sums {
		if len(r.PartSums) == len(r.Parts) {
			sums[i] = Sum{SumKind{Algorithm: r.Sum.Algorithm}, r.PartSums[i]}
		}
		if !sums[i].WellFormed() {
			return nil
		}
	}
	return sums
}

// A stored record with the generation of its key.
type stored struct {
	*record // nil: there is none
	at      dramnode.Generation
	err     error
}

func (s *Service) readRecord(ctx context.Context, n Name) stored {
	v, err := s.store.Get(ctx, n.recordKey())
	return storedRecord(v, err)
}

func storedRecord(v client.Value, err error) stored {
	if errors.Is(err, dramnode.ErrNotFound) {
		return stored{}
	}
	if err != nil {
		return stored{err: err}
	}
	r := new(record)
	if json.Unmarshal(v.Bytes, r) != nil {
		r = nil // somebody else wrote there: as good as none
	}
	return stored{record: r, at: v.Generation}
}

// recordOf reads a record meanwhile. Whoever calls it calls the result, once or more often, before it returns.
func (s *Service) recordOf(ctx context.Context, n Name) func() stored {
	answer := make(chan stored, 1)
	go func() { answer <- s.readRecord(ctx, n) }()
	return sync.OnceValue(func() stored { return <-answer })
}

const recordTries = 64 // more writers of one object than this at once are refused

// keep makes r the record of n, unless that of a newer generation is there.
func (s *Service) keep(ctx context.Context, n Name, r record, old stored) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("object: %w", err)
	}
	for range recordTries {
		if old.err != nil {
			return old.err
		}
		if old.record != nil && old.Generation > r.Generation {
			return nil
		}
		_, err := s.store.Put(ctx, n.recordKey(), text, client.IfGeneration(old.at))
		if !errors.Is(err, dramnode.ErrGenerationMismatch) {
			return err
		}
		old = s.readRecord(ctx, n)
	}
	return fmt.Errorf("object: %w: too many writers of %q", dramnode.ErrBusy, n.path())
}

// A manifest is the value of an object that lies in chunks.
type manifest struct {
	record
	Upload id    `json:"u,omitempty"` // that it completed
	Runs   []run `json:"r"`
}

// A run is bytes in chunks of equal length, of which the last may be shorter.
type run struct {
	ID         id    `json:"i"`
	Bytes      int64 `json:"n"`
	ChunkBytes int64 `json:"c"`
}

// magic begins a manifest. Its length is rest modulo step, so that a read of a part of a value, which does
// not show the beginning, needs a second look only when the length may be a manifest's.
const (
	magic            = "\x00dramnode manifest 1\n"
	manifestStep     = 4096
	manifestRest     = 1021
	maxManifestBytes = 4 << 20
)

// MayBeManifest tells whether a value of so many bytes can be a manifest; its beginning decides.
func MayBeManifest(bytes int64) bool { return bytes%manifestStep == manifestRest }

// IsManifest tells whether a value that begins so, and may be a manifest by its length, is one.
func IsManifest(head []byte) bool { return bytes.HasPrefix(head, []byte(magic)) }

func (m *manifest) encode() ([]byte, error) {
	text, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("object: %w", err)
	}
	value := append([]byte(magic), text...)
	pad := (manifestRest - len(value)%manifestStep + manifestStep) % manifestStep
	if len(value)+pad > maxManifestBytes {
		return nil, fmt.Errorf("object: %w: a manifest of %d bytes", dramnode.ErrTooLarge, len(value))
	}
	return append(value, bytes.Repeat([]byte{' '}, pad)...), nil
}

// parseManifest checks everything that reading by it relies on. Anybody may have written it: it names
// chunks of its own object only, and adds up.
func parseManifest(value []byte) (*manifest, error) {
	m := new(manifest)
	if !IsManifest(value) || len(value) > maxManifestBytes {
		return nil, fmt.Errorf("object: %w: no manifest", dramnode.ErrCorrupt)
	}
	if err := json.Unmarshal(value[len(magic):], m); err != nil {
		return nil, fmt.Errorf("object: %w: manifest: %w", dramnode.ErrCorrupt, err)
	}
	left, parts := m.Size, m.Size
	for _, r := range m.Runs {
		if !r.ID.valid() || r.Bytes < 0 || r.Bytes > left || r.ChunkBytes < 1 {
			return nil, fmt.Errorf("object: %w: manifest: run %+v of %d bytes", dramnode.ErrCorrupt, r, m.Size)
		}
		left -= r.Bytes
	}
	for _, p := range m.Parts {
		if p < 0 || p > parts {
			return nil, fmt.Errorf("object: %w: manifest: a part of %d bytes", dramnode.ErrCorrupt, p)
		}
		parts -= p
	}
	if left != 0 || len(m.Parts) > 0 && parts != 0 {
		return nil, fmt.Errorf("object: %w: manifest: %d bytes are nowhere", dramnode.ErrCorrupt, left)
	}
	return m, nil
}
