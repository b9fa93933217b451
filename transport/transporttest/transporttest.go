// Package transporttest is the contract of package transport as a test suite. Every network runs all of it.
//
// A case opens networks, lets them talk over real time and checks what the contract promises, never how
// fast. All memory that a case lends to a network is overwritten on release, so a network that reads it
// later is found out by its contents.
package transporttest

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/dramnode/dramnode/transport"
)

// Config says what network a case needs.
type Config struct {
	Identity transport.Identity
	Listen   bool
	Addr     string // with Listen: the address to take, which an earlier network had; "" for any
	Handler  transport.Handler
	Events   transport.Events
	Timing   transport.Timing
}

// Open returns a network that does not run yet. The networks of one test can reach each other.
type Open func(t *testing.T, c Config) transport.Network

// Run runs the suite on the networks that open returns.
func Run(t *testing.T, open func(t *testing.T, c Config) transport.Network) {
	cases := []struct {
		name string
		run  func(*testing.T, Open)
	}{
		{"Echo", testEcho},
		{"OneWayBodies", testOneWayBodies},
		{"Headers", testHeaders},
		{"ConcurrentCallers", testConcurrentCallers},
		{"Order", testOrder},
		{"CallFromComplete", testCallFromComplete},
		{"BothWays", testBothWays},
		{"Identity", testIdentity},
		{"Cookie", testCookie},
		{"ReplyFromScratch", testReplyFromScratch},
		{"SecondReply", testSecondReply},
		{"LateReply", testLateReply},
		{"ReplyToGonePeer", testReplyToGonePeer},
		{"RefusedPlace", testRefusedPlace},
		{"RefusedReplyBody", testRefusedReplyBody},
		{"DetachedReplies", testDetachedReplies},
		{"HeldReplies", testHeldReplies},
		{"Flood", testFlood},
		{"InvalidAddress", testInvalidAddress},
		{"InvalidFrames", testInvalidFrames},
		{"Regions", testRegions},
		{"Nobody", testNobody},
		{"LinkClose", testLinkClose},
		{"PeerCloses", testPeerCloses},
		{"StopUnderLoad", testStopUnderLoad},
		{"Sums", testSums},
		{"CutOff", testCutOff},
		{"Reconnect", testReconnect},
		{"Refused", testRefused},
		{"RunEnds", testRunEnds},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			t.Cleanup(func() { goleak.VerifyNone(t, before) })
			c.run(t, open)
		})
	}
}
