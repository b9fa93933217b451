package invariant

import "testing"

func TestPoison(t *testing.T) {
	b := []byte{1, 2, 3}
	Poison(b[1:2])
	want := byte(2)
	if Enabled {
		want = 0xCC
	}
	if b[0] != 1 || b[1] != want || b[2] != 3 {
		t.Errorf("Poison changed % x, want only the middle byte to be %x", b, want)
	}
}
