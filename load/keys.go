package load

import (
	"sync"
	"sync/atomic"
)

// Keys are the prefix and a number of keyDigits digits of keyBase, so their order is that of the
// numbers.
const (
	keyBase   = 36
	keyDigits = 5
	digits    = "0123456789abcdefghijklmnopqrstuvwxyz"

	// MaxKeys is how many keys there can be, inserted ones included.
	MaxKeys = keyBase * keyBase * keyBase * keyBase * keyBase
)

// appendKey appends key number i.
func appendKey(dst []byte, prefix string, i int) []byte {
	dst = append(dst, prefix...)
	var number [keyDigits]byte
	for at := keyDigits - 1; at >= 0; at-- {
		number[at] = digits[i%keyBase]
		i /= keyBase
	}
	return append(dst, number[:]...)
}

// A keySpace knows which key numbers exist: all below present, and those that are being inserted.
type keySpace struct {
	present atomic.Int64

	mu    sync.Mutex
	next  int
	ended map[int]struct{} // inserts that ended out of order: bounded by those under way
}

func newKeySpace(n int) *keySpace {
	k := &keySpace{next: n, ended: map[int]struct{}{}}
	k.present.Store(int64(n))
	return k
}

// size is how many keys may be read.
func (k *keySpace) size() int { return int(k.present.Load()) }

// begin returns the number of a key to insert, and false when there are no more numbers.
func (k *keySpace) begin() (int, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.next >= MaxKeys {
		return 0, false
	}
	k.next++
	return k.next - 1, true
}

// end says that the insert of key i is over. One that failed counts as present too, or else nothing
// inserted after it could ever be read.
func (k *keySpace) end(i int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended[i] = struct{}{}
	at := int(k.present.Load())
	for {
		if _, ok := k.ended[at]; !ok {
			break
		}
		delete(k.ended, at)
		at++
	}
	k.present.Store(int64(at))
}
