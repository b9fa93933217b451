package ucxnet

import (
	"encoding/binary"
	"fmt"

	"github.com/dramnode/dramnode/wire"
)

// An intro is the header of a side's first frame after the handshake: what does not fit a hello.
//
//	0 host u64 | 8 domain u64 | 16 pid u32 | 20 shm port u16 | 22 unshared u8 | 23 flags u8 |
//	24 name bytes u8 | 25 addr bytes u8 | 26 build bytes u8 | 27 zero, 5 bytes | name | addr | build
type intro struct {
	host     uint64   // equal on both sides: the same host; 0: unknown
	domain   uint64   // equal too: processes that can share memory
	pid      uint32   // in the domain
	shmPort  uint16   // of the sender's lobby on the loopback device, 0 when there is none for the receiver
	unshared unshared // why there is none
	required bool     // the sender wants no tcp with peers on its host
	name     string
	addr     string // where the sender can be dialled, "" for clients
	build    string
}

const (
	introFixedBytes = 32
	maxNameBytes    = 128
	maxAddrBytes    = 255
	maxBuildBytes   = 64
	introRequired   = 1 // flag
)

func appendIntro(dst []byte, i intro) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, i.host)
	dst = binary.LittleEndian.AppendUint64(dst, i.domain)
	dst = binary.LittleEndian.AppendUint32(dst, i.pid)
	dst = binary.LittleEndian.AppendUint16(dst, i.shmPort)
	dst = append(dst, byte(i.unshared), 0)
	if i.required {
		dst[len(dst)-1] = introRequired
	}
	dst = append(dst, byte(len(i.name)), byte(len(i.addr)), byte(len(i.build)), 0, 0, 0, 0, 0)
	dst = append(dst, i.name...)
	dst = append(dst, i.addr...)
	return append(dst, i.build...)
}

func parseIntro(b []byte) (i intro, err error) {
	if len(b) < introFixedBytes {
		return i, fmt.Errorf("%w: intro of %d bytes", wire.ErrMalformed, len(b))
	}
	name, addr, build := int(b[24]), int(b[25]), int(b[26])
	if name > maxNameBytes || build > maxBuildBytes || b[23]&^introRequired|b[27]|b[28]|b[29]|b[30]|b[31] != 0 || len(b) != introFixedBytes+name+addr+build {
		return i, fmt.Errorf("%w: intro of %d bytes with name %d, address %d, build %d", wire.ErrMalformed, len(b), name, addr, build)
	}
	text := b[introFixedBytes:]
	return intro{
		host:     binary.LittleEndian.Uint64(b),
		domain:   binary.LittleEndian.Uint64(b[8:]),
		pid:      binary.LittleEndian.Uint32(b[16:]),
		shmPort:  binary.LittleEndian.Uint16(b[20:]),
		unshared: unshared(b[22]),
		required: b[23] == introRequired,
		name:     string(text[:name]),
		addr:     string(text[name : name+addr]),
		build:    string(text[name+addr:]),
	}, nil
}
