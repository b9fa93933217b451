// Package tensor is how the examples store a dense array of float32: its shape, then its elements in
// C order, all little-endian.
package tensor

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Key is where the examples keep their tensor.
const Key = "tensor:weights"

// A Matrix is a tensor of rank 2.
type Matrix [][]float32

// Append appends the encoding of m, whose rows have the same length.
func (m Matrix) Append(dst []byte) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, uint32(len(m)))
	dst = le.AppendUint32(dst, uint32(len(m[0])))
	for _, row := range m {
		for _, x := range row {
			dst = le.AppendUint32(dst, math.Float32bits(x))
		}
	}
	return dst
}

// Parse is the inverse of Append.
func Parse(b []byte) (Matrix, error) {
	le := binary.LittleEndian
	if len(b) < 8 {
		return nil, fmt.Errorf("a tensor of %d bytes", len(b))
	}
	rows, columns := uint64(le.Uint32(b)), uint64(le.Uint32(b[4:]))
	if b = b[8:]; rows == 0 || columns == 0 || uint64(len(b))/4/rows != columns || uint64(len(b)) != 4*rows*columns {
		return nil, fmt.Errorf("a tensor of shape %dx%d with %d bytes", rows, columns, len(b))
	}
	m := make(Matrix, rows)
	for i := range m {
		m[i] = make([]float32, columns)
		for j := range m[i] {
			m[i][j] = math.Float32frombits(le.Uint32(b))
			b = b[4:]
		}
	}
	return m, nil
}
