//go:build !race

package ring

const sizeMax, sizeStep = 128, 1
