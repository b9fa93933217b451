// Package wire lays out what crosses the network: messages, frames and the fields of each operation.
//
// It is pure: it encodes to and from byte slices, knows no connection, and keeps no slice it is given.
// All integers are little-endian, layouts are fixed, reserved bits and bytes must be zero, and
// malformed input is an error that wraps ErrMalformed, never a panic.
//
// A message is one UCX active message: a 24-byte header, then frames. Small frames to one peer share
// a message. A frame with a large body travels alone: its body is the data part of the active message
// (eager or rendezvous), everything else the header part. A longer body comes in pieces, in order, one
// message each, between which other messages go.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Version of the protocol. Peers of another version are refused in the hello.
const Version = 1

// Magic opens every message and hello: "DRAM" in memory order.
const Magic uint32 = 'D' | 'R'<<8 | 'A'<<16 | 'M'<<24

const (
	MessageHeaderBytes = 24
	FrameHeaderBytes   = 16
	// BatchBytes is how long a message of short coalesced frames becomes. Readers set no limit.
	BatchBytes = 8000
)

var (
	// ErrMalformed is wrapped by every error about bytes that cannot be a message of ours.
	ErrMalformed = errors.New("wire: malformed")
	// ErrCluster is returned when a message belongs to another cluster.
	ErrCluster = errors.New("wire: wrong cluster")
	// ErrVersion is returned when a message has another protocol version.
	ErrVersion = errors.New("wire: wrong version")
	// ErrChecksum is returned when a message does not match its CRC32C.
	ErrChecksum = errors.New("wire: checksum mismatch")
)

// Castagnoli is the polynomial of every checksum, on the wire and in memory (RFC 3720, appendix B.4).
var Castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum returns the CRC32C of b.
func Checksum(b []byte) uint32 { return crc32.Checksum(b, Castagnoli) }

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// A FrameKind says what a frame is for the transport.
type FrameKind uint8

const (
	FrameRequest FrameKind = 1
	FrameReply   FrameKind = 2
	FramePing    FrameKind = 3 // ID is the sender's clock, echoed by the pong
	FramePong    FrameKind = 4
	FrameRefused FrameKind = 5 // the receiver could not take the request with this ID: not applied
	FrameIntro   FrameKind = 6 // the header is an Intro; first frame of each side after the hello
)

// Flags of a frame.
const (
	FrameSeparate uint8 = 1 // the body, or a piece of it, is the data part of the active message
	FramePiece    uint8 = 2 // with FrameSeparate: not the first piece; kind and ID are those of the first
)

// A Frame is one request, reply or transport notice within a message.
type Frame struct {
	ID        uint64
	Kind      FrameKind
	Flags     uint8
	Header    []byte
	Body      []byte // nil when the body is separate
	BodyBytes int    // from here on: more than a separate data part has when further pieces follow
}

// FrameBytes is the space a frame takes in a message, padded to 8 bytes. A separate body counts 0.
func FrameBytes(headerBytes, inlineBodyBytes int) int {
	return (FrameHeaderBytes + headerBytes + inlineBodyBytes + 7) &^ 7
}

// AppendMessage appends a message header to dst, to be completed by SealMessage after the frames.
func AppendMessage(dst []byte, cluster uint64) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, Magic)
	dst = append(dst, Version, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, cluster)
	return append(dst, 0, 0, 0, 0, 0, 0, 0, 0)
}

// AppendFrame appends f. With FrameSeparate only BodyBytes is written, else Body.
func AppendFrame(dst []byte, f *Frame) []byte {
	bodyBytes := len(f.Body)
	if f.Flags&FrameSeparate != 0 {
		bodyBytes = f.BodyBytes
	}
	dst = binary.LittleEndian.AppendUint64(dst, f.ID)
	dst = append(dst, byte(f.Kind), f.Flags)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(f.Header)))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(bodyBytes))
	dst = append(dst, f.Header...)
	inline := 0
	if f.Flags&FrameSeparate == 0 {
		dst = append(dst, f.Body...)
		inline = len(f.Body)
	}
	var zeros [8]byte
	used := FrameHeaderBytes + len(f.Header) + inline
	return append(dst, zeros[:FrameBytes(len(f.Header), inline)-used]...)
}

// SealMessage writes the frame count and the checksum into message, which starts with its header.
func SealMessage(message []byte, frames int) {
	binary.LittleEndian.PutUint16(message[6:], uint16(frames))
	binary.LittleEndian.PutUint32(message[16:], messageChecksum(message))
}

