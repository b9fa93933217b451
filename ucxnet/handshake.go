package ucxnet

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// The handshake is three messages of at most 64 bytes. Nothing longer may cross a UCX endpoint before
// it is connected (a coalesced message was seen to fail when UCX replayed it on shared memory), and
// nothing else is accepted before the handshake is through.
//
//	hello   dialler -> acceptor   48 bytes
//	answer  acceptor -> dialler   64 bytes: a hello and the acceptor's MAC
//	finish  dialler -> acceptor   24 bytes: the dialler's MAC
//
// The first 8 bytes are the same in every version of the protocol:
//
//	0 magic u32 | 4 version u8 | 5 step u8 | 6 role u8 | 7 status u8
//	hello, answer:  8 features u32 | 12 zero u32 | 16 cluster u64 | 24 incarnation u64 | 32 nonce | 48 MAC
//	finish:         8 MAC
const (
	helloBytes  = 48
	answerBytes = helloBytes + macBytes
	finishBytes = 8 + macBytes
	nonceBytes  = 16
	macBytes    = 16
)

const (
	stepHello uint8 = iota + 1
	stepAnswer
	stepFinish
)

// featureKey says that the sender has a cluster key and wants proof of it.
const featureKey uint32 = 1

// A refusal is why a side does not want the other; it travels in the answer.
type refusal uint8

const (
	accepted refusal = iota
	refusedVersion
	refusedCluster
	refusedKey
	refusedMalformed
	refusedRole
	refusalEnd
)

func (r refusal) Error() string {
	return [...]string{
		"accepted", "another protocol version", "another cluster name", "the cluster keys differ",
		"not a hello of ours", "unknown role", "refused",
	}[min(r, refusalEnd)]
}

// Unwrap makes every refusal an ErrNotAuthorised: trying again at once will not help.
func (r refusal) Unwrap() error { return dramnode.ErrNotAuthorised }

// A hello is what a side says of itself.
type hello struct {
	role        transport.Role
	status      refusal
	features    uint32
	cluster     uint64
	incarnation uint64
	nonce       [nonceBytes]byte
}

func appendPrefix(dst []byte, step uint8, role transport.Role, status refusal) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, wire.Magic)
	return append(dst, wire.Version, step, byte(role), byte(status))
}

func appendHello(dst []byte, step uint8, h hello) []byte {
	dst = appendPrefix(dst, step, h.role, h.status)
	dst = binary.LittleEndian.AppendUint32(dst, h.features)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, h.cluster)
	dst = binary.LittleEndian.AppendUint64(dst, h.incarnation)
	return append(dst, h.nonce[:]...)
}

// parsePrefix checks what every version shares. The status counts before the version: a peer of
// another version says so itself.
func parsePrefix(b []byte, step uint8) (transport.Role, error) {
	switch {
	case len(b) < 8 || binary.LittleEndian.Uint32(b) != wire.Magic || b[5] != step:
		return 0, refusedMalformed
	case b[4] != wire.Version:
		return 0, fmt.Errorf("%w: it speaks %d, we speak %d", refusedVersion, b[4], wire.Version)
	case b[7] != 0:
		return 0, refusal(b[7])
	case b[6] != byte(transport.RoleNode) && b[6] != byte(transport.RoleClient):
		return 0, refusedRole
	}
	return transport.Role(b[6]), nil
}

// parseHello parses the first helloBytes of a hello or answer.
func parseHello(b []byte, step uint8) (h hello, err error) {
	if h.role, err = parsePrefix(b, step); err != nil {
		return hello{}, err
	}
	if len(b) < helloBytes || binary.LittleEndian.Uint32(b[12:]) != 0 {
		return hello{}, refusedMalformed
	}
	h.features = binary.LittleEndian.Uint32(b[8:])
	h.cluster = binary.LittleEndian.Uint64(b[16:])
	h.incarnation = binary.LittleEndian.Uint64(b[24:])
	copy(h.nonce[:], b[32:])
	if h.incarnation == 0 || h.features&^featureKey != 0 {
		return hello{}, refusedMalformed
	}
	return h, nil
}

// mac proves to the other side that we know key. The label keeps one side's proof from being played
// back as the other's.
func mac(key []byte, label string, dialler, acceptor hello) (m [macBytes]byte) {
	if len(key) == 0 {
		return m
	}
	h := hmac.New(sha256.New, key)
	h.Write([]byte(label))
	h.Write([]byte{wire.Version})
	h.Write(appendHello(nil, stepHello, dialler))
	h.Write(appendHello(nil, stepAnswer, acceptor))
	copy(m[:], h.Sum(nil))
	return m
}

