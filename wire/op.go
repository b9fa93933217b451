package wire

import (
	"encoding/binary"
	"errors"

	"github.com/dramnode/dramnode"
)

// A Kind is what a request asks for. Replies carry the kind of their request.
type Kind uint8

const (
	KindGet         Kind = 1 // ext: empty or ReadExt; [0,0) is a stat
	KindPut         Kind = 2 // ext: WriteExt; body: the value
	KindDelete      Kind = 3 // ext: WriteExt
	KindTouch       Kind = 4 // ext: WriteExt
	KindList        Kind = 5 // body: ListRequest; reply body: ListReply
	KindDeleteRange Kind = 6 // ext: WriteExt; body: ListRequest, with FlagFence all its partitions have that epoch; reply ext: Size is the count

	// Beside the data: 33 to 36 were used by earlier versions.
	KindTable   Kind = 32 // reply body: the table, which package control defines
	KindInfo    Kind = 37 // reply body: JSON about one node, for people
	KindShare   Kind = 38 // reply body: what a process of the node's host maps its memory with
	KindAccept  Kind = 39 // an operator accepts what was lost; reply body: of how many partitions, as JSON
	KindReplica Kind = 40 // ext: a message between replicas, which package replica defines; body: a value, or a list
	KindMember  Kind = 41 // body: a message of the replicated control plane, which control/group defines; reply: empty
	KindRecover Kind = 42 // body: names of nodes that an operator asserts to be dead, as JSON; reply body: control.Recovery, as JSON
)

// A Status is the outcome of a request. All but StatusOK and StatusNotOwner stand for an error of the root package.
type Status uint8

const (
	StatusOK Status = iota
	StatusNotOwner
	StatusInvalid
	StatusNotFound
	StatusGenerationMismatch
	StatusOutOfRange
	StatusTooLarge
	StatusNoMemory
	StatusBusy
	StatusUnavailable
	StatusUnknownOutcome
	StatusNoQuorum
	StatusDegraded
	StatusPartitionLost
	StatusClusterConflict
	StatusNotAuthorised
	StatusCorrupt
	StatusClosed
	statusEnd
)

var statusErrors = [statusEnd]error{
	StatusInvalid:            dramnode.ErrInvalid,
	StatusNotFound:           dramnode.ErrNotFound,
	StatusGenerationMismatch: dramnode.ErrGenerationMismatch,
	StatusOutOfRange:         dramnode.ErrOutOfRange,
	StatusTooLarge:           dramnode.ErrTooLarge,
	StatusNoMemory:           dramnode.ErrNoMemory,
	StatusBusy:               dramnode.ErrBusy,
	StatusUnavailable:        dramnode.ErrUnavailable,
	StatusUnknownOutcome:     dramnode.ErrUnknownOutcome,
	StatusNoQuorum:           dramnode.ErrNoQuorum,
	StatusDegraded:           dramnode.ErrDegraded,
	StatusPartitionLost:      dramnode.ErrPartitionLost,
	StatusClusterConflict:    dramnode.ErrClusterConflict,
	StatusNotAuthorised:      dramnode.ErrNotAuthorised,
	StatusCorrupt:            dramnode.ErrCorrupt,
	StatusClosed:             dramnode.ErrClosed,
}

// Err returns the error of the root package that s stands for, nil for StatusOK and StatusNotOwner.
func (s Status) Err() error {
	if s < statusEnd {
		return statusErrors[s]
	}
	return dramnode.ErrUnknownOutcome
}

// StatusOf returns the status that carries err; what has no status of its own is StatusUnknownOutcome.
// An error that wraps several keeps the doubt: nobody may read "nothing changed" into an unknown outcome.
func StatusOf(err error) Status {
	switch {
	case err == nil:
		return StatusOK
	case errors.Is(err, dramnode.ErrUnknownOutcome):
		return StatusUnknownOutcome
	}
	for s, e := range statusErrors {
		if e != nil && errors.Is(err, e) {
			return Status(s)
		}
	}
	return StatusUnknownOutcome
}

// Header flags.
const (
	FlagHop        uint16 = 1 << iota // forwarded once already: serve or refuse, never forward
	FlagIfMatch                       // the condition IfGeneration holds (0: the key must be absent)
	FlagIfNotMatch                    // reads: fail when the generation is IfNotGeneration
	FlagRange                         // reads: only [Start,End)
	FlagSuffix                        // with FlagRange: the last Start bytes
	FlagClip                          // with FlagRange: clip to the value rather than fail
	FlagFence                         // Epoch must be the row's epoch at the owner
	FlagReply                         // this is a reply
	FlagPlace                         // the sender has mapped our memory: tell it where the record is
	FlagRelay                         // with FlagFence: another node than the owner forwards, if it knows the row of that Epoch
	FlagStale                         // reads: any replica answers from its committed version, without a lease
	flagsEnd
)