func messageChecksum(message []byte) uint32 {
	sum := crc32.Update(0, Castagnoli, message[:16])
	return crc32.Update(sum, Castagnoli, message[MessageHeaderBytes:])
}

// A MessageReader walks the frames of one message without copying.
type MessageReader struct {
	rest     []byte
	left     int
	separate int // bytes of the data part, -1 when there is none
}

// ReadMessage checks the header and checksum of message, which is the header part (or, for coalesced
// frames, the whole) of an active message. separateBytes is the length of its data part, -1 for none.
func ReadMessage(message []byte, cluster uint64, separateBytes int) (MessageReader, error) {
	if len(message) < MessageHeaderBytes {
		return MessageReader{}, malformed("message of %d bytes, want at least %d", len(message), MessageHeaderBytes)
	}
	if m := binary.LittleEndian.Uint32(message); m != Magic {
		return MessageReader{}, malformed("magic %#x, want %#x", m, Magic)
	}
	if v := message[4]; v != Version {
		return MessageReader{}, fmt.Errorf("%w: %d, want %d", ErrVersion, v, Version)
	}
	if message[5] != 0 || binary.LittleEndian.Uint32(message[20:]) != 0 {
		return MessageReader{}, malformed("reserved bytes of the message header are not zero")
	}
	if c := binary.LittleEndian.Uint64(message[8:]); c != cluster {
		return MessageReader{}, fmt.Errorf("%w: %#x, want %#x", ErrCluster, c, cluster)
	}
	if got, want := messageChecksum(message), binary.LittleEndian.Uint32(message[16:]); got != want {
		return MessageReader{}, fmt.Errorf("%w: %#x, want %#x", ErrChecksum, got, want)
	}
	count := int(binary.LittleEndian.Uint16(message[6:]))
	if count == 0 {
		return MessageReader{}, malformed("message without frames")
	}
	if separateBytes >= 0 && count != 1 {
		return MessageReader{}, malformed("%d frames share a message with a separate body", count)
	}
	return MessageReader{rest: message[MessageHeaderBytes:], left: count, separate: separateBytes}, nil
}

// Next makes f the next frame; its slices point into the message. ok is false after the last frame. Without a frame, f is anything.
func (r *MessageReader) Next(f *Frame) (ok bool, err error) {
	if r.left == 0 {
		if len(r.rest) != 0 {
			return false, malformed("%d bytes after the last frame", len(r.rest))
		}
		return false, nil
	}
	b := r.rest
	if len(b) < FrameHeaderBytes {
		return false, malformed("frame header of %d bytes", len(b))
	}
	f.ID = binary.LittleEndian.Uint64(b)
	f.Kind, f.Flags = FrameKind(b[8]), b[9]
	f.BodyBytes = int(binary.LittleEndian.Uint32(b[12:]))
	if f.Kind < FrameRequest || f.Kind > FrameIntro {
		return false, malformed("frame kind %d", f.Kind)
	}
	if f.Flags&^(FrameSeparate|FramePiece) != 0 || f.Flags == FramePiece {
		return false, malformed("frame flags %#x", f.Flags)
	}
	headerBytes, inline := int(binary.LittleEndian.Uint16(b[10:])), f.BodyBytes
	if separate := f.Flags&FrameSeparate != 0; separate != (r.separate >= 0) || separate && f.BodyBytes < r.separate {
		return false, malformed("frame announces %d separate=%v body bytes, the message carries %d", f.BodyBytes, separate, r.separate)
	} else if separate {
		inline = 0
	}
	if inline < 0 || inline > len(b) { // where int has 32 bits, their sum could wrap
		return false, malformed("frame with %d body bytes in %d", uint32(inline), len(b))
	}
	size := FrameBytes(headerBytes, inline)
	if size > len(b) {
		return false, malformed("frame of %d bytes in %d", size, len(b))
	}
	end := FrameHeaderBytes + headerBytes + inline
	if !allZero(b[end:size]) {
		return false, malformed("padding is not zero")
	}
	f.Header = b[FrameHeaderBytes : FrameHeaderBytes+headerBytes : FrameHeaderBytes+headerBytes]
	f.Body = nil
	if f.Flags&FrameSeparate == 0 {
		f.Body = b[FrameHeaderBytes+headerBytes : end : end]
	}
	r.rest, r.left = b[size:], r.left-1
	return true, nil
}
