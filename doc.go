// Package dramnode pools the DRAM of several machines into one key-value store over UCX.
//
// The root package is a leaf: it holds the words that every other package shares, which are the
// errors, the limits and the generation. The Go client is package client, the server is package
// node, and ARCHITECTURE.md is the map of the rest.
package dramnode