const (
	acceptorLabel = "dramnode acceptor"
	diallerLabel  = "dramnode dialler"
)

// A handshake is one side's progress. It is pure: bytes in, bytes out.
type handshake struct {
	dials  bool
	key    []byte
	mine   hello
	theirs hello
	step   uint8 // the step expected from the peer; 0 when the handshake is through
}

func newHandshake(id transport.Identity, dials bool, nonce [nonceBytes]byte) handshake {
	h := handshake{dials: dials, key: id.Key, step: stepHello, mine: hello{
		role: id.Role, cluster: clusterHash(id.Cluster), incarnation: id.Incarnation, nonce: nonce,
	}}
	if len(id.Key) > 0 {
		h.mine.features |= featureKey
	}
	if dials {
		h.step = stepAnswer
	}
	return h
}

func clusterHash(name string) uint64 { return xxhash.Sum64String(name) }

// start is the dialler's first message.
func (h *handshake) start() []byte { return appendHello(nil, stepHello, h.mine) }

// done reports whether the peer has proved itself.
func (h *handshake) done() bool { return h.step == 0 }

// next takes the peer's message and returns ours, if any. With an error the handshake has failed; the
// message, if any, is to be sent still, since it tells the peer why.
func (h *handshake) next(b []byte) (reply []byte, err error) {
	switch h.step {
	case stepHello:
		return h.answer(b)
	case stepAnswer:
		return h.finish(b)
	case stepFinish:
		return nil, h.verify(b)
	}
	return nil, refusedMalformed
}

func (h *handshake) answer(b []byte) ([]byte, error) {
	theirs, err := parseHello(b, stepHello)
	if err == nil && len(b) != helloBytes {
		err = refusedMalformed
	}
	if err == nil {
		err = h.acceptable(theirs)
	}
	if err != nil {
		return appendHello(nil, stepAnswer, hello{role: h.mine.role, status: refusalOf(err), incarnation: h.mine.incarnation}), err
	}
	h.theirs, h.step = theirs, stepFinish
	m := mac(h.key, acceptorLabel, h.theirs, h.mine)
	return append(appendHello(nil, stepAnswer, h.mine), m[:]...), nil
}

func (h *handshake) finish(b []byte) ([]byte, error) {
	theirs, err := parseHello(b, stepAnswer)
	if err != nil {
		return nil, err
	}
	if len(b) != answerBytes {
		return nil, refusedMalformed
	}
	if err := h.acceptable(theirs); err != nil {
		return nil, err
	}
	if want := mac(h.key, acceptorLabel, h.mine, theirs); !hmac.Equal(b[helloBytes:], want[:]) {
		return nil, refusedKey
	}
	h.theirs, h.step = theirs, 0
	m := mac(h.key, diallerLabel, h.mine, theirs)
	return append(appendPrefix(nil, stepFinish, h.mine.role, accepted), m[:]...), nil
}

func (h *handshake) verify(b []byte) error {
	role, err := parsePrefix(b, stepFinish)
	if err != nil {
		return err
	}
	want := mac(h.key, diallerLabel, h.theirs, h.mine)
	if len(b) != finishBytes || role != h.theirs.role {
		return refusedMalformed
	}
	if !hmac.Equal(b[8:], want[:]) {
		return refusedKey
	}
	h.step = 0
	return nil
}

// acceptable compares what both sides say. A side with a key refuses one without, and the reverse:
// who asks for no proof would take an impostor's word.
func (h *handshake) acceptable(theirs hello) error {
	if theirs.cluster != h.mine.cluster {
		return refusedCluster
	}
	if theirs.features&featureKey != h.mine.features&featureKey {
		return refusedKey
	}
	if bytes.Equal(theirs.nonce[:], h.mine.nonce[:]) {
		return refusedMalformed // our own hello, played back
	}
	return nil
}

func refusalOf(err error) refusal {
	for r := refusedVersion; r < refusalEnd; r++ {
		if err == r {
			return r
		}
		if u, ok := err.(interface{ Unwrap() error }); ok && u.Unwrap() == error(r) {
			return r
		}
	}
	return refusedMalformed
}
