package control

import (
	"encoding/binary"
	"fmt"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/ring"
)

// ProposalKind says what a proposal asks for.
type ProposalKind uint8

const (
	ProposeJoin  ProposalKind = 1 // Member wants to become one
	ProposeLeave ProposalKind = 2 // Member.Incarnation wants to leave
	ProposeDone  ProposalKind = 3 // the targets of Moves have everything
	ProposeAbort ProposalKind = 4 // the sources of Moves gave up
)

// A Proposal is a request to the publisher.
type Proposal struct {
	Kind     ProposalKind
	Member   Member
	MaxValue uint32      // with ProposeJoin
	Settings ring.Config // with ProposeJoin: members whose settings differ are refused
	Moves    []Move
}

const maxProposalMoves = 4096

// Append encodes p.
func (p *Proposal) Append(dst []byte) []byte {
	dst = append(dst, byte(p.Kind))
	dst = p.Member.append(dst)
	if p.Kind == ProposeJoin {
		dst = binary.LittleEndian.AppendUint32(dst, p.MaxValue)
		dst = p.Settings.Append(dst)
		return dst
	}
	for _, m := range p.Moves {
		dst = binary.LittleEndian.AppendUint16(dst, uint16(m.Partition))
		dst = binary.LittleEndian.AppendUint64(dst, m.MoveID)
	}
	return dst
}

// ParseProposal decodes what Append wrote and keeps no part of b.
func ParseProposal(b []byte) (p Proposal, err error) {
	d := decoder{b: b}
	p.Kind = ProposalKind(d.take(1)[0])
	p.Member = d.member()
	if d.err == nil && (p.Kind < ProposeJoin || p.Kind > ProposeAbort) {
		d.err = fmt.Errorf("%w: proposal kind %d", ErrTable, p.Kind)
	}
	if d.err == nil {
		d.err = checkMember(p.Member)
	}
	if p.Kind == ProposeJoin {
		p.MaxValue = d.u32()
		if d.err == nil {
			p.Settings, d.err = ring.ParseConfig(append([]byte(nil), d.b...))
		}
		return p, d.err
	}
	if d.err == nil && (len(d.b)%10 != 0 || len(d.b)/10 > maxProposalMoves) {
		d.err = fmt.Errorf("%w: proposal with %d bytes of moves", ErrTable, len(d.b))
	}
	for d.err == nil && len(d.b) > 0 {
		p.Moves = append(p.Moves, Move{Partition: ring.Partition(d.u16()), MoveID: d.u64()})
	}
	return p, d.err
}

// A probe asks a peer directly, over UCX, whether it agrees that the prober may publish.
type probe struct {
	ClusterID uint64
	Version   uint64 // of the prober's table
	Publisher uint64 // the prober's incarnation
}

func (p probe) append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, p.ClusterID)
	dst = binary.LittleEndian.AppendUint64(dst, p.Version)
	return binary.LittleEndian.AppendUint64(dst, p.Publisher)
}

func parseProbe(b []byte) (p probe, err error) {
	d := decoder{b: b}
	p = probe{ClusterID: d.u64(), Version: d.u64(), Publisher: d.u64()}
	if d.err == nil && len(d.b) != 0 {
		d.err = fmt.Errorf("%w: %d bytes after a probe", ErrTable, len(d.b))
	}
	return p, d.err
}

// A vote is the answer to a probe.
type vote struct {
	Version  uint64   // of the voter's table, 0 when it has none
	Agree    bool     // the voter knows no member before the prober that it reaches
	Contacts []uint64 // incarnations that the voter reaches
}

func (v vote) append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, v.Version)
	var agree byte
	if v.Agree {
		agree = 1
	}
	dst = append(dst, agree)
	for _, c := range v.Contacts {
		dst = binary.LittleEndian.AppendUint64(dst, c)
	}
	return dst
}

func parseVote(b []byte) (v vote, err error) {
	d := decoder{b: b}
	v.Version = d.u64()
	agree := d.take(1)[0]
	if v.Agree = agree == 1; d.err == nil && agree > 1 {
		d.err = fmt.Errorf("%w: vote %d", ErrTable, agree)
	}
	if d.err == nil && (len(d.b)%8 != 0 || len(d.b)/8 > maxMembers) {
		d.err = fmt.Errorf("%w: vote with %d bytes of contacts", ErrTable, len(d.b))
	}
	for d.err == nil && len(d.b) > 0 {
		v.Contacts = append(v.Contacts, d.u64())
	}
	return v, d.err
}

// ErrRetired is returned when the cluster has given this incarnation up: its entries count as lost,
// and the process may come back only as a new incarnation, with nothing in memory.
var ErrRetired = fmt.Errorf("%w: this incarnation was declared lost", dramnode.ErrPartitionLost)