const (
	HeaderBytes   = 32
	ReadExtBytes  = 32
	WriteExtBytes = 40
	ReplyExtBytes = 32 // at most
	replyExtBytes = 24 // without a place
)

// A Header is the fixed part of every operation, with its extension and key.
//
//	 0 kind u8 | 1 status u8 | 2 flags u16 | 4 space u16 | 6 key bytes u16
//	 8 epoch u32 | 12 budget u32 µs | 16 table version u64 | 24 ext bytes u16 | 26 reserved u16 | 28 value CRC32C u32
//	32 ext, key
type Header struct {
	Kind         Kind
	Status       Status
	Flags        uint16
	Space        uint16 // 0 for now: a later set of partitions with its own mode
	Epoch        uint32 // of the partition's row: the fence, with FlagFence; in replies the server's
	BudgetMicros uint32 // time left for the request when it was sent; 0: no limit
	TableVersion uint64 // of the sender: a hint
	CRC          uint32 // of the whole value, computed once when it was put
	Ext          []byte
	Key          []byte
}

// AppendHeader appends h.
func AppendHeader(dst []byte, h *Header) []byte {
	dst = append(dst, byte(h.Kind), byte(h.Status))
	dst = binary.LittleEndian.AppendUint16(dst, h.Flags)
	dst = binary.LittleEndian.AppendUint16(dst, h.Space)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(h.Key)))
	dst = binary.LittleEndian.AppendUint32(dst, h.Epoch)
	dst = binary.LittleEndian.AppendUint32(dst, h.BudgetMicros)
	dst = binary.LittleEndian.AppendUint64(dst, h.TableVersion)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(h.Ext)))
	dst = append(dst, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, h.CRC)
	dst = append(dst, h.Ext...)
	return append(dst, h.Key...)
}

// MarkReply makes the header that AppendHeader wrote in b that of a reply.
func MarkReply(b []byte) {
	binary.LittleEndian.PutUint16(b[2:], binary.LittleEndian.Uint16(b[2:])|FlagReply)
}

// ParseHeader parses what AppendHeader wrote. Ext and Key point into b.
func ParseHeader(b []byte) (h Header, err error) {
	err = h.Parse(b)
	return h, err
}

// Parse is ParseHeader in place: to copy a header takes longer than to parse it. After an error h is anything.
func (h *Header) Parse(b []byte) error {
	if len(b) < HeaderBytes {
		return malformed("header of %d bytes, want at least %d", len(b), HeaderBytes)
	}
	h.Kind, h.Status = Kind(b[0]), Status(b[1])
	h.Flags = binary.LittleEndian.Uint16(b[2:])
	h.Space = binary.LittleEndian.Uint16(b[4:])
	h.Epoch = binary.LittleEndian.Uint32(b[8:])
	h.BudgetMicros = binary.LittleEndian.Uint32(b[12:])
	h.TableVersion = binary.LittleEndian.Uint64(b[16:])
	h.CRC = binary.LittleEndian.Uint32(b[28:])
	keyBytes, extBytes := int(binary.LittleEndian.Uint16(b[6:])), int(binary.LittleEndian.Uint16(b[24:]))
	switch {
	case !h.Kind.valid():
		return malformed("operation kind %d", b[0])
	case h.Status >= statusEnd:
		return malformed("status %d", b[1])
	case h.Flags >= flagsEnd:
		return malformed("flags %#x", h.Flags)
	case h.Flags&FlagReply == 0 && h.Status != StatusOK:
		return malformed("a request with status %d", h.Status)
	case h.Space != 0:
		return malformed("space %d, only 0 exists", h.Space)
	case b[26] != 0 || b[27] != 0:
		return malformed("reserved bytes of the header are not zero")
	case len(b) != HeaderBytes+extBytes+keyBytes:
		return malformed("header of %d bytes with %d of extension and %d of key", len(b), extBytes, keyBytes)
	}
	split := HeaderBytes + extBytes
	h.Ext, h.Key = b[HeaderBytes:split:split], b[split:len(b):len(b)]
	return nil
}

func (k Kind) valid() bool {
	return k >= KindGet && k <= KindDeleteRange || k == KindTable || k >= KindInfo && k <= KindRecover
}

