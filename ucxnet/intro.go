package ucxnet

import (
	"encoding/binary"
	"fmt"

	"github.com/dramnode/dramnode/wire"
)

// An intro is the header of a side's first frame after the handshake: what does not fit a hello.
//
//	0 host u64 | 8 shm port u16 | 10 name bytes u8 | 11 addr bytes u8 | 12 build bytes u8 | 13 zero, 3 bytes | name | addr | build
type intro struct {
	host    uint64 // equal on both sides: they may share memory; 0: unknown
	shmPort uint16 // of the shm rail's listener on the same IP, 0 when there is none
	name    string
	addr    string // where the sender can be dialled, "" for clients
	build   string
}

const (
	introFixedBytes = 16
	maxNameBytes    = 128
	maxAddrBytes    = 255
	maxBuildBytes   = 64
)

func appendIntro(dst []byte, i intro) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, i.host)
	dst = binary.LittleEndian.AppendUint16(dst, i.shmPort)
	dst = append(dst, byte(len(i.name)), byte(len(i.addr)), byte(len(i.build)), 0, 0, 0)
	dst = append(dst, i.name...)
	dst = append(dst, i.addr...)
	return append(dst, i.build...)
}

func parseIntro(b []byte) (i intro, err error) {
	if len(b) < introFixedBytes {
		return i, fmt.Errorf("%w: intro of %d bytes", wire.ErrMalformed, len(b))
	}
	name, addr, build := int(b[10]), int(b[11]), int(b[12])
	if name > maxNameBytes || build > maxBuildBytes || b[13]|b[14]|b[15] != 0 || len(b) != introFixedBytes+name+addr+build {
		return i, fmt.Errorf("%w: intro of %d bytes with name %d, address %d, build %d", wire.ErrMalformed, len(b), name, addr, build)
	}
	text := b[introFixedBytes:]
	return intro{
		host:    binary.LittleEndian.Uint64(b),
		shmPort: binary.LittleEndian.Uint16(b[8:]),
		name:    string(text[:name]),
		addr:    string(text[name : name+addr]),
		build:   string(text[name+addr:]),
	}, nil
}
