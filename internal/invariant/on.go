//go:build invariants || race

package invariant

// Enabled says whether this build checks what is too costly to check always.
const Enabled = true

// Poison overwrites b, so that a reader that kept it after it was freed sees 0xCC and not plausible bytes.
func Poison(b []byte) {
	for i := range b {
		b[i] = 0xCC
	}
}
