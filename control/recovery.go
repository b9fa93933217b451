package control

// Recovery is what became of a cluster whose control plane was founded anew.
type Recovery struct {
	Era    uint32   `json:"era"`
	Nodes  []string `json:"nodes"`  // that go on
	Doubts int      `json:"doubts"` // partitions that go on with copies that are left, and may have lost acknowledged writes
	Lost   int      `json:"lost"`   // partitions of which none is left
}
