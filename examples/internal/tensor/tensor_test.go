package tensor

import (
	"fmt"
	"testing"
)

func TestTensor(t *testing.T) {
	want := Matrix{{1, 2, 3}, {4, 5, -0.5}}
	b := want.Append(nil)
	got, err := Parse(b)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	for _, bad := range [][]byte{nil, b[:7], b[:8], b[:len(b)-1], append(b, 0), {0, 0, 0, 0, 1, 0, 0, 0}, {255, 255, 255, 255, 255, 255, 255, 255}} {
		if m, err := Parse(bad); err == nil {
			t.Errorf("%x became %v", bad, m)
		}
	}
}
