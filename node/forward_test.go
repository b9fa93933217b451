package node

import (
	"bytes"
	"testing"

	"github.com/dramnode/dramnode/transport"
)

// A reader takes replies as a network does that reads a body before it returns.
type reader struct{ header, body []byte }

func (r *reader) Respond(header []byte, body transport.Body) error {
	r.header, r.body = append(r.header[:0], header...), append(r.body[:0], body.Bytes...)
	body.Release()
	return nil
}

// Replies that a network copies are passed on without new memory: garbage of 4 KiB for each costs a forwarding
// node a third of its time.
func TestShortRepliesArePassedOnWithoutAllocating(t *testing.T) {
	r := &reader{}
	f := &forward{later: r}
	header := []byte("header")
	for _, n := range []int{0, 64, transport.CopyBytes} {
		body := value("reply", n)
		allocs := testing.AllocsPerRun(100, func() {
			f.holders.Store(2) // as if the request's body were still being sent: f is not recycled
			f.Complete(nil, header, body, nil)
		})
		if allocs != 0 {
			t.Errorf("a reply of %d bytes allocates %v times", n, allocs)
		}
		if !bytes.Equal(r.header, header) || !bytes.Equal(r.body, body) {
			t.Errorf("a reply of %d bytes was passed on as %d bytes with the header %q", n, len(r.body), r.header)
		}
		if left := f.holders.Load(); left != 1 {
			t.Errorf("after a reply of %d bytes the forward has %d holders, want that of the request's body", n, left)
		}
	}
}
