// Package cluster holds the stories: real dramnode processes, as a user starts them, under what happens
// to machines. They run on loopback, in network namespaces (so that traffic between hosts is real tcp
// and a cut is a real cut), and, by scripts/compose-smoke.sh, in containers.
//
// Every story is watched by a driver: a process of its own that writes and reads through the Go client
// and checks each byte that it gets back against what it knows it wrote.
package cluster