// ReadExt is the extension of a get that has a condition or a range.
type ReadExt struct {
	IfGeneration    dramnode.Generation // with FlagIfMatch
	IfNotGeneration dramnode.Generation // with FlagIfNotMatch
	Start, End      int64               // with FlagRange: End -1 is the value's end; with FlagSuffix Start is a length
}

// AppendReadExt appends e.
func AppendReadExt(dst []byte, e ReadExt) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(e.IfGeneration))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(e.IfNotGeneration))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(e.Start))
	return binary.LittleEndian.AppendUint64(dst, uint64(e.End))
}

// ParseReadExt parses the extension of a get; an empty one is the zero ReadExt.
func ParseReadExt(b []byte) (e ReadExt, err error) {
	if len(b) == 0 {
		return e, nil
	}
	if len(b) != ReadExtBytes {
		return e, malformed("read extension of %d bytes, want 0 or %d", len(b), ReadExtBytes)
	}
	return ReadExt{
		IfGeneration:    dramnode.Generation(binary.LittleEndian.Uint64(b)),
		IfNotGeneration: dramnode.Generation(binary.LittleEndian.Uint64(b[8:])),
		Start:           int64(binary.LittleEndian.Uint64(b[16:])),
		End:             int64(binary.LittleEndian.Uint64(b[24:])),
	}, nil
}

// WriteExt is the extension of a put, delete, touch or delete-range.
type WriteExt struct {
	Client       uint64 // with Counter the idempotency id, the same for every retry of one write
	Counter      uint64
	FirstUnacked uint64              // every counter below it is answered and will not be retried
	IfGeneration dramnode.Generation // with FlagIfMatch
	TTLMillis    uint64              // remaining life; 0: for ever
}

// AppendWriteExt appends e.
func AppendWriteExt(dst []byte, e WriteExt) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, e.Client)
	dst = binary.LittleEndian.AppendUint64(dst, e.Counter)
	dst = binary.LittleEndian.AppendUint64(dst, e.FirstUnacked)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(e.IfGeneration))
	return binary.LittleEndian.AppendUint64(dst, e.TTLMillis)
}

// ParseWriteExt parses what AppendWriteExt wrote.
func ParseWriteExt(b []byte) (e WriteExt, err error) {
	if len(b) != WriteExtBytes {
		return e, malformed("write extension of %d bytes, want %d", len(b), WriteExtBytes)
	}
	return WriteExt{
		Client:       binary.LittleEndian.Uint64(b),
		Counter:      binary.LittleEndian.Uint64(b[8:]),
		FirstUnacked: binary.LittleEndian.Uint64(b[16:]),
		IfGeneration: dramnode.Generation(binary.LittleEndian.Uint64(b[24:])),
		TTLMillis:    binary.LittleEndian.Uint64(b[32:]),
	}, nil
}

// ReplyExt is the extension of replies about one key.
type ReplyExt struct {
	Generation dramnode.Generation // of the value read or written; with StatusGenerationMismatch the current one
	Size       uint64              // bytes of the whole value
	TTLMillis  uint64              // remaining life; 0: for ever
	Place      uint64              // of the record in the owner's memory, with FlagPlace; 0: not told
}

// AppendReplyExt appends e; a place takes room only when it is told.
func AppendReplyExt(dst []byte, e ReplyExt) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(e.Generation))
	dst = binary.LittleEndian.AppendUint64(dst, e.Size)
	dst = binary.LittleEndian.AppendUint64(dst, e.TTLMillis)
	if e.Place != 0 {
		dst = binary.LittleEndian.AppendUint64(dst, e.Place)
	}
	return dst
}

// ParseReplyExt parses the extension of a reply; an empty one is the zero ReplyExt.
func ParseReplyExt(b []byte) (e ReplyExt, err error) {
	if len(b) == 0 {
		return e, nil
	}
	if len(b) != replyExtBytes && len(b) != ReplyExtBytes {
		return e, malformed("reply extension of %d bytes, want 0, %d or %d", len(b), replyExtBytes, ReplyExtBytes)
	}
	e = ReplyExt{
		Generation: dramnode.Generation(binary.LittleEndian.Uint64(b)),
		Size:       binary.LittleEndian.Uint64(b[8:]),
		TTLMillis:  binary.LittleEndian.Uint64(b[16:]),
	}
	if len(b) == ReplyExtBytes {
		if e.Place = binary.LittleEndian.Uint64(b[replyExtBytes:]); e.Place == 0 {
			return e, malformed("reply extension with place 0")
		}
	}
	return e, nil
}
