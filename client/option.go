package client

import (
	"fmt"
	"math"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/wire"
)

// An Option changes one operation. An option that the operation does not know is an ErrInvalid.
type Option struct {
	kind optionKind
	a, b int64
}

type optionKind uint8

const (
	optIfGeneration optionKind = iota
	optIfNotGeneration
	optTTL
	optRange
	optSuffix
	optClip
	optAllowStale
)

// IfGeneration makes the operation happen only when the key has generation g; Absent stands for a key
// without value. Otherwise it fails with a *dramnode.GenerationError and nothing changes.
func IfGeneration(g dramnode.Generation) Option { return Option{kind: optIfGeneration, a: int64(g)} }

// IfAbsent makes a Put happen only when the key has no value.
func IfAbsent() Option { return IfGeneration(dramnode.Absent) }

// IfNotGeneration makes a read fail with a *dramnode.GenerationError when the key still has generation g.
func IfNotGeneration(g dramnode.Generation) Option {
	return Option{kind: optIfNotGeneration, a: int64(g)}
}

// TTL makes the value that is put disappear after d, which is rounded up to milliseconds.
func TTL(d time.Duration) Option { return Option{kind: optTTL, a: int64(d)} }

// Range reads the bytes from start to end, exclusive; -1 stands for the value's end.
func Range(start, end int64) Option { return Option{kind: optRange, a: start, b: end} }

// Suffix reads the last n bytes.
func Suffix(n int64) Option { return Option{kind: optSuffix, a: n} }

// Clip makes a Range or Suffix that lies partly or wholly outside the value yield what there is.
func Clip() Option { return Option{kind: optClip} }

// AllowStale lets a read of a replicated cluster see what any replica knows, which may be old: it is answered also where
// nodes have lost touch with the majority. Where partitions have one copy it changes nothing.
func AllowStale() Option { return Option{kind: optAllowStale} }

// asRead makes o a read with these options.
func (o *op) asRead(opts []Option) error {
	var e wire.ReadExt
	for _, opt := range opts {
		switch opt.kind {
		case optIfGeneration:
			o.flags |= wire.FlagIfMatch
			e.IfGeneration = dramnode.Generation(opt.a)
		case optIfNotGeneration:
			o.flags |= wire.FlagIfNotMatch
			e.IfNotGeneration = dramnode.Generation(opt.a)
		case optRange, optSuffix:
			if o.flags&wire.FlagRange != 0 {
				return fmt.Errorf("client: %w: two ranges in one read", dramnode.ErrInvalid)
			}
			o.flags |= wire.FlagRange
			if opt.kind == optSuffix {
				o.flags |= wire.FlagSuffix
			}
			if opt.a < 0 || opt.b < -1 || opt.kind == optRange && opt.b >= 0 && opt.b < opt.a {
				return fmt.Errorf("client: %w: byte range from %d to %d", dramnode.ErrInvalid, opt.a, opt.b)
			}
			e.Start, e.End = opt.a, opt.b
		case optClip:
			o.flags |= wire.FlagClip
		case optAllowStale:
			o.flags |= wire.FlagStale
		default:
			return fmt.Errorf("client: %w: a TTL is for writes", dramnode.ErrInvalid)
		}
	}
	if o.flags&wire.FlagClip != 0 && o.flags&wire.FlagRange == 0 {
		return fmt.Errorf("client: %w: Clip without Range or Suffix", dramnode.ErrInvalid)
	}
	if o.flags&^wire.FlagStale != 0 {
		o.extBytes = len(wire.AppendReadExt(o.ext[:0], e))
	}
	return nil
}

// writeExt returns the flags and the extension that the options of a write stand for.
func writeExt(kind wire.Kind, opts []Option) (flags uint16, e wire.WriteExt, err error) {
	for _, opt := range opts {
		switch {
		case opt.kind == optIfGeneration:
			flags |= wire.FlagIfMatch
			e.IfGeneration = dramnode.Generation(opt.a)
		case opt.kind == optTTL && kind == wire.KindPut:
			if opt.a <= 0 {
				return 0, e, fmt.Errorf("client: %w: a TTL of %v", dramnode.ErrInvalid, time.Duration(opt.a))
			}
			e.TTLMillis = millis(time.Duration(opt.a))
		default:
			return 0, e, fmt.Errorf("client: %w: this write does not take that option", dramnode.ErrInvalid)
		}
	}
	return flags, e, nil
}

func millis(d time.Duration) uint64 {
	return uint64(d/time.Millisecond) + min(1, uint64(d%time.Millisecond))
}

func ttl(millis uint64) time.Duration {
	return time.Duration(min(millis, math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond
}
