//go:build race

package ring

// The sizes that TestTargetsEverySize tries are fewer here: with the race detector all take minutes.
const sizeMax, sizeStep = 64, 9
