package control

import "time"

// A NodeInfo is what one node tells people about itself: the body of a KindInfo reply, as JSON.
type NodeInfo struct {
	Name          string            `json:"name"`
	Incarnation   string            `json:"incarnation"` // hexadecimal, since many JSON readers keep only 53 bits
	Addr          string            `json:"addr"`
	Zone          string            `json:"zone,omitempty"`
	Version       string            `json:"version"`
	ClusterName   string            `json:"cluster_name"`
	ClusterID     string            `json:"cluster_id"` // hexadecimal
	TableVersion  uint64            `json:"table_version"`
	Ready         bool              `json:"ready"`
	Leaving       bool              `json:"leaving"`
	Copies        int               `json:"copies"` // partitions of which this node has a copy in sync
	Replication   ReplicationInfo   `json:"replication"`
	Quorate       bool              `json:"quorate"`
	UptimeSeconds float64           `json:"uptime_seconds"`
	CPUSeconds    float64           `json:"cpu_seconds"` // of the whole process, user and system
	Memory        MemoryInfo        `json:"memory"`
	Records       RecordsInfo       `json:"records"`
	Entries       int               `json:"entries"`
	OwnedEntries  int               `json:"owned_entries"` // of the partitions that this node owns
	ValueBytes    int64             `json:"value_bytes"`
	Partitions    int               `json:"partitions"` // owned
	Members       int               `json:"members"`    // in the table
	Moving        int               `json:"moving"`     // partitions of the whole table that are changing hands
	Losses        uint64            `json:"losses"`     // of partitions, in the whole table
	Conflicts     uint64            `json:"conflicts"`
	Forwarded     uint64            `json:"forwarded"`
	Counters      map[string]uint64 `json:"counters"`
	Links         []LinkInfo        `json:"links"`
	Gossip        []GossipInfo      `json:"gossip"`
	Events        []Event           `json:"events"` // oldest first
	Transport     any               `json:"transport,omitempty"`
}

// An Event is something that an operator would want to know.
type Event struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// ReplicationInfo is what a node knows of the replicated control plane.
type ReplicationInfo struct {
	Mode         string  `json:"mode"`
	Replicas     int     `json:"replicas"` // wanted copies of each partition
	MinSync      int     `json:"min_sync"` // copies without which writes are refused
	OnLoss       string  `json:"on_loss"`
	LeaseSeconds float64 `json:"lease_seconds"`
	Era          uint32  `json:"era"`
	Leader       string  `json:"leader,omitempty"` // name
	Leading      bool    `json:"leading"`          // this node is the leader
	Dropped      uint64  `json:"dropped"`          // messages that came faster than they were read
	Health       *Health `json:"health,omitempty"` // the leader's view of all partitions
}

// Health says how many copies the partitions have.
type Health struct {
	Partitions      int    `json:"partitions"`
	Inactive        int    `json:"inactive"`         // do not serve yet, or are offline
	Offline         int    `json:"offline"`          // no copy has a lease
	UnderReplicated int    `json:"under_replicated"` // fewer copies with a lease than wanted
	MissingBytes    uint64 `json:"missing_bytes"`    // of the copies that are missing
	Moves           int    `json:"moves"`
	Losses          uint64 `json:"losses"`
	Unaccepted      int    `json:"unaccepted"` // partitions with losses that no operator has acknowledged
}

// MemoryInfo says where a node's memory is, in bytes.
type MemoryInfo struct {
	Limit        int64  `json:"limit"`
	Used         int64  `json:"used"`
	Asked        int64  `json:"asked"`        // by records and index; the rest of used is rounding, free slots and page descriptors
	LongestFree  int64  `json:"longest_free"` // longest value that fits
	Leased       int64  `json:"leased"`
	Reserved     int64  `json:"reserved"`
	Eviction     string `json:"eviction"`
	Evictions    uint64 `json:"evictions"`     // entries that made room for others
	EvictedBytes uint64 `json:"evicted_bytes"` // of their keys and values

	Classes []ClassInfo `json:"classes"` // that hold memory; those with a slot of 0 bytes have pages of their own
}

// RecordsInfo says what a node remembers of writes, beside its memory, so that clients may send them again.
type RecordsInfo struct {
	Bytes   int64  `json:"bytes"`
	Limit   int64  `json:"limit"`
	Refused uint64 `json:"refused"` // writes that could not have been remembered
}

// A ClassInfo is the blocks of one size.
type ClassInfo struct {
	Slot   int   `json:"slot"` // bytes
	Held   int64 `json:"held"`
	Asked  int64 `json:"asked"`
	Blocks int   `json:"blocks"`
	Slots  int   `json:"slots"` // free ones too
}

// A LinkInfo is a node's link to a peer.
type LinkInfo struct {
	Peer            string  `json:"peer"` // name; "" before the first contact
	Addr            string  `json:"addr"`
	State           string  `json:"state"`
	Transport       string  `json:"transport"`
	Fallback        string  `json:"fallback,omitempty"` // why not shared memory, with a peer on the node's host
	RoundTripMicros float64 `json:"round_trip_micros"`
	Opened          uint64  `json:"opened"` // how often it became open
	Pending         int     `json:"pending"`
	Error           string  `json:"error,omitempty"` // why it is not open
}

// A GossipInfo is a process that a node's gossip knows of.
type GossipInfo struct {
	Name        string `json:"name"`
	Incarnation string `json:"incarnation"` // hexadecimal
	Addr        string `json:"addr"`
	Alive       bool   `json:"alive"`
}
