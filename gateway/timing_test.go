package gateway_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/dramnode/dramnode/gateway/gatewaytest"
)

// What an operation on a key of this node costs a face: alone, and in a batch of 64.
func BenchmarkInside(b *testing.B) {
	c := gatewaytest.NewCluster(b, 1, 64<<20)
	inside, ctx := c.Inside(0), context.Background()
	var keys [][]byte
	for i := range 64 {
		keys = append(keys, fmt.Appendf(nil, "key:%012d", i))
	}
	value := make([]byte, 64)
	for _, size := range []int{1, 64} {
		batch := inside.NewBatch()
		run := func(name string, add func(key []byte)) {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					add(keys[i%64])
					if i%size == size-1 {
						batch.Do(ctx)
						batch.Reset()
					}
				}
				batch.Do(ctx)
				batch.Reset()
			})
		}
		run("put", func(key []byte) { batch.Put(key, value) })
		run("get", func(key []byte) { batch.Get(key) })
	}
}
