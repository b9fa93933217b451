package tsgrpc

import (
	"encoding/binary"
	"fmt"
	"io"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/dramnode/dramnode"
	pb "github.com/dramnode/dramnode/gateway/tsgrpc/kvstorepb"
)

// A codec is that of protobuf. Parts of values pass it without a copy.
type codec struct{}

// Name implements encoding.CodecV2.
func (codec) Name() string { return "proto" }

// A message is one that is received. What is wrong with it is the sender's fault, so its error is kept for the
// request, which knows how to say so.
type message struct {
	to  proto.Message
	err error
}

// A valuePart is a message of a read: first, nil or the fields before the value, and a part of the value.
type valuePart struct {
	first *pb.ReadResponse
	bytes []byte
	from  *lease // whose memory bytes are; nil: they are copied
}

// A writePart is a message of a write. Its value stays in the memory that the transport has received it into,
// until it is released.
type writePart struct {
	key, condition []byte
	value          span
	size           int // of the message
	err            error
}

// A span is a part of a value, bytes from at on in what was received; or a copy of one, or of several.
type span struct {
	in        mem.BufferSlice
	at, bytes int
	copied    []byte
}

// The fields of messages that are not left to package proto.
const (
	fieldKey       = 1 // of WriteRequest
	fieldCondition = 2
	fieldWritten   = 3
	fieldRead      = 4 // of ReadResponse, the part of the value
)

// Marshal implements encoding.CodecV2.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	switch v := v.(type) {
	case *valuePart:
		return v.marshal()
	case proto.Message:
		b, err := proto.Marshal(v)
		return mem.BufferSlice{mem.SliceBuffer(b)}, err
	}
	return nil, fmt.Errorf("tsgrpc: a message of type %T", v)
}

func (p *valuePart) marshal() (mem.BufferSlice, error) {
	b := make([]byte, 0, 128)
	if p.first != nil {
		var err error
		if b, err = (proto.MarshalOptions{}).MarshalAppend(b, p.first); err != nil {
			return nil, err
		}
	}
	if len(p.bytes) == 0 {
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	b = protowire.AppendTag(b, fieldRead, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(len(p.bytes)))
	if p.from == nil {
		return mem.BufferSlice{mem.SliceBuffer(append(b, p.bytes...))}, nil
	}
	return mem.BufferSlice{mem.SliceBuffer(b), p.from.part(p.bytes)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch v := v.(type) {
	case *writePart:
		v.unmarshal(data)
		return nil
	case *message:
		if err := proto.Unmarshal(data.Materialize(), v.to); err != nil {
			v.err = malformed(err)
		}
		return nil
	}
	return fmt.Errorf("tsgrpc: a message of type %T", v)
}

func malformed(err error) error {
	return fmt.Errorf("%w: the message is malformed: %w", dramnode.ErrInvalid, err)
}

// fragmentBytes is how long the pieces of a message must be on average so that they are kept: short ones cost
// more than they hold.
const fragmentBytes = 4 << 10

// unmarshal reads a message as clients write it, and leaves all others to package proto.
func (p *writePart) unmarshal(data mem.BufferSlice) {
	*p = writePart{size: data.Len()}
	if p.size >= fragmentBytes*len(data) && p.scan(data) {
		return
	}
	p.key, p.condition, p.value = nil, nil, span{}
	var m pb.WriteRequest
	if err := proto.Unmarshal(data.Materialize(), &m); err != nil {
		p.err = malformed(err)
		return
	}
	p.key, p.condition = m.Key, m.GenerationIfEqual
	p.value.copied = m.ValuePart
	p.value.bytes = len(m.ValuePart)
}

// scan reads a message whose fields are known and well-formed, and reports false for any other.
func (p *writePart) scan(data mem.BufferSlice) bool {
	r := data.Reader()
	defer r.Close()
	for r.Remaining() > 0 {
		tag, err := r.ReadByte()
		if err != nil {
			return false
		}
		n, err := binary.ReadUvarint(r)
		if err != nil || n > uint64(r.Remaining()) {
			return false
		}
		bytes := int(n)
		switch tag {
		case fieldKey<<3 | byte(protowire.BytesType):
			p.key, err = short(r, bytes)
		case fieldCondition<<3 | byte(protowire.BytesType):
			p.condition, err = short(r, bytes)
		case fieldWritten<<3 | byte(protowire.BytesType):
			p.value.at, p.value.bytes = p.size-r.Remaining(), bytes
			_, err = r.Discard(bytes)
		default:
			return false
		}
		if err != nil {
			return false
		}
	}
	data.Ref()
	p.value.in = data
	return true
}

// short copies a field.
func short(r io.Reader, bytes int) ([]byte, error) {
	b := make([]byte, bytes)
	_, err := io.ReadFull(r, b)
	return b, err
}

// copyTo copies the span to the beginning of dst and returns the rest.
func (s span) copyTo(dst []byte) []byte {
	if s.in == nil {
		return dst[copy(dst, s.copied):]
	}
	r := s.in.Reader()
	defer r.Close()
	_, err := r.Discard(s.at)
	if err == nil {
		_, err = io.ReadFull(r, dst[:s.bytes])
	}
	if err != nil {
		panic(fmt.Sprintf("tsgrpc: a span of %d bytes from %d on ends early: %v", s.bytes, s.at, err)) // scan has seen them
	}
	return dst[s.bytes:]
}

func (s span) release() { s.in.Free() }
